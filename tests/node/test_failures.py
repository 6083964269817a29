"""Each failure of a render by its real cause, in a real Blender; names as in core/failure_codes.py."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blender_harness import BlenderHarness, inner_pid, inputs_of

from framefarm.core.failure_codes import CAUSES
from framefarm.node.blender import Exited, Failed, Opened
from framefarm.node.blender_exit import Stage, judge_exit
from framefarm.node.crash_traces import last_operator
from framefarm.node.inputs import Layout, lay_out
from framefarm.protocol.node import NodeWarning, Package, RenderSettings

pytestmark = pytest.mark.blender


@pytest.fixture
def harness(harness: BlenderHarness, failing_scenes: Path) -> BlenderHarness:
    harness.scenes = failing_scenes
    return harness


def failed_at_frame(harness: BlenderHarness, scene: str, frame: int = 1) -> Failed:
    blender = harness.start(scene, allow_scripts=True)
    blender.open_scene()
    blender.render(frame)
    failed = harness.failed()
    assert failed.message.endswith(CAUSES[failed.cause].remedy)
    ended = harness.exited()
    assert ended.cause == "failed"
    return failed


def ended(harness: BlenderHarness) -> Exited:
    event = harness.exited()
    assert event.message.endswith(CAUSES[event.cause].remedy)
    return event


def warned(harness: BlenderHarness, scene: str, settings: RenderSettings | None = None) -> list[NodeWarning]:
    blender = harness.start(scene, settings, allow_scripts=True)
    blender.open_scene()
    return list(harness.opened().warnings)


def layout_with(harness: BlenderHarness, name: str, content: bytes) -> Layout:
    """A layout with one scene `name` of this content."""
    folder = harness.folder / "changed"
    folder.mkdir()
    (folder / f"{name}.blend").write_bytes(content)
    return lay_out(inputs_of(folder, "/projects/film"), harness.folder / "tree")


# -------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_cannot_open_a_file_that_was_cut_off(harness: BlenderHarness, part: float) -> None:
    content = (harness.scenes / "noisy.blend").read_bytes()
    blender = harness.start(
        "noisy", layout=layout_with(harness, "noisy", content[: int(len(content) * part)])
    )
    blender.open_scene()
    blender.render(1)
    failed = harness.failed()
    assert failed.cause == "cannot_open"
    assert "noisy.blend" in failed.message and failed.message.endswith(CAUSES["cannot_open"].remedy)
    assert harness.exited().cause == "failed"


@pytest.mark.parametrize(
    ("header", "saved"), [(b"BLENDER-v909", "9.9"), (b"BLENDER17-01v0909", "9.9"), (b"BLENDER_v500", "5.0")]
)
def test_newer_file_is_refused_before_it_is_opened(
    harness: BlenderHarness, header: bytes, saved: str
) -> None:
    content = header + (harness.scenes / "noisy.blend").read_bytes()[len(header) :]
    if saved == "5.0" and not harness.package.release.startswith("4."):
        content, saved = content.replace(b"v500", b"v999", 1), "9.99"
    blender = harness.start("noisy", layout=layout_with(harness, "noisy", content))
    blender.open_scene()
    failed = harness.failed()
    assert failed.cause == "newer_file"
    assert saved in failed.message
    assert b"Read blend" not in harness.printed


# ------------------------------------------------------------------------------ how Blender ends


@pytest.fixture
def little_memory(harness: BlenderHarness) -> Iterator[None]:
    """Limits programs that are started to 2 GB of addresses; an idle Blender 4.2 needs 1.4 GB, later ones
    more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = 2_000 if harness.package.release.startswith("4.") else 8_000
    resource.setrlimit(resource.RLIMIT_AS, (size << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_names_the_frame(harness: BlenderHarness) -> None:
    blender = harness.start("huge")
    blender.open_scene()
    blender.render(3)
    event = ended(harness)
    assert (event.cause, event.signal) == ("out_of_memory", signal.SIGABRT)
    assert "in frame 3" in event.message


def test_out_of_memory_is_also_a_kill_of_the_kernels_and_its_code_127() -> None:
    at = Stage(ready=True, frame=7)
    assert judge_exit(-9, None, at, b"", memory_kills=True).cause == "out_of_memory"
    assert judge_exit(-9, None, at, b"", memory_kills=None).cause == "out_of_memory"
    assert judge_exit(127, None, at, b"").cause == "out_of_memory"


def test_killed_outside_by_hand_is_not_blamed_on_memory(harness: BlenderHarness) -> None:
    blender = harness.start("slow")
    blender.open_scene()
    harness.opened()
    blender.render(2)
    os.kill(inner_pid(blender.pid), signal.SIGKILL)
    event = ended(harness)
    assert (event.cause, event.signal) == ("killed_outside", signal.SIGKILL)
    assert "in frame 2" in event.message


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_crashed_by_a_signal_names_it(harness: BlenderHarness, number: signal.Signals) -> None:
    blender = harness.start("slow")
    blender.open_scene()
    harness.opened()
    blender.render(4)
    os.kill(inner_pid(blender.pid), number)
    event = ended(harness)
    assert (event.cause, event.signal) == ("crashed", number)
    assert number.name in event.message and "in frame 4" in event.message


def test_crashed_by_the_scenes_script(harness: BlenderHarness) -> None:
    harness.start("segfaults", allow_scripts=True).open_scene()
    event = ended(harness)
    assert (event.cause, event.signal) == ("crashed", signal.SIGSEGV)
    assert "while it opened the scene" in event.message


def test_crashed_once_eevee_has_drawn_is_no_lack_of_graphics(harness: BlenderHarness) -> None:
    blender = harness.start("crashes_once_drawn", allow_scripts=True)
    blender.open_scene()
    blender.render(2)
    event = ended(harness)
    assert b"EGL Error" in harness.printed
    assert (event.cause, event.signal) == ("crashed", signal.SIGSEGV)
    assert (
        " in frame 2 while it rendered (SIGSEGV). It ran the script rig.py, line 4 (crash)." in event.message
    )


def test_crashed_while_it_composited(harness: BlenderHarness) -> None:
    blender = harness.start("aborts_compositing", allow_scripts=True)
    blender.open_scene()
    blender.render(1)
    event = ended(harness)
    assert (event.cause, event.signal) == ("crashed", signal.SIGABRT)
    assert (
        " in frame 1 while it composited (SIGABRT). It ran the script rig.py, line 6 (crash)."
        in event.message
    )


def test_crashed_blender_of_an_archive_says_its_last_operator(tmp_path: Path) -> None:
    (tmp_path / "other.crash.txt").mkdir()
    assert last_operator(tmp_path) == ""
    (tmp_path / "other.crash.txt").rmdir()
    (tmp_path / "shot.crash.txt").write_text(
        "# Blender 4.2.3, Commit date: 2024-10-14\n\nbpy.ops.object.add()  # Operator\n"
        "bpy.ops.render.render(animation=True)  # Operator\n\n# backtrace\nbpy.ops.not_this()\n"
    )
    operator = last_operator(tmp_path)
    assert operator == "bpy.ops.render.render(animation=True)"
    at = Stage(ready=True, frame=3, phase="composite")
    message = judge_exit(-11, None, at, b"Fra:3 Mem:12M", operator=operator).message
    assert message.startswith(
        "Blender crashed in frame 3 while it composited (SIGSEGV). Its last operator was "
        "bpy.ops.render.render(animation=True). It last printed: “Fra:3 Mem:12M”."
    )
    (tmp_path / "shot.crash.txt").unlink()
    (tmp_path / "shot.crash.txt").symlink_to("/etc/passwd")
    assert last_operator(tmp_path) == ""


def test_no_gl_is_said_only_after_a_crash_and_a_trial() -> None:
    at, printed = Stage(ready=True, frame=1), b"EGL Error (0x3001): EGL_NOT_INITIALIZED"
    assert judge_exit(-6, None, at, printed, lacks_graphics=lambda: True).cause == "no_gl"
    assert judge_exit(-6, None, at, printed, lacks_graphics=lambda: False).cause == "crashed"
    assert judge_exit(-8, None, at, printed, lacks_graphics=lambda: True).cause == "crashed"
    assert judge_exit(1, None, at, printed, lacks_graphics=lambda: True).cause == "ended_early"


def test_ended_early_by_the_scenes_script(harness: BlenderHarness) -> None:
    harness.start("exits", allow_scripts=True).open_scene()
    event = ended(harness)
    assert (event.cause, event.code) == ("ended_early", 3)
    assert "“that was all”" in event.message


def test_hung_at_exit_is_ended_by_the_farm_and_not_blamed_on_memory(harness: BlenderHarness) -> None:
    harness.start("hangs", allow_scripts=True).open_scene()
    assert ended(harness).cause == "hung_at_exit"


def test_hung_at_exit_also_when_it_was_asked_to_end(harness: BlenderHarness) -> None:
    blender = harness.start("noisy")
    blender.open_scene()
    harness.opened()
    inner = inner_pid(blender.pid)
    os.kill(inner, signal.SIGSTOP)
    blender.close(timeout_seconds=0.2)
    assert harness.exited().cause == "closed"
    assert not Path(f"/proc/{inner}").exists()


@pytest.mark.parametrize("program", ["exit 1", "exit 127", "no-such-program-anywhere"])
def test_not_started(harness: BlenderHarness, program: str) -> None:
    path = harness.folder / "program" / "blender"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    package = Package(id="broken", kind="executable", path=str(path), release="0")
    harness.start("noisy", package=package).open_scene()
    assert ended(harness).cause == "not_started"


def test_blender_broken_without_its_library(harness: BlenderHarness) -> None:
    python = Package(id="bare", kind="bpy", path="/usr/bin/python3", release="0")
    harness.start("noisy", package=python).open_scene()
    failed = harness.failed()
    assert failed.cause == "blender_broken"
    assert "bpy" in failed.message


# ------------------------------------------------------------------------------------ the machine


def test_gpu_absent_fails_instead_of_rendering_on_the_processor(harness: BlenderHarness) -> None:
    blender = harness.start("noisy", gpus=1)
    blender.open_scene()
    blender.render(1)
    assert harness.failed().cause == "gpu_absent"


def test_no_gl_for_eevee(harness: BlenderHarness) -> None:
    blender = harness.start("eevee", environment={"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"})
    blender.open_scene()
    blender.render(1)
    assert ended(harness).cause == "no_gl"


@pytest.fixture
def tiny_disk(harness: BlenderHarness) -> Iterator[Path]:
    work = harness.work()
    work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "tmpfs", work], check=True)
    yield work
    for blender in harness.blenders:
        blender.kill()
    subprocess.run(["umount", work], check=True)


@pytest.mark.usefixtures("tiny_disk")
@pytest.mark.parametrize("scene", ["large_png", "large_exr"])
def test_disk_full_is_no_picture_cut_short(harness: BlenderHarness, scene: str) -> None:
    """Blender itself returns FINISHED and leaves half a picture."""
    blender = harness.start(scene)
    blender.open_scene()
    blender.render(1)
    assert harness.failed().cause == "disk_full"


def test_output_unwritable_is_seen_before_the_render(harness: BlenderHarness) -> None:
    blender = harness.start("noisy")
    output = harness.folder / "work0" / "output"
    if os.geteuid() == 0:
        os.chown(output, 0, 0)
    output.chmod(0o555)
    blender.open_scene()
    failed = harness.failed()
    assert failed.cause == "output_unwritable"
    assert "Permission denied" in failed.message


# --------------------------------------------------------------------------- what the scene does


def test_render_failed_says_what_blender_said(harness: BlenderHarness) -> None:
    failed = failed_at_frame(harness, "no_pixels")
    assert failed.cause == "render_failed"
    assert failed.message.startswith("Blender could not render frame 1: ")


def test_wrong_frame_set_by_a_handler(harness: BlenderHarness) -> None:
    failed = failed_at_frame(harness, "other_frame", 5)
    assert (failed.cause, failed.frame) == ("wrong_frame", 5)


def test_no_picture_left_by_a_handler(harness: BlenderHarness) -> None:
    assert failed_at_frame(harness, "deletes").cause == "no_picture"


def test_file_missing_names_the_eye(harness: BlenderHarness) -> None:
    failed = failed_at_frame(harness, "deletes_an_eye", 12)
    assert failed.cause == "file_missing"
    assert "picture_0012_R" in failed.message and "_L" not in failed.message


def test_script_error_while_the_scene_opens_is_a_warning(harness: BlenderHarness) -> None:
    assert [(w.code, w.subject) for w in warned(harness, "raises")] == [
        ("script_error", "ValueError: the rig is broken")
    ]


def test_script_error_in_a_handler_is_a_warning_of_the_frame(harness: BlenderHarness) -> None:
    blender = harness.start("handler", allow_scripts=True)
    blender.open_scene()
    assert harness.opened().warnings == ()
    blender.render(1)
    assert [(w.code, w.subject) for w in harness.saved().warnings] == [
        ("script_error", "KeyError: 'in a handler'")
    ]


def test_samples_ignored_by_workbench(harness: BlenderHarness) -> None:
    warnings = warned(harness, "noisy", RenderSettings(engine="workbench", samples=4))
    assert [w.code for w in warnings] == ["samples_ignored"]


# ---------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize("cause", ["disk_full", "gpu_absent", "machine_unfit"])
def test_a_scene_cannot_accuse_the_machine(harness: BlenderHarness, cause: str) -> None:
    program = harness.folder / "program" / "liar"
    program.parent.mkdir()
    program.write_text(
        "#!/usr/bin/python3 -I\nimport socket, sys\npipe = socket.socket(fileno=int(sys.argv[-1]))\n"
        f'pipe.recv(9999); pipe.sendall(b\'{{"is": "failed", "cause": "{cause}"}}\\n\')\n'
    )
    program.chmod(0o755)
    package = Package(id="liar", kind="executable", path=str(program), release="0")
    harness.start("noisy", package=package).open_scene()
    assert harness.failed().cause == "render_failed"


def test_peak_memory_is_of_the_frame_and_not_of_all_before(harness: BlenderHarness) -> None:
    blender = harness.start("heavy_first", allow_scripts=True)
    blender.open_scene()
    blender.render(1)
    blender.render(2)
    harness.next(Opened)
    big, small = harness.saved(), harness.saved()
    assert small.peak_memory_bytes < big.peak_memory_bytes - (200 << 20)
    assert (big.width, big.height) == (64, 36)
