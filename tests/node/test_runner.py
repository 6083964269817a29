"""A real runner with a real Blender: what ends a task, and that another Blender goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blender_harness import inner_pid, inputs_of
from one_job_farm import OneJobFarm

from framefarm.core.failure_codes import CAUSES
from framefarm.protocol import node as msg

pytestmark = pytest.mark.blender
Open = Callable[..., OneJobFarm]
UID = 72_000 + os.getpid() % 1000
"""Of this test run alone: what is left behind is looked for by it."""


@pytest.fixture
def farm(tmp_path: Path, failing_scenes: Path, package: msg.Package) -> Iterator[Open]:
    opened: list[OneJobFarm] = []

    def start(scene: str = "slow", gpus: int = 0, **order: object) -> OneJobFarm:
        said = {
            "job": "j", "account": "a", "package": package, "scene_path": f"/film/{scene}.blend",
            "stem": scene, "render": msg.RenderSettings(), "environment": {}, "fresh_scene_per_task": False,
            "allow_scripts": True, "staging": str(tmp_path / "staging"), "logs": str(tmp_path / "logs"),
            "lease_seconds": 6.0, "disconnected_seconds": 60.0, "gathering_bytes": 1 << 30,
        }  # fmt: skip
        one = OneJobFarm(
            tmp_path, msg.SessionConfig(**{**said, **order}), inputs_of(failing_scenes, "/film"), UID, gpus
        )
        opened.append(one)
        return one

    yield start
    for one in opened:
        one.end()


def blender_of(farm: OneJobFarm) -> int:
    """The Blender in work, which has reported progress."""
    farm.wait(lambda: farm.progress)
    assert farm.runner is not None
    return inner_pid(farm.runner.pid)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def goes_on(farm: OneJobFarm, attempt: str) -> None:
    """The next task is rendered, by another Blender; nothing is left behind."""
    assert farm.ended(attempt).outcome == "success"
    assert len(farm.heard(msg.BlenderOpened)) == 2
    assert [f.frame for f in farm.heard(msg.FrameSaved) if f.attempt == attempt] == [6]
    assert farm.over() == "ended"
    assert left(UID) == []


def left(uid: int) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"Uid:\t{uid}\t" in (process / "status").read_text():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_task_timed_out_by_the_runners_own_clock(farm: Open) -> None:
    one = farm(max_task_runtime_seconds=3.0)
    one.give("a", 1)
    one.give("b", 6)
    one.start()
    pid = blender_of(one)
    ended = one.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("timed_out", "task_timed_out", 1)
    assert ended.message is not None and "3 seconds" in ended.message and "in frame 1" in ended.message
    assert ended.ended_ms - ended.started_ms >= 3000
    goes_on(one, "b")
    assert gone(pid)


def test_no_progress_of_a_blender_that_ignores_everything(farm: Open) -> None:
    one = farm(no_progress_seconds=4.0)
    one.give("a", 1)
    one.give("b", 6)
    one.start()
    pid = blender_of(one)
    os.kill(pid, signal.SIGSTOP)
    ended = one.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("timed_out", "no_progress", 1)
    assert ended.message is not None and ended.message.endswith(CAUSES["no_progress"].remedy)
    goes_on(one, "b")
    assert gone(pid)


def test_progress_within_the_frame_reaches_the_farm(farm: Open) -> None:
    one = farm()
    one.give("a", 2)
    one.start()
    one.wait(lambda: any(p.fraction > 0 for p in one.progress))
    assert {(p.attempt, p.frame) for p in one.progress} == {("a", 2)}
    fractions = [p.fraction for p in one.progress]
    assert fractions == sorted(fractions) and all(0 <= f <= 1 for f in fractions)


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGKILL, "killed_outside"), (signal.SIGSEGV, "crashed")]
)
def test_blender_killed_is_replaced(farm: Open, number: signal.Signals, cause: str) -> None:
    one = farm()
    one.give("a", 1)
    one.give("b", 6)
    one.start()
    os.kill(blender_of(one), number)
    ended = one.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("failed", cause, 1)
    goes_on(one, "b")


def test_a_cancelled_frames_blender_is_gone(farm: Open) -> None:
    one = farm()
    one.give("a", 1)
    one.start()
    pid = blender_of(one)
    with one.changed:
        one.cancel = True
        one.version += 1
    assert one.ended("a").outcome == "cancelled"
    assert one.over() == "cancelled"
    assert gone(pid) and left(UID) == []


def test_a_failed_frames_blender_is_replaced_and_its_earlier_frames_stay(farm: Open) -> None:
    one = farm("fails_in_frame_3")
    one.give("a", 1, 2, 3, 4)
    one.give("b", 6)
    one.start()
    ended = one.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("failed", "no_picture", 3)
    assert [f.frame for f in one.heard(msg.FrameSaved) if f.attempt == "a"] == [1, 2]
    goes_on(one, "b")


def test_gpu_absent_is_the_machines_fault(farm: Open) -> None:
    one = farm(gpus=1)
    one.give("a", 6)
    one.start()
    assert one.over() == "machine_unfit"
    [said] = one.heard(msg.SessionFailed)
    assert said.cause == "gpu_absent"
    assert one.heard(msg.TaskEnded) == []


def test_machine_unfit_where_blender_is_gone(farm: Open, package: msg.Package) -> None:
    one = farm(package=msg.Package(id="x", kind="bpy", path="/usr/bin/no-such-blender", release="4.2"))
    one.give("a", 6)
    one.start()
    assert one.over().startswith("machine_unfit")
    [said] = one.heard(msg.SessionFailed)
    assert said.cause == "machine_unfit" and "/usr/bin/no-such-blender" in said.message


def test_machine_unfit_where_the_output_cannot_be_kept(farm: Open, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"no folder")
    one = farm(staging=str(tmp_path / "taken" / "staging"))
    one.give("a", 6)
    one.start()
    assert one.over().startswith("machine_unfit")
    [said] = one.heard(msg.SessionFailed)
    assert said.cause == "machine_unfit" and "taken" in said.message


def test_each_frames_seconds_and_memory_are_its_own(farm: Open) -> None:
    one = farm("heavy_first")
    one.give("a", 1, 2)
    one.start()
    assert one.ended("a").outcome == "success"
    first, second = one.heard(msg.FrameSaved)
    assert first.peak_memory_bytes - second.peak_memory_bytes > 200 << 20
    assert one.ended("a").peak_memory_bytes == first.peak_memory_bytes
    assert 0 < second.seconds <= (second.at_ms - first.at_ms) / 1000 + 0.001


def test_a_machine_whose_frames_nobody_takes_pauses_at_the_limit_and_goes_on_after(
    farm: Open, tmp_path: Path
) -> None:
    one = farm("heavy_first", gathering_bytes=1)
    one.deaf = True
    one.give("a", 1, 2, 3, 4)
    one.start()
    began = tmp_path / "staging" / "a"
    one.wait(lambda: one.refused >= 3 and began.is_dir() and any(began.glob("1.*")))
    tries = one.refused
    one.wait(lambda: one.refused >= tries + 3)  # a frame takes far less than three tries
    # One more may be begun before the first is staged.
    assert not any(began.glob("3.*")), "nothing is begun that the farm may not take"
    with one.changed:
        one.deaf = False
    assert one.ended("a").outcome == "success"
    assert [f.frame for f in one.heard(msg.FrameSaved)] == [1, 2, 3, 4]
    assert one.over() == "ended"
