"""A real Blender in its sandbox, from opening a scene to the last frame."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from blender_harness import UID, BlenderHarness, inner_pid, inputs_of
from PIL import Image

from framefarm.node import output_files
from framefarm.node.blender import Blender, Exited, Progress, Saved
from framefarm.node.blender_log import BlenderLog, unknown_colours
from framefarm.node.inputs import lay_out
from framefarm.protocol.node import Package, RenderSettings, StagedFile

pytestmark = pytest.mark.blender


def collected(harness: BlenderHarness, saved: Saved, stem: str) -> list[StagedFile]:
    return output_files.collect(saved.directory, harness.folder / "staging", stem, saved.frame)


def test_two_frames_come_from_one_warm_process_and_differ(harness: BlenderHarness) -> None:
    blender = harness.start("plain")
    blender.open_scene()
    opened = harness.opened()
    assert opened.blender_version.count(".") == 2
    assert opened.warnings == ()
    blender.render(1)
    blender.render(7)
    pictures = []
    for frame in (1, 7):
        saved = harness.saved()
        assert saved.frame == frame
        assert saved.peak_memory_bytes > 50 << 20
        [file] = collected(harness, saved, "film")
        assert file.path == f"film_{frame:04d}.png"
        assert not saved.directory.exists()
        pictures.append(Image.open(harness.folder / "staging" / file.staged).convert("RGB").tobytes())
    assert pictures[0] != pictures[1]
    blender.close()
    ended = harness.next(Exited)
    assert isinstance(ended, Exited)
    assert (ended.code, ended.cause) == (0, "closed")


def test_a_warm_frame_has_the_pixels_of_a_cold_one(harness: BlenderHarness) -> None:
    pictures = []
    layout = harness.layout()
    for frames in ((2, 9), (9,)):
        blender = harness.start("plain", layout=layout)
        blender.open_scene()
        for frame in frames:
            blender.render(frame)
        for _ in frames:
            saved = harness.saved()
            [file] = collected(harness, saved, "x")
        pictures.append(Image.open(harness.folder / "staging" / file.staged).convert("RGB").tobytes())
    assert pictures[0] == pictures[1]


def test_a_scene_can_be_opened_afresh_and_stepped_from_its_start(harness: BlenderHarness) -> None:
    blender = harness.start("plain", play_history=True)
    blender.open_scene()
    blender.render(5)
    harness.opened()
    assert harness.saved().frame == 5
    blender.open_scene()
    harness.opened()
    blender.render(3)
    assert harness.saved().frame == 3


def test_a_negative_frame_is_named_as_blender_counts(harness: BlenderHarness) -> None:
    blender = harness.start("plain")
    blender.open_scene()
    blender.render(-3)
    [file] = collected(harness, harness.saved(), "film")
    assert (file.path, file.kind) == ("film_-0003.png", "frame")


def test_stereo_views_keep_their_suffix(harness: BlenderHarness) -> None:
    blender = harness.start("stereo")
    blender.open_scene()
    blender.render(4)
    files = collected(harness, harness.saved(), "film")
    assert [(f.path, f.kind) for f in files] == [("film_0004_L.png", "frame"), ("film_0004_R.png", "frame")]


def test_file_output_nodes_write_below_their_own_name_with_the_frames_number(harness: BlenderHarness) -> None:
    blender = harness.start("file_outputs")
    blender.open_scene()
    for frame in (2, 3):
        blender.render(frame)
        files = collected(harness, harness.saved(), "film")
        assert [(f.path, f.kind) for f in files] == [
            (f"film_{frame:04d}.png", "frame"),
            (f"Beauty_.._x/Image{frame:04d}.png", "extra"),
            (f"Depth/Image{frame:04d}.png", "extra"),
        ]


def test_movie_as_frames_is_a_warning(harness: BlenderHarness) -> None:
    blender = harness.start("movie")
    blender.open_scene()
    blender.render(1)
    assert [warning.code for warning in harness.opened().warnings] == ["movie_as_frames"]
    assert [f.path for f in collected(harness, harness.saved(), "film")] == ["film_0001.png"]


def test_the_jobs_settings_override_the_scene(harness: BlenderHarness) -> None:
    settings = RenderSettings(
        engine="cycles", scene="Scene", camera="Other", view_layers=("ViewLayer",), resolution_percentage=50,
        samples=1,
    )  # fmt: skip
    blender = harness.start("plain", settings)
    blender.open_scene()
    blender.render(1)
    [file] = collected(harness, harness.saved(), "film")
    assert Image.open(harness.folder / "staging" / file.staged).size == (32, 18)
    if harness.package.release.startswith("4."):  # later ones do not print it
        assert b"Sample 1/1" in harness.printed


def assert_refused(harness: BlenderHarness, settings: RenderSettings, cause: str, words: str) -> None:
    """An unknown name fails, with a message that lists the existing ones."""
    blender = harness.start("plain", settings)
    blender.open_scene()
    failed = harness.failed()
    assert failed.cause == cause
    assert words in failed.message


def test_unknown_scene(harness: BlenderHarness) -> None:
    assert_refused(harness, RenderSettings(scene="Nope"), "unknown_scene", "it has: Scene")


def test_unknown_camera(harness: BlenderHarness) -> None:
    assert_refused(harness, RenderSettings(camera="Nope"), "unknown_camera", "Camera, Other")


def test_unknown_view_layer(harness: BlenderHarness) -> None:
    assert_refused(harness, RenderSettings(view_layers=("Nope",)), "unknown_view_layer", "it has: ViewLayer")


def test_unknown_engine(harness: BlenderHarness) -> None:
    assert_refused(harness, RenderSettings(engine="luxcore"), "unknown_engine", "'luxcore'")


def test_no_camera_fails_before_the_render(harness: BlenderHarness) -> None:
    blender = harness.start("no_camera")
    blender.open_scene()
    assert harness.failed().cause == "no_camera"


def test_missing_file_is_a_warning_with_its_path(harness: BlenderHarness) -> None:
    inputs = [i for i in inputs_of(harness.scenes, "/projects/film") if not i.path.endswith("stripes.png")]
    blender = harness.start("plain", layout=lay_out(inputs, harness.folder / "tree"))
    blender.open_scene()
    assert [(w.code, w.subject) for w in harness.opened().warnings] == [
        ("missing_file", "/projects/film/textures/stripes.png")
    ]


def test_blocked_scripts_are_a_warning(harness: BlenderHarness) -> None:
    blender = harness.start("scripted")
    blender.open_scene()
    assert [w.code for w in harness.opened().warnings] == ["blocked_scripts"]


def test_a_file_that_is_no_scene_fails_and_never_renders_the_default_one(harness: BlenderHarness) -> None:
    bad = harness.folder / "bad"
    bad.mkdir()
    (bad / "plain.blend").write_bytes(b"BLENDER-v402" + b"\0" * 500)
    blender = harness.start(
        "plain", layout=lay_out(inputs_of(bad, "/projects/film"), harness.folder / "tree")
    )
    blender.open_scene()
    blender.render(1)
    failed = harness.failed()
    assert failed.cause == "cannot_open"
    ended = harness.next(Exited)
    assert isinstance(ended, Exited) and ended.cause == "failed"


def test_inputs_in_a_system_folder_are_found_in_another_folder(harness: BlenderHarness) -> None:
    blender = harness.start("plain", at="/etc/film")
    blender.open_scene()
    assert harness.opened().warnings == ()


def test_a_texture_missing_from_a_moved_scene_is_named_as_the_artist_knows_it(
    harness: BlenderHarness,
) -> None:
    inputs = [i for i in inputs_of(harness.scenes, "/etc/film") if not i.path.endswith("stripes.png")]
    blender = harness.start("plain", layout=lay_out(inputs, harness.folder / "tree"), at="/etc/film")
    blender.open_scene()
    assert [w.subject for w in harness.opened().warnings] == ["/etc/film/textures/stripes.png"]


def test_without_bubblewrap_blender_is_still_the_slots_user(harness: BlenderHarness) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        harness.folder = Path(folder)
        blender = harness.start("plain", at="/projects/film", sandbox="none")
        blender.open_scene()
        assert harness.opened().warnings == ()
        blender.render(1)
        saved = harness.saved()
        assert saved.directory.stat().st_uid == (UID if os.geteuid() == 0 else os.geteuid())
        assert [f.path for f in collected(harness, saved, "film")] == ["film_0001.png"]
        blender.kill()
        assert leftover_processes() == []


def test_ocio_fallback_fails(harness: BlenderHarness) -> None:
    blender = harness.start("plain", environment={"OCIO": "/projects/film/nope.ocio"})
    blender.open_scene()
    failed = harness.failed()
    assert failed.cause == "ocio_fallback"
    assert "/projects/film/nope.ocio" in failed.message


def test_unknown_colours_are_warnings(harness: BlenderHarness, tmp_path: Path) -> None:
    data = (harness.scenes / "plain.blend").read_bytes()
    assert data.count(b"AgX\0") >= 1
    (tmp_path / "scenes").mkdir()
    harness.scenes = tmp_path / "scenes"
    (harness.scenes / "film.blend").write_bytes(data.replace(b"AgX\0", b"Own\0"))
    harness.start("film").open_scene()
    told = [w.subject for w in harness.opened().warnings if w.code == "unknown_colours"]
    assert told == ['scene view "Own"']


def test_lines_of_unknown_colours_are_known() -> None:
    printed = b"""Color management: look "Own" is not compatible with view "AgX", setting default "None".
Color management: scene view "Film" not found, setting default "Standard".
Color management: display "P3" used by scene not found, setting to default ("sRGB").
00:01.500  color_management | WARNING image colorspace "ACES" not found, will use default instead.
Fra:1 | view "x" | Font not found, "y"
"""
    assert unknown_colours(printed) == [
        'scene view "Film"', 'display "P3" used by scene', 'image colorspace "ACES"',
    ]  # fmt: skip


PROBE = """#!/usr/bin/python3 -I
import json, os, socket, sys
pipe = socket.socket(fileno=int(sys.argv[-1]))
for line in pipe.makefile("rb"):
    asked = json.loads(line)
    if asked["do"] == "open":
        def can(path):
            try:
                open(path).close()
                return True
            except OSError:
                return False
        try:
            socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), 1)
            network = True
        except OSError:
            network = False
        status = open("/proc/self/status").read()
        print(json.dumps({
            "uid": os.getuid(), "groups": os.getgroups(), "cores": sorted(os.sched_getaffinity(0)),
            "environment": dict(os.environ), "network": network, "secret": can(os.environ["SECRET"]),
            "shadow": os.path.exists("/etc/shadow"), "pids": [p for p in os.listdir("/proc") if p.isdigit()],
            "caps": [l.split()[1] for l in status.splitlines() if l[:6] in ("CapEff", "CapBnd", "CapPrm")],
            "film": sorted(os.listdir("/projects/film")), "writable": os.access("/projects/film", os.W_OK),
            "tmp": os.listdir("/tmp"), "devices": sorted(os.listdir("/dev")),
        }), flush=True)
        pipe.sendall(b'{"is": "opened", "blender": "fake"}\\n')
    elif asked["do"] == "render":
        exec(os.environ["WHEN_ASKED"])
    else:
        break
"""


def fake_blender(harness: BlenderHarness, when_asked: str = "", **more: str) -> Blender:
    """A program in Blender's place: it prints what it can see in the sandbox, or runs `when_asked`."""
    program = harness.folder / "program" / "fake-blender"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PROBE)
    program.chmod(0o755)
    package = Package(id="fake", kind="executable", path=str(program), release="0")
    environment = {"WHEN_ASKED": when_asked, "PORT": "1", "SECRET": "/nowhere", **more}
    return harness.start("plain", environment=environment, package=package)


def test_the_sandbox_hides_the_node(harness: BlenderHarness, tmp_path: Path) -> None:
    host = Path("/projects/film")
    made = not host.exists()
    secret = tmp_path / "secret"
    secret.write_text("token")
    secret.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        blender = fake_blender(
            harness, SECRET=str(secret), PORT=port, GREETING="two words 'and' $quotes\nnext"
        )
        blender.open_scene()
        harness.opened()
    deadline = time.monotonic() + 10
    while not harness.printed.endswith(b"}\n") and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = json.loads(harness.printed)
    assert seen["uid"] == (UID if os.geteuid() == 0 else os.geteuid())
    assert seen["cores"] == [min(os.sched_getaffinity(0))]
    assert seen["environment"]["GREETING"] == "two words 'and' $quotes\nnext"
    assert set(seen["caps"]) == {"0" * 16}
    assert (seen["network"], seen["secret"], seen["shadow"], seen["writable"]) == (False,) * 4
    assert "plain.blend" in seen["film"]
    assert seen["tmp"] == []
    assert len(seen["pids"]) <= 2
    assert "mem" not in seen["devices"] and "kmsg" not in seen["devices"]
    assert made == (not host.exists()), "the host's own folder was touched"
    status = Path(f"/proc/{inner_pid(blender.pid)}/status").read_text()
    expected = str(UID if os.geteuid() == 0 else os.geteuid())
    assert next(line for line in status.splitlines() if line.startswith("Uid")).split()[1:] == [expected] * 4


def test_the_jobs_environment_is_invisible_outside_the_sandbox(harness: BlenderHarness) -> None:
    blender = fake_blender(harness, TOKEN="very-private-words")
    blender.open_scene()
    harness.opened()
    inner = inner_pid(blender.pid)
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == inner:
            continue
        for name in ("cmdline", "environ"):
            try:
                assert b"very-private-words" not in (process / name).read_bytes()
            except OSError:
                continue


@pytest.mark.parametrize(
    "code",
    [
        'pipe.sendall(b\'{"is": "saved", "frame": 99}\\n\')',
        'pipe.sendall(b\'{"is": "saved", "frame": 1, "surprise": 1}\\n\')',
        'pipe.sendall(b"nonsense\\n")',
        'pipe.sendall(b"x" * (3 << 20))',
        'pipe.sendall(b\'{"is": "opened", "blender": "again"}\\n\')',
    ],
)
def test_bad_report_ends_the_program(harness: BlenderHarness, code: str) -> None:
    blender = fake_blender(harness, code + "; __import__('time').sleep(60)")
    blender.open_scene()
    harness.opened()
    blender.render(1)
    assert harness.failed().cause == "bad_report"
    ended = harness.next(Exited)
    assert isinstance(ended, Exited) and ended.cause == "failed"


def test_blender_crashed_names_the_signal_and_the_frame(harness: BlenderHarness) -> None:
    blender = fake_blender(harness, "print('oh dear', flush=True); os.kill(os.getpid(), 11)")
    blender.open_scene()
    blender.render(12)
    ended = harness.next(Exited)
    assert isinstance(ended, Exited)
    assert (ended.signal, ended.cause) == (signal.SIGSEGV, "crashed")
    assert "frame 12" in ended.message and "SIGSEGV" in ended.message and "oh dear" in ended.message


def test_killing_blender_ends_daemonised_children_too(harness: BlenderHarness) -> None:
    away = "os.fork() or (os.setsid(), os.fork() and os._exit(0), print('away', flush=True), "
    blender = fake_blender(harness, away + "__import__('time').sleep(600))")
    blender.open_scene()
    blender.render(1)
    deadline = time.monotonic() + 10
    while b"away" not in harness.printed and time.monotonic() < deadline:
        time.sleep(0.01)
    blender.kill()
    assert leftover_processes() == []
    ended = harness.next(Exited)
    assert isinstance(ended, Exited) and ended.cause == "killed"


def leftover_processes() -> list[str]:
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"Uid:\t{UID}\t" in (process / "status").read_text():
                pids.append(process.name)
        except OSError:
            continue
    return pids


def test_a_log_without_end_is_cut_at_the_bound_exactly(tmp_path: Path, harness: BlenderHarness) -> None:
    log = BlenderLog(limit_bytes=100_000)
    log.switch(tmp_path / "a.log")
    harness.printed = type("Sink", (), {"extend": staticmethod(log.write)})()  # type: ignore[assignment]
    spam = "[os.write(1, b'spam' * 16384) for _ in range(1000)]; "
    done = 'os.mkdir(asked[\'directory\']); pipe.sendall(b\'{"is": "saved", "frame": 1}\\n\')'
    blender = fake_blender(harness, spam + done)
    blender.open_scene()
    blender.render(1)
    event = harness.events.get(timeout=30)
    while not isinstance(event, Saved):
        assert not isinstance(event, Exited), event
        event = harness.events.get(timeout=30)
    log.switch(None)
    content = (tmp_path / "a.log").read_bytes()
    assert len(content) == 100_000
    assert b"left out" in content[-100:]


def test_the_end_of_the_runner_is_the_end_of_blender(harness: BlenderHarness, tmp_path: Path) -> None:
    runner = tmp_path / "runner.py"
    layout = harness.layout()
    work = tmp_path / "work-of-runner"
    work.mkdir()
    runner.write_text(
        "import queue, sys, threading\n"
        "from pathlib import Path\n"
        "from framefarm.node.blender import *\n"
        "from framefarm.node.inputs import Layout\n"
        "from framefarm.node.sandbox import Bind\n"
        "from framefarm.protocol.node import Package, RenderSettings\n"
        "events = queue.SimpleQueue()\n"
        f"layout = Layout(Path({str(layout.tree)!r}), ({', '.join(map(repr, layout.binds))},))\n"
        f"package = Package(id='b', kind='bpy', path={harness.package.path!r}, release='')\n"
        "order = SceneOrder('/projects/film/plain.blend', RenderSettings(samples=100000), {})\n"
        f"limits, work = BlenderLimits((0,), {UID}), Path({str(work)!r})\n"
        "blender = Blender(limits, package, order, layout, work, events, len)\n"
        "blender.open_scene(); blender.render(1)\n"
        "while not isinstance(events.get(), Progress): pass\n"
        "print(blender.pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    process = subprocess.Popen([sys.executable, runner], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    inner = inner_pid(pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{p}").exists() for p in (pid, inner)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists() and not Path(f"/proc/{inner}").exists()


def test_progress_is_of_the_frame_in_work(harness: BlenderHarness) -> None:
    blender = harness.start("plain")
    blender.open_scene()
    blender.render(6)
    event = harness.next(Progress)
    assert isinstance(event, Progress)
    assert event.frame == 6 and 0 <= event.fraction <= 1
