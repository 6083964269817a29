"""The watch of lookups, from outside and against programs that disturb it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyseccomp
import pytest

import framefarm
from framefarm.node.blender_launch import PROGRAM
from framefarm.node.lookup_check import why_unseen
from framefarm.sandboxing.bubblewrap import Bind, Mode, Process, Sandbox
from framefarm.sandboxing.lookup_watch import LookupWatch, WatchedPlaces, WatchLost
from framefarm.sandboxing.uids import UidClaim
from framefarm.sandboxing.usage_monitor import descendants

PYTHON = "/usr/bin/python3.11"
CORES = tuple(sorted(os.sched_getaffinity(0)))
OFFER = PROGRAM["lookups.py"].decode() + "\nimport sys, threading\n"
START = "offer(int(sys.argv[1]))\n"
LOOK = """
def look(path, flags=os.O_RDONLY, **more):
    try: os.close(os.open(path, flags, **more)); return 0
    except OSError as error: return error.errno
"""


@dataclass
class Watched:
    """Programs under a watch; the fixture ends them."""

    folder: Path
    claim: UidClaim
    started: list[tuple[LookupWatch, Process]] = field(default_factory=list)

    def start(self, code: str, mode: Mode = "bubblewrap", watches: int = 1) -> tuple[LookupWatch, Process]:
        """Start a program; the first of the watches is returned, the others come as further arguments."""
        folder = str(self.folder)
        if mode == "none":
            places = WatchedPlaces(((folder, folder),), ("/usr", "/etc"), plain=True)
        else:
            places = WatchedPlaces((("/film", folder),), ("/usr", "/etc"))
        made = [LookupWatch(places, CORES) for _ in range(watches)]
        offered = [watch.for_program.fileno() for watch in made]
        binds = (Bind(folder, "/film"),) if mode == "bubblewrap" else ()
        program = [PYTHON, "-I", "-S", "-c", OFFER + LOOK + code, *map(str, offered)]
        process = Sandbox(mode, self.claim.uid, CORES, binds).start(program, {}, offered)
        for watch in made:
            watch.for_program.close()
            self.started.append((watch, process))
        return made[0], process


@pytest.fixture
def watched() -> Iterator[Watched]:
    with tempfile.TemporaryDirectory() as name, UidClaim(71400) as claim:
        os.chmod(name, 0o755)
        Path(name, "there.png").write_text("a picture")
        programs = Watched(Path(name), claim)
        yield programs
        for watch, process in programs.started:
            process.kill()
            process.close()
            watch.close()


def printed_by(process: Process) -> str:
    return b"".join(iter(lambda: os.read(process.output, 65536), b"")).decode()


LOOKUPS = """
threads = [threading.Thread(target=lambda: (begun.wait(), look('{film}/of a thread.png')))]
begun = threading.Event()
for thread in threads: thread.start()
offer(int(sys.argv[1]))
begun.set(); threads[0].join()
look('{film}/there.png'); look('{film}/gone ä.png'); look('{film}/gone ä.png'); look('{film}/sub/gone.ies')
folder = os.open('{film}', os.O_PATH); look('of a folder.png', dir_fd=folder)
os.chdir('{film}'); look('./x/../relative.vdb'); look('noend')
look('/usr/share/gone.png'); look('/etc/gone.png'); look('/projects/other.exr'); look('/projects/x.json')
look('{film}/made.png', os.O_CREAT | os.O_WRONLY); look('{film}/folder', os.O_DIRECTORY)
os.path.exists('{film}/asked.png'); os.path.exists('{film}/a folder'); os.access('{film}/access.png', os.R_OK)
look(b'{film}/not \\xff utf-8.png'); look('{film}/' + 'x' * 300 + '.png'); look('/' * 5000); look('')
print('done')
"""


@pytest.mark.parametrize("mode", ["bubblewrap", "none"])
def test_lookups_in_vain_are_named_and_others_are_not(watched: Watched, mode: Mode) -> None:
    film = "/film" if mode == "bubblewrap" else str(watched.folder)
    watch, process = watched.start(LOOKUPS.format(film=film), mode)
    assert printed_by(process) == "done\n"
    seen = watch.take()
    expected = [
        "of a thread.png", "gone ä.png", "sub/gone.ies", "of a folder.png", "relative.vdb", "noend",
        "asked.png", "access.png", "not \udcff utf-8.png", "x" * 300 + ".png",
    ]  # fmt: skip
    assert {*seen.missed} == {"/projects/other.exr", *(f"{film}/{name}" for name in expected)}
    assert seen.refused == ""


def test_each_answer_has_the_lookups_since_the_one_before(watched: Watched) -> None:
    code = (
        START
        + """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
for name in 'aba':
    look(f'/film/{name}.png')
    print(name, flush=True)
    signal.sigwait([signal.SIGUSR1])
"""
    )
    watch, process = watched.start(code)
    for name in "aba":
        assert os.read(process.output, 2).decode() == f"{name}\n"
        assert watch.take().missed == (f"/film/{name}.png",)
        innermost = descendants(process.pid)[0]
        os.kill(innermost, signal.SIGUSR1)


def test_a_mark_ends_what_the_next_answer_is_about(watched: Watched) -> None:
    code = START + "for name in 'abc': look(f'/film/{name}.png'); mark()\nlook('/film/d.png')"
    watch, process = watched.start(code)
    printed_by(process)
    taken = [watch.take().missed for _ in range(5)]
    assert taken == [("/film/a.png",), ("/film/b.png",), ("/film/c.png",), ("/film/d.png",), ()]


def test_lookups_that_are_taken_back_are_in_no_answer(watched: Watched) -> None:
    code = START + "look('/film/a.png'); mark(); look('/film/b.png'); forget(); look('/film/c.png'); mark()"
    watch, process = watched.start(code)
    printed_by(process)
    assert [watch.take().missed for _ in range(3)] == [("/film/a.png",), ("/film/c.png",), ()]


def test_marks_without_end_are_bounded(watched: Watched) -> None:
    code = START + "for n in range(3000): look(f'/film/{n}.png'); mark()"
    watch, process = watched.start(code)
    printed_by(process)
    assert sum(len(watch.take().missed) for _ in range(20)) <= 516


def test_a_flood_ends_and_its_names_are_bounded(watched: Watched) -> None:
    code = START + "for n in range(3000): look(f'/film/{n:04d}' + 'x' * 200 + '.png')\nprint('done')"
    watch, process = watched.start(code)
    between = watch.take()
    assert printed_by(process) == "done\n"
    assert 0 < len(between.missed) + len(watch.take().missed) <= 1000
    assert watch.take().missed == ()


def test_a_kernel_that_refuses_leaves_the_program_running(watched: Watched) -> None:
    """A second listener for the same program is refused by every kernel."""
    code = "offer(int(sys.argv[1])); offer(int(sys.argv[2])); look('/film/gone.png'); print('done')"
    watch, process = watched.start(code, watches=2)
    assert printed_by(process) == "done\n"
    assert watch.take().missed == ("/film/gone.png",)
    assert "busy" in watched.started[1][0].take().refused


def test_a_program_that_never_offers_is_not_watched(watched: Watched) -> None:
    watch, process = watched.start("print('done')")
    assert printed_by(process) == "done\n"
    process.wait(20)
    assert watch.take().refused != ""


def test_a_watcher_that_was_killed_is_noticed_before_any_result_counts(watched: Watched) -> None:
    code = START + "print('on', flush=True)\nwhile not look('/film/there.png'): pass\nprint('failed')"
    watch, process = watched.start(code)
    assert os.read(process.output, 3) == b"on\n"
    os.kill(watch.pid, signal.SIGKILL)
    assert printed_by(process) == "failed\n", "its calls fail from now on"
    with pytest.raises(WatchLost):
        watch.take()


def test_a_program_killed_in_the_middle_of_its_calls_ends_the_watcher(watched: Watched) -> None:
    code = START + "look('/film/gone.png')\nprint('on', flush=True)\nwhile True: look('/film/there.png')"
    watch, process = watched.start(code)
    assert os.read(process.output, 3) == b"on\n"
    process.kill()
    assert watch.take().missed == ("/film/gone.png",)
    watch.close()
    assert not Path(f"/proc/{watch.pid}").exists()


def test_the_program_goes_on_when_nobody_asks_any_more(watched: Watched) -> None:
    code = START + "print('on', flush=True)\nprint(sum(look('/film/there.png') for _ in range(5000)))"
    watch, process = watched.start(code)
    assert os.read(process.output, 3) == b"on\n"
    watch._control.close()
    assert printed_by(process) == "0\n"


def test_the_program_cannot_reach_its_listener(watched: Watched) -> None:
    code = START + "os.execv('/bin/ls', ['ls', '-l', '/proc/self/fd'])"
    _, process = watched.start(code)
    assert "seccomp" not in printed_by(process)


@pytest.mark.parametrize("mode", ["bubblewrap", "none"])
def test_this_machine_shows_lookups(mode: Mode) -> None:
    assert why_unseen(mode) is None


def test_an_ordinary_users_sandbox_is_watched_too() -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as this user already")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        packages = Path(pyseccomp.__file__).parent
        for source in (Path(framefarm.__file__).parent, packages / "msgspec", packages / "psutil",
                       packages / "filelock", pyseccomp.__file__):  # fmt: skip
            subprocess.run(["cp", "-r", source, folder], check=True)
        subprocess.run(["chmod", "-R", "go+rX", folder], check=True)
        code = (
            f"import sys; sys.path.insert(0, {folder!r})\n"
            "from framefarm.node.lookup_check import why_unseen\n"
            "print(why_unseen('bubblewrap'), why_unseen('none'))\n"
        )
        drop = ["setpriv", "--reuid", "71401", "--regid", "71401", "--clear-groups", "--bounding-set=-all"]
        done = subprocess.run([*drop, PYTHON, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None None\n"


def test_a_file_in_another_case_is_there_and_each_folder_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Tex" / "sub").mkdir(parents=True)
    (tmp_path / "tex").mkdir()
    for name in ("Tex/Wood.png", "tex/sand.png", "Tex/sub/Ä.png"):
        (tmp_path / name).touch()
    listed: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: (listed.append(folder), real(folder))[1])
    exists = WatchedPlaces((("/film", str(tmp_path)),), ()).in_any_case()
    there = ["/film/TEX/wood.PNG", "/film/tex/sand.png", "/film/Tex/SAND.png", "/film/tex/Sub/ä.png"]
    gone = ["/film/tex/none.png", "/film/wood.png", "/film/tex/wood.png/x", "/elsewhere/wood.png"]
    assert [exists(path) for path in there + gone] == [True] * len(there) + [False] * len(gone)
    assert len(listed) == len(set(listed))
