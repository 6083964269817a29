"""A real runner with a real Blender: how tasks end, and that another Blender renders the next job."""

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
"""A user of this test run alone, by which leftover processes are found."""


@pytest.fixture
def farm(tmp_path: Path, failing_scenes: Path, package: msg.Package) -> Iterator[Open]:
    opened: list[OneJobFarm] = []

    def start(scene: str = "slow", gpus: int = 0, **changes: object) -> OneJobFarm:
        config = {
            "job": "j", "account": "a", "package": package, "scene_path": f"/film/{scene}.blend",
            "stem": scene, "render": msg.RenderSettings(), "environment": {}, "fresh_scene_per_task": False,
            "allow_scripts": True, "staging": str(tmp_path / "staging"), "logs": str(tmp_path / "logs"),
            "lease_seconds": 6.0, "disconnected_seconds": 60.0, "gathering_bytes": 1 << 30,
        }  # fmt: skip
        job = OneJobFarm(
            tmp_path,
            msg.SessionConfig(**{**config, **changes}),
            inputs_of(failing_scenes, "/film"),
            UID,
            gpus,
        )
        opened.append(job)
        return job

    yield start
    for job in opened:
        job.end()


def blender_of(farm: OneJobFarm) -> int:
    """Process number of the Blender in work, once it has reported progress."""
    farm.wait(lambda: farm.progress)
    assert farm.runner is not None
    return inner_pid(farm.runner.pid)


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def assert_next_task_succeeds(farm: OneJobFarm, attempt: str) -> None:
    """By another Blender; no process of the session remains."""
    assert farm.ended(attempt).outcome == "success"
    assert len(farm.events_of(msg.BlenderOpened)) == 2
    assert [f.frame for f in farm.events_of(msg.FrameSaved) if f.attempt == attempt] == [6]
    assert farm.reason_of_end() == "ended"
    assert processes_of(UID) == []


def processes_of(uid: int) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"Uid:\t{uid}\t" in (process / "status").read_text():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_task_timed_out_by_the_runners_own_clock(farm: Open) -> None:
    job = farm(max_task_runtime_seconds=3.0)
    job.give("a", 1)
    job.give("b", 6)
    job.start()
    pid = blender_of(job)
    ended = job.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("timed_out", "task_timed_out", 1)
    assert ended.message is not None and "3 seconds" in ended.message and "in frame 1" in ended.message
    assert ended.ended_ms - ended.started_ms >= 3000
    assert_next_task_succeeds(job, "b")
    assert has_ended(pid)


def test_no_progress_of_a_blender_that_ignores_everything(farm: Open) -> None:
    job = farm(no_progress_seconds=4.0)
    job.give("a", 1)
    job.give("b", 6)
    job.start()
    pid = blender_of(job)
    os.kill(pid, signal.SIGSTOP)
    ended = job.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("timed_out", "no_progress", 1)
    assert ended.message is not None and ended.message.endswith(CAUSES["no_progress"].remedy)
    assert_next_task_succeeds(job, "b")
    assert has_ended(pid)


def test_progress_within_the_frame_reaches_the_farm(farm: Open) -> None:
    job = farm()
    job.give("a", 2)
    job.start()
    job.wait(lambda: any(p.fraction > 0 for p in job.progress))
    assert {(p.attempt, p.frame) for p in job.progress} == {("a", 2)}
    fractions = [p.fraction for p in job.progress]
    assert fractions == sorted(fractions) and all(0 <= f <= 1 for f in fractions)


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGKILL, "killed_outside"), (signal.SIGSEGV, "crashed")]
)
def test_blender_killed_is_replaced(farm: Open, number: signal.Signals, cause: str) -> None:
    job = farm()
    job.give("a", 1)
    job.give("b", 6)
    job.start()
    os.kill(blender_of(job), number)
    ended = job.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("failed", cause, 1)
    assert_next_task_succeeds(job, "b")


def test_cancelling_a_job_ends_blender_and_the_session(farm: Open) -> None:
    job = farm()
    job.give("a", 1)
    job.start()
    pid = blender_of(job)
    with job.changed:
        job.cancel = True
        job.version += 1
    assert job.ended("a").outcome == "cancelled"
    assert job.reason_of_end() == "cancelled"
    assert has_ended(pid) and processes_of(UID) == []


def test_a_failed_frames_blender_is_replaced_and_its_earlier_frames_stay(farm: Open) -> None:
    job = farm("fails_in_frame_3")
    job.give("a", 1, 2, 3, 4)
    job.give("b", 6)
    job.start()
    ended = job.ended("a")
    assert (ended.outcome, ended.cause, ended.frame) == ("failed", "no_picture", 3)
    assert [f.frame for f in job.events_of(msg.FrameSaved) if f.attempt == "a"] == [1, 2]
    assert_next_task_succeeds(job, "b")


def test_gpu_absent_is_the_machines_fault(farm: Open) -> None:
    job = farm(gpus=1)
    job.give("a", 6)
    job.start()
    assert job.reason_of_end() == "machine_unfit"
    [event] = job.events_of(msg.SessionFailed)
    assert event.cause == "gpu_absent"
    assert job.events_of(msg.TaskEnded) == []


def test_machine_unfit_where_blender_is_gone(farm: Open, package: msg.Package) -> None:
    job = farm(package=msg.Package(id="x", kind="bpy", path="/usr/bin/no-such-blender", release="4.2"))
    job.give("a", 6)
    job.start()
    assert job.reason_of_end().startswith("machine_unfit")
    [event] = job.events_of(msg.SessionFailed)
    assert event.cause == "machine_unfit" and "/usr/bin/no-such-blender" in event.message


def test_machine_unfit_where_the_output_cannot_be_kept(farm: Open, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"no folder")
    job = farm(staging=str(tmp_path / "taken" / "staging"))
    job.give("a", 6)
    job.start()
    assert job.reason_of_end().startswith("machine_unfit")
    [event] = job.events_of(msg.SessionFailed)
    assert event.cause == "machine_unfit" and "taken" in event.message


def test_each_frames_seconds_and_memory_are_its_own(farm: Open) -> None:
    job = farm("heavy_first")
    job.give("a", 1, 2)
    job.start()
    assert job.ended("a").outcome == "success"
    first, second = job.events_of(msg.FrameSaved)
    assert first.peak_memory_bytes - second.peak_memory_bytes > 200 << 20
    assert job.ended("a").peak_memory_bytes == first.peak_memory_bytes
    assert 0 < second.seconds <= (second.at_ms - first.at_ms) / 1000 + 0.001


def test_rendering_pauses_at_the_limit_while_reports_are_refused_and_continues_after(
    farm: Open, tmp_path: Path
) -> None:
    job = farm("heavy_first", gathering_bytes=1)
    job.unavailable = True
    job.give("a", 1, 2, 3, 4)
    job.start()
    began = tmp_path / "staging" / "a"
    job.wait(lambda: job.refused_reports >= 3 and began.is_dir() and any(began.glob("1.*")))
    refused_before = job.refused_reports
    job.wait(lambda: job.refused_reports >= refused_before + 3)  # far longer than a frame takes
    # A second frame may begin before the first is staged.
    assert not any(began.glob("3.*")), "rendering did not pause"
    with job.changed:
        job.unavailable = False
    assert job.ended("a").outcome == "success"
    assert [f.frame for f in job.events_of(msg.FrameSaved)] == [1, 2, 3, 4]
    assert job.reason_of_end() == "ended"
