"""The Debian 13 of Blenders that need a later Python: how it is laid, and what interrupts it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from framefarm.node import install_steps, userlands
from framefarm.node.blender_launch import BlenderLimits, SceneOrder, launch
from framefarm.node.inputs import Layout
from framefarm.node.install_steps import RuntimeProblem
from framefarm.node.sandbox import SandboxUnavailable
from framefarm.protocol.node import Package, RenderSettings
from framefarm.sandboxing import userland


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for Blenders, on a machine without a userland, whose user is root."""
    path = tmp_path / "runtimes"
    monkeypatch.setenv("FRAMEFARM_RUNTIMES", str(path))
    monkeypatch.setattr(install_steps, "SYSTEM_RUNTIMES", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that laying a userland ran; debootstrap is a fake that makes a Python and a program su."""
    ran: list[list[str]] = []

    def fake_run(command: list[str], *_: object, **__: object) -> str:
        ran.append(command)
        if "--variant=minbase" in command:
            programs = Path(command[-2]) / "usr" / "bin"
            programs.mkdir(parents=True)
            for name, mode in ("python3.13", 0o755), ("su", 0o4755):
                (programs / name).touch()
                (programs / name).chmod(mode)
        return ""

    monkeypatch.setattr(install_steps, "run", fake_run)
    return ran


def answering(answers: dict[str, str]) -> Callable[..., str]:
    """A fake `run` with the output of each command that has one of the words."""
    return lambda command, *_, **__: next((a for word, a in answers.items() if word in command), "")


def test_it_is_laid_once_and_no_half_stays(root: Path, commands: list[list[str]]) -> None:
    half = root / "userland-trixie.new-99"
    (half / "usr").mkdir(parents=True)
    (root / "userland-trixie").mkdir()  # its marker was never written
    steps: list[str] = []
    tree = userlands.ensure("Blender 5.2.3", steps.append)
    assert tree == root / "userland-trixie"
    assert sorted(os.listdir(root)) == ["userland-trixie", "userland-trixie.lock"]
    assert (tree / userland.MARKER).is_file()
    assert stat.S_IMODE((tree / "usr/bin/su").stat().st_mode) == 0o755
    assert len(steps) == 1 and "Debian 13" in steps[0]
    del commands[:]
    assert userlands.ensure("Blender 5.2.3", steps.append) == tree
    assert commands == []


def test_one_of_the_whole_machine_is_used(
    root: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = userlands.ensure("Blender 5.2.3", lambda _: None)
    monkeypatch.setattr(install_steps, "SYSTEM_RUNTIMES", root)
    monkeypatch.setenv("FRAMEFARM_RUNTIMES", str(tmp_path / "other"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert userlands.ensure("Blender 5.3.0", lambda _: None) == tree


def test_what_fails_is_removed_and_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], failure: str, **_: object) -> str:
        if "debootstrap" in command:
            raise RuntimeProblem(f"{failure}: E: Unable to find trixie")
        return ""

    monkeypatch.setattr(install_steps, "run", fail)
    with pytest.raises(RuntimeProblem, match=r"Blender 5\.2\.3 needs a Debian 13 .* Unable to find trixie"):
        userlands.ensure("Blender 5.2.3", lambda _: None)
    assert os.listdir(root) == ["userland-trixie.lock"]


def test_an_ordinary_user_gets_the_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RuntimeProblem, match=r"needs Python 3\.13.*uv python install 3\.13.*let root run"):
        userlands.ensure("Blender 5.2.3", lambda _: None)


def test_debootstrap_is_installed_where_it_is_missing(
    root: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    which = {"bwrap": "/usr/bin/bwrap", "apt-get": "/usr/bin/apt-get"}
    monkeypatch.setattr(userlands.shutil, "which", which.get)
    userlands.ensure("Blender 5.2.3", lambda _: None)
    assert commands[0][:2] == ["apt-get", "install"] and commands[0][-1] == "debootstrap"
    del which["apt-get"]
    userland_tree = root / userlands.NAME
    (userland_tree / userland.MARKER).unlink()
    with pytest.raises(RuntimeProblem, match="apt-get install debootstrap"):
        userlands.ensure("Blender 5.2.3", lambda _: None)


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        ("Debian-Security|http://x/debian-security/\nDebian|http://mirror.studio/debian/\n", "http://mirror.studio/debian"),
        ("Google|https://packages.example/apt\nDebian|https://a.b/d\n", "https://a.b/d"),
        ("|http://cache:3142/deb.debian.org/debian/\n", "http://cache:3142/deb.debian.org/debian"),
        ("Ubuntu|http://archive.ubuntu.com/ubuntu/\n", userlands.DEFAULT_MIRROR),
        ("Debian|cdrom:/[Debian]/\n", userlands.DEFAULT_MIRROR),
        ("", userlands.DEFAULT_MIRROR),
    ],
)  # fmt: skip
def test_the_mirror_is_that_of_this_machines_apt(
    targets: str, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userlands.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(install_steps, "run", answering({"indextargets": targets}))
    assert userlands.debian_mirror() == mirror


def test_the_proxies_are_those_of_this_machines_apt(
    root: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "http://own:1")
    monkeypatch.setattr(userlands.shutil, "which", lambda name: f"/usr/bin/{name}")
    answers = {"Acquire::http::Proxy": "p='http://proxy:3128'\n", "Acquire::https::Proxy": "p='http://q:1'\n"}
    monkeypatch.setattr(install_steps, "run", answering(answers))
    assert userlands.proxies() == {"http_proxy": "http://proxy:3128"}


@pytest.mark.blender
def test_the_start_program_of_a_real_one_sees_this_machines_files(tmp_path: Path) -> None:
    found = sorted(Path("/var/lib/framefarm/runtimes").glob("bpy-5.2.*/bin/python"))
    if not found or userland.userland_of(str(found[-1])) is None:
        pytest.skip("no Blender 5.2 with a userland here: framefarm blender install 5.2")
    script = tmp_path / "a script.py"
    script.write_text(
        "import bpy, os, sys; print(bpy.app.version[:2], os.getcwd(), *sys.argv[1:], flush=True)"
    )
    words = [found[-1], script, "a b", "ü"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == f"(5, 2) {tmp_path} a b ü\n"


def test_without_bubblewrap_a_blender_with_a_userland_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / userland.LINK).write_text("/nowhere\n")
    package = Package(id="blender-5-2", kind="bpy", path=str(tmp_path / "bin" / "python"), release="5.2.3")
    order = SceneOrder("/film/shot.blend", RenderSettings(), {})
    with pytest.raises(SandboxUnavailable, match=r"Blender 5\.2\.3 has its own userland.*--sandbox none"):
        launch(BlenderLimits((0,), 71236, "none"), package, order, Layout(tmp_path), tmp_path / "work")
