"""Installing Blenders: what is kept, what is refused, and what a crash leaves."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from framefarm.core.errors import InvalidInput
from framefarm.node import blender_installs, install_steps, pythons, userlands
from framefarm.node.blender_installs import Installed
from framefarm.node.install_steps import RuntimeProblem
from framefarm.sandboxing import userland


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for Blenders."""
    path = tmp_path / "runtimes"
    monkeypatch.setenv("FRAMEFARM_RUNTIMES", str(path))
    return path


def program(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def environment(root: Path, release: str, prints: str, whole: bool = True) -> Path:
    """An environment whose Python is a fake that only tells a version."""
    folder = root / f"bpy-{release}"
    (folder / "bin").mkdir(parents=True)
    program(folder / "bin" / "python", f"echo 'Blender {prints}'\n")
    if whole:
        (folder / install_steps.MARKER).write_text(release)
    return folder


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    releases = ["4.2.9", "4.2.23", "5.0.1", "5.2.3"]
    monkeypatch.setattr(
        blender_installs,
        "available_releases",
        lambda python: [r for r in releases if r.startswith("5.2") == (python == "3.13")],
    )
    return releases


def test_only_whole_environments_count_oldest_first(root: Path) -> None:
    environment(root, "4.2.23", "4.2.23 LTS")
    environment(root, "4.2.9", "4.2.9")
    environment(root, "4.5.0", "4.5.0", whole=False)
    (root / "bpy-4.2.23-old").mkdir()
    assert [i.release for i in blender_installs.installed()] == ["4.2.9", "4.2.23"]


def test_nothing_is_installed_where_nothing_is(root: Path) -> None:
    assert blender_installs.installed() == []


def test_a_series_that_is_here_is_started_and_nothing_is_asked_or_fetched(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment(root, "4.2.9", "4.2.9 LTS")
    monkeypatch.setattr(blender_installs, "_newest_on_index", lambda _: pytest.fail("asked the index"))
    monkeypatch.setattr(blender_installs, "_build", lambda *_: pytest.fail("built"))
    found = blender_installs.install_bpy("blender-4-2")
    assert found == Installed("bpy", "blender-4-2", "4.2.9", str(folder / "bin" / "python"))


def test_upgrade_looks_for_a_newer_release(
    root: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(root, "4.2.9", "4.2.9 LTS")
    built = []
    monkeypatch.setattr(blender_installs, "_build", lambda folder, release, on_step: built.append(release))
    assert blender_installs.install_bpy("4.2", upgrade=True).release == "4.2.23"
    assert built == ["4.2.23"]


def test_what_a_crash_left_half_done_is_built_anew(
    root: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = environment(root, "4.2.23", "4.2.23", whole=False)
    (half / "rubbish").touch()

    def fake_installer(command: list[str], *_: object, **__: object) -> str:
        (half / "bin").mkdir(parents=True, exist_ok=True)
        program(half / "bin" / "python", "echo 'Blender 4.2.23 LTS'\n").chmod(0o700)
        return ""

    monkeypatch.setattr(install_steps, "run", fake_installer)
    old = os.umask(0o077)
    try:
        blender_installs.install_bpy("4.2")
    finally:
        os.umask(old)
    assert not (half / "rubbish").exists()
    assert [i.release for i in blender_installs.installed()] == ["4.2.23"]
    assert (half / "bin" / "python").stat().st_mode & 0o777 == 0o755
    assert (half / install_steps.MARKER).stat().st_mode & 0o777 == 0o644


def test_one_that_does_not_start_is_not_offered(
    root: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_installer(command: list[str], *_: object, **__: object) -> str:
        (root / "bpy-4.2.23" / "bin").mkdir(parents=True, exist_ok=True)
        lacking = "ImportError: libXi.so.6: cannot open shared object file: No such file or directory"
        program(root / "bpy-4.2.23" / "bin" / "python", f"echo '{lacking}' >&2; exit 1\n")
        return ""

    monkeypatch.setattr(install_steps, "run", fake_installer)
    with pytest.raises(RuntimeProblem, match=r"libXi\.so\.6, which is missing: apt-get install libxi6\."):
        blender_installs.install_bpy("4.2")
    assert blender_installs.installed() == []


def test_a_full_disk_is_said_before_anything_is_fetched(
    root: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blender_installs, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(RuntimeProblem, match="GB of disk space"):
        blender_installs.install_bpy("4.2")


def test_an_unknown_release_names_those_there_are(root: Path, index: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"no bpy 4\.2\.24; there are: 4\.2\.9, 4\.2\.23"):
        blender_installs.install_bpy("4.2.24")
    with pytest.raises(InvalidInput, match=r"no bpy 4\.9; there are: 4\.2, .*5\.2"):
        blender_installs.install_bpy("4.9")


def test_an_older_series_says_what_to_do(root: Path) -> None:
    with pytest.raises(InvalidInput, match=r"does not exist as a package.*blender install --archive"):
        blender_installs.install_bpy("4.1")


def fake_environments(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    """Let the machine have the Pythons `found`, and let an environment's Python only tell a version."""

    def fake_installer(command: list[str], *_: object, **__: object) -> str:
        ran.append(command)
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            program(python, "echo 'Blender 5.2.3 LTS'\n")
        return ""

    monkeypatch.setattr(install_steps, "run", fake_installer)
    monkeypatch.setattr(pythons, "find", found.get)
    monkeypatch.setattr(userland, "entering", lambda tree: ["env"])


def test_a_later_series_takes_a_python_of_the_machine(
    root: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    fake_environments(ran, monkeypatch, {"3.13": "/opt/python3.13"})
    monkeypatch.setattr(userlands, "ensure", lambda *_: pytest.fail("laid a userland"))
    found = blender_installs.install_bpy("5.2")
    assert (found.id, found.release) == ("blender-5-2", "5.2.3")
    assert "/opt/python3.13" in ran[0]
    assert userland.userland_of(found.path) is None


def test_a_later_series_takes_a_userland_where_the_machine_lacks_its_python(
    root: Path, index: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []
    fake_environments(ran, monkeypatch, {"3.11": "/usr/bin/python3.11"})
    tree = tmp_path / "tree"
    tree.mkdir()
    monkeypatch.setattr(userlands, "ensure", lambda *_: tree)
    found = blender_installs.install_bpy("5.2")
    assert userland.userland_of(found.path) == tree
    assert not userland.is_whole(found.path)
    (tree / userland.MARKER).touch()
    assert userland.is_whole(found.path)
    assert blender_installs.installed() == [found]
    assert "/usr/bin/python3.13" in ran[0]


def test_a_series_without_its_python_says_so(
    root: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_environments([], monkeypatch, {})
    with pytest.raises(RuntimeProblem, match=r"needs Python 3\.11, and none was found"):
        blender_installs.install_bpy("4.2")


def test_the_index_is_asked_and_its_answer_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "bpy (5.0.1)\nAvailable versions: 5.0.1, 4.2.9, 4.2.23, 4.5.0rc1\n  INSTALLED: 4.2.9\n"
    monkeypatch.setattr(install_steps, "run", lambda *_, **__: answer)
    assert blender_installs.available_releases("3.11") == ["4.2.9", "4.2.23", "5.0.1"]


@pytest.mark.parametrize(
    ("printed", "release", "package"),
    [("Blender 4.2.1 LTS", "4.2.1", "blender-4-2"), ("Blender 2.93", "2.93.0", "blender-2-93")],
)
def test_a_program_tells_what_blender_it_is(tmp_path: Path, printed: str, release: str, package: str) -> None:
    path = program(tmp_path / "blender", f"echo 'noise'; echo '{printed}'; echo '\tbuild date: …'\n")
    assert blender_installs.describe_executable(path) == Installed("executable", package, release, str(path))


def test_a_program_that_is_none_or_no_blender_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="must be the path of a Blender program"):
        blender_installs.describe_executable(tmp_path / "nothing")
    with pytest.raises(InvalidInput, match="is not a Blender"):
        blender_installs.describe_executable(program(tmp_path / "other", "echo Maya 2027\n"))
    with pytest.raises(RuntimeProblem, match=r"does not start \(exit code 3\): broken"):
        blender_installs.describe_executable(program(tmp_path / "broken", "echo broken >&2; exit 3\n"))


def test_a_program_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_steps, "START_SECONDS", 0.2)
    with pytest.raises(RuntimeProblem, match="did not start within"):
        blender_installs.describe_executable(program(tmp_path / "hung", "exec sleep 60\n"))


@pytest.mark.blender
def test_a_real_one_that_is_here_needs_no_download_and_can_be_read_by_anyone() -> None:
    if not any(i.id == "blender-4-2" for i in blender_installs.installed()):
        pytest.skip("no Blender 4.2 here: framefarm blender install 4.2")
    begun = time.monotonic()
    found = blender_installs.install_bpy("4.2")
    assert time.monotonic() - begun < install_steps.START_SECONDS
    folder = Path(found.path).parents[1]
    unreadable = subprocess.run(
        ["find", folder, "-not", "-type", "l", "-not", "-perm", "-o+r"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert unreadable.stdout == ""
