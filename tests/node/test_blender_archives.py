"""Blenders from their own archives: false ones that must be refused, and a real one that renders."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from blender_harness import BlenderHarness

from framefarm.core.errors import FarmError, InvalidInput
from framefarm.node import blender_archives, install_steps
from framefarm.node.blender_archives import install_archive
from framefarm.node.blender_installs import installed
from framefarm.node.installed import Installed
from framefarm.protocol.node import Package

DEBIANS = Path("/usr/bin/blender")
TELLS_VERSION = b"#!/bin/sh\necho 'Blender 4.2.1 LTS'\n"
FOLDER = "blender-4.2.1-linux-x64"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "runtimes"
    monkeypatch.setenv("FRAMEFARM_RUNTIMES", str(path))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def tar_of(path: Path, *entries: tarfile.TarInfo, program: bytes = TELLS_VERSION, mode: str = "w:xz") -> Path:
    """An archive of a false Blender 4.2.1 and further entries."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info in (entry(f"{FOLDER}/blender"), *entries):
            content = program if info.isreg() else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def install(path: Path) -> Installed:
    return install_archive(path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2", "w"])
def test_an_archive_is_a_package_of_its_own_beside_the_wheel(root: Path, tmp_path: Path, mode: str) -> None:
    archive = tar_of(
        tmp_path / "a.tar",
        entry(f"{FOLDER}/lib/libx.so.1"),
        entry(f"{FOLDER}/lib/libx.so", tarfile.SYMTYPE, "libx.so.1"),
        entry(f"{FOLDER}/lib/liby.so", tarfile.LNKTYPE, f"{FOLDER}/lib/libx.so.1"),
        mode=mode,
    )
    found = install(archive)
    assert (found.kind, found.id, found.release) == ("archive", "blender-4-2-archive", "4.2.1")
    assert found.path == str(root / "archive-4.2.1" / "blender")
    assert os.readlink(root / "archive-4.2.1/lib/libx.so") == "libx.so.1"
    assert (root / "archive-4.2.1/lib/liby.so").read_bytes() == TELLS_VERSION
    assert sorted(os.listdir(root)) == ["archive-4.2.1", "archives.lock"]
    assert installed() == [found]


def test_a_zip_keeps_its_programs_and_links(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "blender.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content, mode in (
            ("blender", TELLS_VERSION, stat.S_IFREG | 0o755),
            ("lib/a.so.1", b"", stat.S_IFREG | 0o644),
            ("lib/a.so", b"a.so.1", stat.S_IFLNK | 0o777),
        ):
            info = zipfile.ZipInfo(f"{FOLDER}/{name}")
            info.external_attr = mode << 16
            zipped.writestr(info, content)
    install(path)
    assert os.readlink(root / "archive-4.2.1/lib/a.so") == "a.so.1"


def test_the_same_archive_is_installed_once_and_another_of_its_release_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar_of(tmp_path / "a.tar.xz")
    half = root / "archive.new-99"
    half.mkdir(parents=True)
    found = install(archive)
    assert not half.exists()
    other = tar_of(tmp_path / "b.tar.xz", entry(f"{FOLDER}/readme"))
    with pytest.raises(FarmError, match=r"4\.2\.1 is installed from another archive: to replace it, remove"):
        install(other)
    monkeypatch.setattr(blender_archives, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert install(archive) == found


def test_a_wrong_checksum_is_refused_before_anything_is_unpacked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blender_archives, "_unpack", lambda *_: pytest.fail("unpacked"))
    archive = tar_of(tmp_path / "a.tar.xz")
    with pytest.raises(InvalidInput, match=r"is not that of a\.tar\.xz, which has [0-9a-f]{64}"):
        install_archive(archive, "0" * 64)
    with pytest.raises(InvalidInput, match="must be 64 hexadecimal digits"):
        install_archive(archive, "abc")
    with pytest.raises(InvalidInput, match="can't be read: No such file"):
        install_archive(tmp_path / "nothing", "0" * 64)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (entry("../out"), "leads out of its folder"),
        (entry("/etc/out"), "leads out of its folder"),
        (entry(f"{FOLDER}/a/../../../out"), "leads out of its folder"),
        (entry(f"{FOLDER}/a", tarfile.SYMTYPE, "/etc"), "link that leads out"),
        (entry(f"{FOLDER}/a", tarfile.SYMTYPE, "../../.."), "link that leads out"),
        (entry(f"{FOLDER}/a", tarfile.LNKTYPE, "../../etc/passwd"), "leads out of its folder"),
        (entry(f"{FOLDER}/a", tarfile.LNKTYPE, "nothing"), "link to a file that it does not have"),
        (entry(f"{FOLDER}/a", tarfile.FIFOTYPE), "neither a file, a folder nor a link"),
        (entry(f"{FOLDER}/a", tarfile.BLKTYPE), "neither a file, a folder nor a link"),
    ],
)
def test_entries_that_lead_out_are_refused(
    root: Path, tmp_path: Path, bad: tarfile.TarInfo, why: str
) -> None:
    with pytest.raises(InvalidInput, match=f"can't be unpacked: .*{why}"):
        install(tar_of(tmp_path / "a.tar.xz", bad))
    assert os.listdir(root) == ["archives.lock"]
    assert not (tmp_path / "out").exists()


def test_a_link_within_a_link_and_a_file_over_another_are_refused(root: Path, tmp_path: Path) -> None:
    links = (entry("a", tarfile.SYMTYPE, "."), entry("a/b", tarfile.SYMTYPE, "../c"))
    with pytest.raises(InvalidInput, match="is a link within a link"):
        install(tar_of(tmp_path / "a.tar.xz", *links))
    with pytest.raises(FarmError, match=r"b\.tar\.xz can't be unpacked: File exists"):
        install(tar_of(tmp_path / "b.tar.xz", entry(f"{FOLDER}/blender")))


def test_too_much_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_of(tmp_path / "a.tar.xz", entry(f"{FOLDER}/b"))
    monkeypatch.setattr(blender_archives, "MAX_BYTES", len(TELLS_VERSION) + 1)
    with pytest.raises(InvalidInput, match="is larger than"):
        install(archive)
    monkeypatch.setattr(blender_archives, "MAX_ENTRIES", 1)
    with pytest.raises(InvalidInput, match="more than 1 entries"):
        install(archive)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!DOCTYPE html>", "neither a zip nor a tar"),
        (b"", "neither a zip nor a tar"),
        ("truncated", "can't be unpacked"),
        ("no program", "is not a Blender: it has no program blender"),
        ("Maya", "is not a Blender: it does not print its version"),
    ],
)
def test_what_is_no_blender_is_refused(root: Path, tmp_path: Path, content: bytes | str, why: str) -> None:
    path = tmp_path / "a.tar.xz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "truncated":
        tar_of(path, program=os.urandom(100_000))
        path.write_bytes(path.read_bytes()[:50_000])
    elif content == "Maya":
        tar_of(path, program=b"#!/bin/sh\necho Maya 2027\n")
    else:
        with tarfile.open(path, "w:xz") as tar:
            tar.addfile(entry("readme"), io.BytesIO())
    with pytest.raises(InvalidInput, match=why):
        install(path)
    assert os.listdir(root) == ["archives.lock"]


def test_all_libraries_that_it_lacks_are_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blender_archives, "_missing_libraries", lambda _: ["libSM.so.6", "libXi.so.6"])
    with pytest.raises(
        install_steps.RuntimeProblem,
        match=r"libraries libSM\.so\.6, libXi\.so\.6, which are missing: apt-get install libsm6 libxi6\.",
    ):
        install(tar_of(tmp_path / "a.tar.xz"))


# ------------------------------------------------------------------------------------- a real one

MAKE_SCENES = """
import bpy, os, sys
folder = sys.argv[-1]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 1, False
scene.render.resolution_x, scene.render.resolution_y = 32, 24
scene.frame_end = 4
camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
camera.location = (0, 0, 12)
scene.collection.objects.link(camera)
scene.camera = camera
bpy.ops.mesh.primitive_cube_add(size=4)
domain = bpy.context.object.modifiers.new("Domain", "FLUID")
domain.fluid_type = "DOMAIN"
domain.domain_settings.resolution_max = 8
domain.domain_settings.cache_directory = "//smoke"
bpy.ops.wm.save_as_mainfile(filepath=os.path.join(folder, "plain.blend"))
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with the layout of an official one, made of Debian's Blender."""
    if not DEBIANS.exists():
        pytest.skip("no Blender of Debian here: apt-get install blender")
    folder = tmp_path_factory.mktemp("archive")
    version = subprocess.run(
        [DEBIANS, "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    inside = folder / f"blender-{version}-linux-x64"
    inside.mkdir()
    shutil.copy2(DEBIANS, inside)
    shutil.copytree("/usr/share/blender", inside / version.rpartition(".")[0], ignore_dangling_symlinks=True)
    with tarfile.open(folder / f"{inside.name}.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(inside, inside.name)
    return folder / f"{inside.name}.tar.gz"


@pytest.mark.blender
@pytest.mark.long
def test_a_real_archive_does_fluids_and_renders_in_the_sandbox(
    real: Path, root: Path, tmp_path: Path
) -> None:
    found = install(real)
    assert found.kind == "archive" and found.lacks is not None
    assert "fluid_simulation" not in found.lacks and "cycles" not in found.lacks
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    make = tmp_path / "make.py"
    make.write_text(MAKE_SCENES)
    words = [found.path, "-b", "--factory-startup", "--python-exit-code", "1", "--python", make, "--", scenes]
    subprocess.run(words, check=True, capture_output=True)
    package = Package(id=found.id, kind="archive", path=found.path, release=found.release)
    harness = BlenderHarness(tmp_path, package, scenes)
    try:
        blender = harness.start("plain")
        blender.open_scene()
        assert harness.opened().blender_version == found.release
        blender.render(2)
        saved = harness.saved()
        assert [path.name for path in saved.directory.iterdir()] == ["picture_0002.png"]
        blender.close()
        assert harness.exited().code == 0
    finally:
        for started in harness.blenders:
            started.kill()
