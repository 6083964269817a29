"""A real Blender, small scenes, and the harness that starts Blenders."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blender_harness import BlenderHarness

from framefarm.core.packages import package_id
from framefarm.protocol.node import Package


@pytest.fixture(scope="session")
def bpy_python() -> Path:
    """The Python of an environment with bpy 4.2: FRAMEFARM_TEST_BPY, else an install."""
    given = os.environ.get("FRAMEFARM_TEST_BPY")
    if given:
        return Path(given)
    found = sorted(Path("/var/lib/framefarm/runtimes").glob("bpy-4.2*/bin/python"))
    if not found:
        pytest.fail(
            "No Blender for the tests: run `framefarm blender install 4.2 --data DIR`, "
            "or set FRAMEFARM_TEST_BPY to a Python that has bpy 4.2."
        )
    return found[-1]


@pytest.fixture(scope="session")
def package(bpy_python: Path) -> Package:
    found = re.search(r"/bpy-(\d+\.\d+)", str(bpy_python))
    release = found[1] if found else "4.2"
    return Package(id=package_id(release), kind="bpy", path=str(bpy_python), release=release)


@pytest.fixture(scope="session")
def scenes(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    script = Path(__file__).with_name("make_scenes.py")
    subprocess.run([bpy_python, script, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def failing_scenes(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failing-scenes")
    script = Path(__file__).with_name("make_failing_scenes.py")
    subprocess.run([bpy_python, script, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def output_scenes(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output_scenes(bpy_python, tmp_path_factory)


def make_output_scenes(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output-scenes")
    script = Path(__file__).with_name("make_output_scenes.py")
    subprocess.run([bpy_python, script, folder], check=True, capture_output=True)
    return folder


def installed_versions() -> list[str]:
    """Versions of the Blenders that are installed as packages, of 4.2, 4.5 and 5.0; 4.2 always."""
    found = Path("/var/lib/framefarm/runtimes")
    return [v for v in ("4.2", "4.5", "5.0") if v == "4.2" or any(found.glob(f"bpy-{v}*/bin/python"))]


_packages: dict[str, tuple[Package, Path]] = {}


@pytest.fixture(params=installed_versions())
def each_harness(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    bpy_python: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[BlenderHarness]:
    """A harness of each installed version, with that version's output scenes."""
    version = request.param
    if version not in _packages:
        runtimes = Path("/var/lib/framefarm/runtimes")
        found = sorted(runtimes.glob(f"bpy-{version}*/bin/python"))
        python = bpy_python if version == "4.2" else found[-1]
        package = Package(
            id=f"blender-{version.replace('.', '-')}", kind="bpy", path=str(python), release=version
        )
        _packages[version] = package, make_output_scenes(python, tmp_path_factory)
    harness = BlenderHarness(tmp_path, *_packages[version])
    yield harness
    for blender in harness.blenders:
        blender.kill()


@pytest.fixture
def harness(tmp_path: Path, package: Package, scenes: Path) -> Iterator[BlenderHarness]:
    harness = BlenderHarness(tmp_path, package, scenes)
    yield harness
    for blender in harness.blenders:
        blender.kill()
