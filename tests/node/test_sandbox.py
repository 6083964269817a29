"""The sandbox by itself, without Blender."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyseccomp
import pytest

import framefarm
from framefarm.node import sandbox
from framefarm.node.sandbox import Bind, Mode, Sandbox, SandboxUnavailable
from framefarm.sandboxing import bubblewrap
from framefarm.sandboxing.userland import userland_of

UID = 71235
CORE = min(os.sched_getaffinity(0))


def run(box: Sandbox, program: Sequence[str], environment: dict[str, str] | None = None) -> tuple[int, str]:
    process = box.start(program, environment or {})
    printed = b"".join(iter(lambda: os.read(process.output, 65536), b""))
    code = process.wait(30)
    process.close()
    return code, printed.decode()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_this_machine_has_a_sandbox() -> None:
    assert sandbox.check() is None
    assert sandbox.check("none") is None


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name, path: None if name == "bwrap" else name)
    assert sandbox.check() == "bwrap is not installed: install the Debian package bubblewrap."


def test_a_bubblewrap_that_may_not_mount_says_so() -> None:
    """As a user without namespaces, in a process whose capabilities are gone."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give it up")
    source = Path(framefarm.__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = {[str(source), str(Path(pyseccomp.__file__).parent)]!r}\n"
        "from framefarm.node.sandbox import check\nprint(check())"
    )
    dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "/usr/bin/python3.11", "-I", "-c", code]
    printed = subprocess.run(dropped, capture_output=True, text=True, check=True).stdout
    assert printed.startswith("bubblewrap does not work on this machine: bwrap:")


def test_an_ordinary_users_sandbox_cannot_become_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as this user already")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source = Path(framefarm.__file__).parents[1]
        subprocess.run(["cp", "-r", source / "framefarm", folder], check=True)
        subprocess.run(["cp", pyseccomp.__file__, folder], check=True)
        subprocess.run(["chmod", "-R", "go+rX", folder], check=True)
        code = (
            f"import sys, os; sys.path.insert(0, {folder!r})\n"
            "from framefarm.node.sandbox import Sandbox\n"
            "for program in (['/usr/bin/unshare', '-U', 'true'], ['/usr/bin/id', '-u']):\n"
            f"    process = Sandbox('bubblewrap', 1, ({CORE},)).start(program, {{}})\n"
            "    print(b''.join(iter(lambda: os.read(process.output, 999), b'')))\n"
            "    print(process.wait())\n"
        )
        drop = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--bounding-set=-all"]
        done = subprocess.run(
            [*drop, "/usr/bin/python3.11", "-I", "-c", code], capture_output=True, text=True, check=True
        )
    lines = done.stdout.splitlines()
    assert "unshare failed" in lines[0] and lines[1] != "0"
    assert lines[2:] == [repr(f"{UID}\n".encode()), "0"]


@pytest.mark.parametrize("mode", ["bubblewrap", "none"])
def test_the_program_is_the_slots_user_on_the_slots_cores(mode: Mode) -> None:
    code_of_program = (
        "import os; print(os.getuid(), os.getgroups(), sorted(os.sched_getaffinity(0)), os.environ['A'])"
    )
    code, printed = run(
        Sandbox(mode, UID, (CORE,)), ["/usr/bin/python3.11", "-I", "-c", code_of_program], {"A": "b'c d"}
    )
    user, groups = (UID, "[]") if os.geteuid() == 0 else (os.getuid(), str(os.getgroups()))
    assert (code, printed.strip()) == (0, f"{user} {groups} [{CORE}] b'c d")


def test_binds_are_read_only_and_their_parents_passable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir(mode=0o755)
    (tmp_path / "in" / "a").write_text("hello")
    box = Sandbox("bubblewrap", UID, (CORE,), (Bind(str(tmp_path / "in"), "/deep/in/side"),))
    script = "cat /deep/in/side/a; touch /deep/in/side/b || touch /deep/b || touch /b || echo ' closed'"
    code, printed = run(box, ["/bin/sh", "-c", script + " 2>/dev/null"])
    assert code == 0
    assert printed.startswith("hello") and printed.endswith("closed\n")
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["a"]


def test_an_input_never_covers_the_system(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    box = Sandbox("bubblewrap", UID, (CORE,), (Bind(str(tmp_path), "/usr"),))
    assert run(box, ["/bin/true"])[0] == 0


def test_with_a_userland_the_system_is_its_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc" / "fonts").mkdir(parents=True)
    (tree / "etc" / "fonts" / "its-own").touch()
    (tree / "usr").symlink_to("/usr")
    for name in ("bin", "lib", "lib64", "sbin"):
        (tree / name).symlink_to(f"usr/{name}")
    (tmp_path / "input").mkdir()
    binds = (Bind(str(tmp_path / "input"), "/usr"), Bind(str(tmp_path / "input"), "/etc/fonts"))
    box = Sandbox("bubblewrap", UID, (CORE,), binds, userland=tree)
    code, printed = run(
        box, ["/bin/sh", "-c", "ls /etc/fonts /usr/bin/sh; ls / | tr '\\n' ' '; readlink /lib"]
    )
    assert code == 0, printed
    assert printed.split()[:3] == ["/usr/bin/sh", "/etc/fonts:", "its-own"]
    assert printed.split()[-1] == "usr/lib"


@pytest.mark.blender
def test_the_helpers_are_those_of_the_userland() -> None:
    found = sorted(Path("/var/lib/framefarm/runtimes").glob("bpy-5.2.*/bin/python"))
    tree = userland_of(str(found[-1])) if found else None
    if tree is None:
        pytest.skip("no Blender 5.2 with a userland here: framefarm blender install 5.2")
    box = Sandbox("bubblewrap", UID, (CORE,), userland=tree)
    code, printed = run(box, ["/bin/sh", "-c", "cat /usr/lib/os-release; id -u; ls /usr/bin/python3.11"])
    assert 'VERSION_ID="13"' in printed and f"\n{UID}\n" in printed and "No such file" in printed
    assert code != 0


@pytest.mark.parametrize("mode", ["bubblewrap", "none"])
def test_a_signal_is_told_apart_from_an_exit_code(mode: Mode) -> None:
    box = Sandbox(mode, UID, (CORE,))
    assert run(box, ["/bin/sh", "-c", "kill -11 $$"])[0] == -11
    assert run(box, ["/bin/sh", "-c", "exit 7"])[0] == 7


def test_only_the_main_thread_may_start_one() -> None:
    refused: list[RuntimeError] = []

    def start() -> None:
        try:
            Sandbox("bubblewrap", UID, (CORE,)).start(["/bin/true"], {})
        except RuntimeError as error:
            refused.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(refused) == 1


def test_without_bubblewrap_a_closed_folder_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(SandboxUnavailable, match="chmod o\\+x"):
        sandbox.check_passable(closed / "output")


@pytest.mark.parametrize("mode", ["bubblewrap", "none"])
def test_killing_the_starter_ends_the_program(mode: Mode) -> None:
    code = (
        "import os, time\n"
        "from framefarm.node.sandbox import Sandbox\n"
        f"p = Sandbox({mode!r}, {UID}, ({CORE},)).start(['/bin/sleep', '600'], {{}})\n"
        "time.sleep(0)\n"
        "print(p.pid, flush=True); time.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    deadline = time.monotonic() + 10
    sleeper = 0
    while not sleeper and time.monotonic() < deadline:
        sleeper = next((p for p in tree(pid) if command(p).split(b"\0")[0] == b"/bin/sleep"), 0)
    assert sleeper
    starter.kill()
    starter.wait()
    while Path(f"/proc/{sleeper}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{sleeper}").exists()


def tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(p for child in children for p in tree(int(child)))]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
