"""Compiled shaders are kept from one Blender to the next, and files of a hostile scene harm nobody."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from blender_harness import UID, BlenderHarness

from framefarm.node import shader_cache
from framefarm.protocol.node import Package, RenderSettings

PACKAGE = Package(id="blender-4-2", kind="bpy", path="/opt/b/bin/python", release="4.2.23")
MESA = Path(".cache/mesa_shader_cache/ab")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    place = shader_cache.place(str(tmp_path / "kept"), "acc_1", PACKAGE)
    assert place is not None
    (tmp_path / "kept").mkdir()
    return place


def tmp_of(tmp_path: Path, number: int = 0) -> Path:
    """A Blender's /tmp with a shader."""
    folder = tmp_path / f"tmp{number}" / MESA
    folder.mkdir(parents=True)
    (folder / f"shader{number}").write_bytes(b"code")
    return tmp_path / f"tmp{number}"


def names(kept: Path) -> list[str]:
    return sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if not path.is_dir())


def test_shaders_go_to_the_next_blender_of_the_account(tmp_path: Path, kept: Path) -> None:
    shader_cache.take_back(kept, tmp_of(tmp_path))
    shader_cache.take_back(kept, tmp_of(tmp_path, 1))
    assert names(kept) == ["mesa_shader_cache/ab/shader0", "mesa_shader_cache/ab/shader1"]
    next_tmp = tmp_path / "next"
    next_tmp.mkdir()
    shader_cache.hand_out(kept, next_tmp, UID)
    copied = next_tmp / MESA / "shader0"
    assert copied.read_bytes() == b"code"
    assert os.geteuid() != 0 or copied.stat().st_uid == copied.parent.stat().st_uid == UID
    assert copied.stat().st_ino != (kept / "mesa_shader_cache/ab/shader0").stat().st_ino


def test_accounts_packages_and_drivers_have_caches_of_their_own(tmp_path: Path) -> None:
    root = str(tmp_path)
    other = Package(id="blender-4-2", kind="bpy", path="/opt/b/bin/python", release="4.2.24")
    places = {shader_cache.place(root, a, p) for a in ("acc_1", "acc_2") for p in (PACKAGE, other)}
    assert len(places) == 4 and None not in places
    assert shader_cache.place("", "acc_1", PACKAGE) is None
    assert shader_cache.place(root, "..", PACKAGE) is None
    assert shader_cache.place(root, "a/b", PACKAGE) is None


def test_only_plain_files_of_known_makers_are_kept(tmp_path: Path, kept: Path) -> None:
    tmp = tmp_of(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("of the farm")
    folder = tmp / MESA
    (folder / "link").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    (folder / "odd name").write_text("")
    os.mkfifo(folder / "pipe")
    (tmp / ".cache" / "evil").mkdir()
    (tmp / ".cache" / "evil" / "file").write_text("")
    (tmp / ".cache" / "loose").write_text("")
    shader_cache.take_back(kept, tmp)
    assert names(kept) == ["mesa_shader_cache/ab/shader0"]
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / ".cache").symlink_to(tmp / ".cache")
    shader_cache.take_back(kept.with_name("other"), linked)
    assert not kept.with_name("other").exists()


def test_caches_are_bounded_and_go_when_unused(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = kept.with_name("unused")
    unused.mkdir(parents=True)
    os.utime(unused, (0, time.time() - shader_cache.UNUSED_SECONDS - 60))
    monkeypatch.setattr(shader_cache, "MOST_FILES", 2)
    for number in range(4):
        tmp = tmp_of(tmp_path, number)
        os.utime(tmp / MESA / f"shader{number}", (number + 1, number + 1))
        shader_cache.take_back(kept, tmp)
    assert names(kept) == ["mesa_shader_cache/ab/shader2", "mesa_shader_cache/ab/shader3"]
    assert not unused.exists()


def test_nothing_fails_where_the_disk_does(tmp_path: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("in the way")
    shader_cache.take_back(kept, tmp_of(tmp_path))
    shader_cache.hand_out(kept, tmp_path / "nowhere", UID)
    shader_cache.take_back(None, tmp_path)


@pytest.mark.blender
def test_a_blender_starts_with_the_shaders_of_the_one_before(
    harness: BlenderHarness, failing_scenes: Path, tmp_path: Path
) -> None:
    harness.scenes = failing_scenes
    kept = tmp_path / "kept" / "acc_1" / "place"
    kept.parent.mkdir(parents=True)
    counts = []
    layout = harness.layout()
    for _ in range(2):
        blender = harness.start("eevee", RenderSettings(engine="workbench"), layout=layout, shaders=kept)
        blender.open_scene()
        blender.render(1)
        harness.saved()
        blender.close()
        assert harness.exited().cause == "closed"
        counts.append(names(kept))
    # Mesa writes in a thread of its own, so a Blender may end before the last shader is kept.
    assert counts[0] and len(set(counts[1]) - set(counts[0])) < len(counts[0]) / 2
