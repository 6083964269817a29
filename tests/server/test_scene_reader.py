"""Facts read from real .blend files of Blender 4.2, and answers for hostile or damaged ones."""

from __future__ import annotations

import gzip
import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from framefarm.node import blender_installs
from framefarm.sandboxing import module_call
from framefarm.sandboxing.bubblewrap import Mode
from framefarm.sandboxing.errors import Stopped
from framefarm.sandboxing.orphans import end_orphans
from framefarm.sandboxing.usage_monitor import descendants
from framefarm.server.files import scene_reader
from framefarm.server.files.scene_reader import SceneFacts, absolute, read_scenes

SCRIPT = Path(__file__).with_name("scenes_to_read.py")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    blender = next((b for b in blender_installs.installed() if b.id == "blender-4-2"), None)
    if blender is None:
        pytest.skip("no Blender 4.2 here: framefarm blender install 4.2")
    folder = tmp_path_factory.mktemp("scenes")
    subprocess.run([blender.path, str(SCRIPT), str(folder)], check=True, capture_output=True, timeout=120)
    return folder


def read(path: Path, known_as: str | None = None) -> SceneFacts:
    (facts,) = read_scenes([(known_as or str(path), path)])
    return facts


def by_name(facts: SceneFacts) -> dict[str, list[tuple[str, str]]]:
    return {s.name: [(u.object, u.kind) for u in s.unbaked_simulations] for s in facts.scenes}


# ------------------------------------------------------------------------------ facts


@pytest.mark.blender
@pytest.mark.parametrize("name", ["scenes.blend", "compressed.blend"])
def test_facts_hold_range_engine_cameras_layers_and_size(scenes: Path, name: str) -> None:
    facts = read(scenes / name)
    assert (facts.cause, facts.blender_version, facts.active_scene) == (None, "4.2", "Shot")
    shot = facts.scene()
    assert shot is not None
    assert (shot.frame_start, shot.frame_end, shot.frame_step, shot.fps) == (5, 29, 3, 29.97)
    assert (shot.engine, shot.samples, shot.format, shot.is_movie) == ("CYCLES", 33, "OPEN_EXR", False)
    assert (shot.camera, shot.cameras, shot.view_layers) == ("Main", ["Main", "Side"], ["ViewLayer", "Glow"])
    assert (shot.resolution_x, shot.resolution_y, shot.resolution_percentage) == (320, 180, 50)


@pytest.mark.blender
def test_each_scene_is_found_by_name_and_may_have_no_camera(scenes: Path) -> None:
    other = read(scenes / "scenes.blend").scene("Ämter")
    assert other is not None
    assert (other.camera, other.cameras, other.is_movie, other.samples) == (None, [], True, 7)
    assert other.engine == "BLENDER_EEVEE_NEXT"


@pytest.mark.blender
def test_a_file_whose_structs_lack_members_of_today_is_read(scenes: Path, tmp_path: Path) -> None:
    """Before 2.62 there was no `im_format`, before 2.67 no `idname`, before 2.50 no `engine`."""
    content = (scenes / "scenes.blend").read_bytes()
    for member in (b"im_format", b"engine[32]", b"frame_step", b"frs_sec_base", b"idname[64]"):
        assert b"\0" + member + b"\0" in content
        content = content.replace(b"\0" + member + b"\0", b"\0_" + member[1:] + b"\0")
    old = tmp_path / "old.blend"
    old.write_bytes(content)
    facts = read(old)
    assert facts.cause is None
    shot = facts.scene()
    assert shot is not None
    assert (shot.engine, shot.format, shot.frame_step, shot.fps) == ("BLENDER_RENDER", "PNG", 1, 30.0)
    assert (shot.frame_start, shot.frame_end, shot.camera) == (5, 29, "Main")


@pytest.mark.blender
def test_a_scene_is_read_whose_modifiers_are_not_as_expected(scenes: Path, tmp_path: Path) -> None:
    content = (scenes / "simulations.blend").read_bytes()
    assert b"\0mode\0" in content
    odd = tmp_path / "odd.blend"
    odd.write_bytes(content.replace(b"\0mode\0", b"\0edom\0"))
    facts = read(odd)
    assert facts.cause is None
    assert len(facts.scenes) == len(read(scenes / "simulations.blend").scenes)


@pytest.mark.blender
def test_a_gzipped_file_of_an_older_blender_is_read(scenes: Path, tmp_path: Path) -> None:
    packed = tmp_path / "old.blend"
    packed.write_bytes(gzip.compress((scenes / "scenes.blend").read_bytes(), 1))
    assert read(packed).active_scene == "Shot"


@pytest.mark.blender
def test_every_file_format_has_blenders_name(scenes: Path) -> None:
    in_file = read(scenes / "formats.blend").scenes
    assert len(in_file) > 10
    assert [s.format for s in in_file] == [s.name for s in in_file]
    assert [s.name for s in in_file if s.is_movie] == ["FFMPEG"]


@pytest.mark.blender
def test_dependencies_are_resolved_from_the_artists_path_and_packed_ones_are_left_out(
    scenes: Path,
) -> None:
    facts = read(scenes / "dependencies.blend", "/projects/film/shot.blend")
    found = {(d.kind, d.path) for d in facts.dependencies}
    assert found >= {
        ("image", "/projects/film/tex/wood.png"),
        ("sequence", "/projects/film/tex/wave_001.png"),
        ("tiles", "/projects/film/tex/skin.<UDIM>.png"),
        ("image", "C:/textures/brick.png"),
        ("library", "/projects/film/library.blend"),
        ("volume", "/projects/film/smoke.vdb"),
        ("image", f"{scenes}/tex/wood.png"),  # the sequencer's strip
    }
    assert not [path for _, path in found if "packed" in path or "generated" in path]
    assert [d.path for d in facts.libraries] == ["/projects/film/library.blend"]
    assert facts.unread_blocks == []


@pytest.mark.blender
def test_facts_hold_unbaked_simulations_but_no_baked_or_hidden_ones(scenes: Path) -> None:
    found = by_name(read(scenes / "simulations.blend"))
    unbaked = {
        "rigid": "rigid_body",
        "cloth": "cloth",
        "soft": "soft_body",
        "particles": "particles",
        "moving": "hair",
        "fluid": "fluid",
        "paint": "dynamic_paint",
        "nodes": "geometry_nodes",
    }
    assert {name: kinds for name, kinds in found.items() if kinds} == {
        n: [(n, k)] for n, k in unbaked.items()
    }
    assert {"passive", "off", "still", "hair", "rigid baked", "cloth baked", "soft baked"} <= set(found)


@pytest.mark.blender
def test_a_simulation_has_its_modifier_cache_and_the_reason_to_bake_it(scenes: Path) -> None:
    found = {s.name: s for s in read(scenes / "simulations.blend").scenes}
    [cloth] = found["cloth"].unbaked_simulations
    assert (cloth.modifier, cloth.frame_start, cloth.frame_end, cloth.why) == ("m", 1, 5, "")
    [rigid] = found["rigid"].unbaked_simulations
    assert (rigid.modifier, rigid.frame_end, rigid.why) == ("", 5, "")
    assert found["particles"].unbaked_simulations[0].why == "particles"
    assert found["cloth"].baked_simulations == []
    [baked] = found["cloth baked"].baked_simulations
    assert (baked.object, baked.frame_start, baked.frame_end) == ("cloth baked", 1, 5)


@pytest.mark.blender
def test_an_unbaked_cache_is_no_dependency(scenes: Path) -> None:
    assert not [d for d in read(scenes / "simulations.blend").dependencies if d.required]


# ------------------------------------------------------------------------- unreadable files


def test_files_that_are_no_blend_get_a_message_of_one_sentence(tmp_path: Path) -> None:
    samples = {
        "empty": b"",
        "text": b"hello, world",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "gzipped text": gzip.compress(b"hello, world"),
        "zipped text": zstandard.compress(b"hello, world"),
        "half gzip": gzip.compress(b"BLENDER-v402" + os.urandom(5000))[:2000],
        "damaged zstd": b"\x28\xb5\x2f\xfd" + os.urandom(500),
        "header only": b"BLENDER-v402",
        "no number": b"BLENDER-vxyz" + bytes(100),
        "unknown header": b"BLENDER18-02v0600" + bytes(100),
        "no structs": b"BLENDER-v402ENDB" + bytes(20),
        "negative length": b"BLENDER-v402" + struct.pack("<4siQii", b"OB\0\0", -5, 1, 0, 1),
        "endless length": b"BLENDER-v402" + struct.pack("<4siQii", b"OB\0\0", 2**31 - 1, 1, 0, 1),
    }
    for name, content in samples.items():
        (tmp_path / f"{name}.blend").write_bytes(content)
    blends = [(f"/in/{name}.blend", tmp_path / f"{name}.blend") for name in samples]
    blends.append(("/in/gone.blend", tmp_path / "gone.blend"))
    for (path, _), facts in zip(blends, read_scenes(blends), strict=True):
        assert facts.path == path
        assert facts.cause == "unreadable_scene", path
        assert facts.message is not None
        assert facts.message.startswith(path[4:]) and facts.message.endswith("."), facts.message


@pytest.mark.blender
def test_unreadable_scene_cut_off_anywhere_spoils_no_other(scenes: Path, tmp_path: Path) -> None:
    blends = []
    for source in ("scenes.blend", "compressed.blend"):
        content = (scenes / source).read_bytes()
        for part in (1, 2, 3, 5, 7):
            cut = tmp_path / f"{part}{source}"
            cut.write_bytes(content[: len(content) * part // 8])
            blends.append((str(cut), cut))
        blends.append((source, scenes / source))
    facts = read_scenes(blends)
    assert [f.path for f in facts if f.cause is None] == ["scenes.blend", "compressed.blend"]


@pytest.mark.blender
def test_every_damaged_file_gets_an_answer(scenes: Path, tmp_path: Path) -> None:
    content = (scenes / "dependencies.blend").read_bytes()
    blends = []
    for number in range(40):
        spoilt = bytearray(content)
        for at in range(12 + number * 17, len(spoilt), 977 + number * 31):
            spoilt[at] ^= 0x55 + number
        path = tmp_path / f"{number}.blend"
        path.write_bytes(spoilt)
        blends.append((path.name, path))
    facts = read_scenes(blends, file_limit_seconds=0.5)
    assert [f.path for f in facts] == [path for path, _ in blends]
    reasons = {f.message.split(" ", 1)[1] for f in facts if f.message}
    assert reasons
    assert not any("could not" in reason for reason in reasons)


@pytest.mark.blender
def test_a_file_after_one_that_takes_too_long_is_read(scenes: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.blend"
    slow.write_bytes(b"BLENDER-v402" + struct.pack("<4siQii", b"AC\0\0", 0, 1, 0, 1) * 400_000)
    blends = [("/in/slow.blend", slow), ("/in/scenes.blend", scenes / "scenes.blend")]
    first, second = read_scenes(blends, file_limit_seconds=0.1)
    assert first.message == "slow.blend takes too long to read."
    assert second.active_scene == "Shot"


# ---------------------------------------------------------------------------------- the limits


def test_a_bomb_of_zeros_is_refused_without_filling_the_memory(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.blend"
    block = struct.pack("<4siQii", b"OB\0\0", 1 << 30, 1, 0, 1)
    with bomb.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as packed:
        packed.write(b"BLENDER-v402")
        for _ in range(2):
            packed.write(block)
            for _ in range(1 << 10):
                packed.write(bytes(1 << 20))
    assert bomb.stat().st_size < 1 << 20
    facts = read(bomb)
    assert facts.cause == "unreadable_scene"


def test_a_file_that_takes_too_long_is_unreadable_after_the_time_limit(tmp_path: Path) -> None:
    slow = tmp_path / "slow.blend"
    os.mkfifo(slow)
    writer = os.open(slow, os.O_RDWR)  # reading it never ends
    (facts,) = read_scenes([("/in/slow.blend", slow)], time_limit_seconds=1)
    os.close(writer)
    assert facts.cause == "unreadable_scene"
    assert facts.message == "slow.blend could not be read within 1 s."


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_the_reader_ends_when_the_server_is_killed(tmp_path: Path, sandbox: str) -> None:
    slow = tmp_path / "slow.blend"
    os.mkfifo(slow)
    writer = os.open(slow, os.O_RDWR)
    program = "import sys, pathlib; from framefarm.server.files.scene_reader import read_scenes; "
    program += "read_scenes([('/in/slow.blend', pathlib.Path(sys.argv[1]))], 600, sandbox=sys.argv[2])"
    server = subprocess.Popen([sys.executable, "-c", program, str(slow), sandbox])

    def reader() -> int | None:
        below = [server.pid, *descendants(server.pid)]
        return next((p for p in below if b"framefarm.server.files.scene_reader_process" in _words(p)), None)

    pid = _wait(reader)
    server.send_signal(signal.SIGKILL)
    server.wait()

    def has_ended() -> bool:
        end_orphans()  # as at the farm's next start: bubblewrap may have been killed while it started
        return not Path(f"/proc/{pid}").exists() or "State:\tZ" in _status(str(pid))

    _wait(has_ended)
    os.close(writer)


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
@pytest.mark.parametrize("kills", [1, 3, 4])
def test_scene_reader_killed_from_outside_is_no_fault_of_the_file_until_the_fourth_time(
    tmp_path: Path, sandbox: Mode, kills: int
) -> None:
    slow = tmp_path / "slow.blend"
    os.mkfifo(slow)
    writer = os.open(slow, os.O_RDWR)
    before: set[int] = set()

    def reader() -> int | None:
        python = [sys.executable.encode(), b"framefarm.server.files.scene_reader_process"]
        below = set(descendants(os.getpid())) - before
        return next((p for p in below if [w for w in _words(p)[:5] if w in python] == python), None)

    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(read_scenes, [("/in/slow.blend", slow)], 60, sandbox=sandbox)
        for _ in range(kills):
            pid = _wait(reader)
            before.add(pid)
            os.kill(pid, signal.SIGKILL)
        os.write(writer, b"no blend at all, but long enough to be one")
        os.close(writer)
        (facts,) = read.result()
    assert facts.message is not None
    assert facts.message.endswith("could not be read.") == (kills == 4)


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_a_stopping_farm_does_not_wait_for_a_scene(tmp_path: Path, sandbox: Mode) -> None:
    slow = tmp_path / "slow.blend"
    os.mkfifo(slow)
    writer = os.open(slow, os.O_RDWR)
    answers = iter([False, False])
    with pytest.raises(Stopped):
        read_scenes([("/in/slow.blend", slow)], 600, sandbox=sandbox, stopping=lambda: next(answers, True))
    os.close(writer)


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_answers_are_the_same_with_and_without_the_sandbox(tmp_path: Path, sandbox: Mode) -> None:
    (tmp_path / "no.blend").write_bytes(b"no blend at all, but long enough to be one")
    blends = [("/in/no.blend", tmp_path / "no.blend"), ("/in/gone.blend", tmp_path / "gone.blend")]
    assert [f.message for f in read_scenes(blends, sandbox=sandbox)] == [
        "no.blend is not a .blend file.",
        "gone.blend is missing.",
    ]


def test_without_a_working_bubblewrap_the_reader_has_limits_only_and_the_log_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_call, "unready", lambda: "bwrap is not installed.")
    scene_reader._warn_once.cache_clear()
    (tmp_path / "no.blend").write_bytes(b"no blend at all, but long enough to be one")
    with structlog.testing.capture_logs() as logs:
        (facts,) = read_scenes([("/in/no.blend", tmp_path / "no.blend")])
    assert facts.message == "no.blend is not a .blend file."
    assert [(e["event"], e["why"]) for e in logs] == [
        ("scene_reader_without_sandbox", "bwrap is not installed.")
    ]


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _status(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "State:\tZ"


def _wait(condition):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline, "no value within 20 s"
        time.sleep(0.01)
    return value


# ------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("stored", "blend", "expected"),
    [
        ("//tex/a.png", "/p/shot.blend", "/p/tex/a.png"),
        ("//..\\tex\\a.png", "/p/q/shot.blend", "/p/tex/a.png"),
        ("/abs/../a.png", "/p/shot.blend", "/a.png"),
        ("a.png", "/p/shot.blend", "/p/a.png"),
        ("//..\\tex\\a.png", "c:\\p\\q\\shot.blend", "C:/p/tex/a.png"),
        ("D:\\tex\\a.png", "C:/p/shot.blend", "D:/tex/a.png"),
        ("d:/tex/a.png", "/p/shot.blend", "D:/tex/a.png"),
        ("//tex/a.png", "\\\\nas\\films\\p\\shot.blend", "//nas/films/p/tex/a.png"),
        ("//tex/a.png", "//nas/films/p/shot.blend", "//nas/films/p/tex/a.png"),
        ("\\\\nas\\tex\\a.png", "/p/shot.blend", "//nas/tex/a.png"),
        ("//../../../../a.png", "/p/shot.blend", "/a.png"),
    ],
)
def test_stored_paths_are_resolved_by_the_rules_of_the_artists_system(
    stored: str, blend: str, expected: str
) -> None:
    assert absolute(stored, blend) == expected


@settings(max_examples=200)
@given(st.text(min_size=1, max_size=60), st.sampled_from(["/p/s.blend", "C:/p/s.blend", "//n/s/s.blend"]))
def test_any_stored_path_becomes_an_absolute_one_without_dots(stored: str, blend: str) -> None:
    path = absolute(stored, blend)
    assert path.startswith("/") or path[1:3] == ":/" or path.endswith(":")
    assert ".." not in path.split("/")
