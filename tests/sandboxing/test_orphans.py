"""A sandbox whose outer process was killed before it had let the inner one go on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from framefarm.sandboxing.bubblewrap import Sandbox
from framefarm.sandboxing.orphans import NAME, OURS, end_strays
from framefarm.sandboxing.usage_monitor import descendants

MARK = f"framefarm-stray-{os.getpid()}"


def sandboxes() -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if MARK.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bwrap(info: int) -> subprocess.Popen[bytes]:
    command = ["bwrap", "--unshare-pid", "--die-with-parent", "--info-fd", str(info), "--bind", "/", "/"]
    return subprocess.Popen(
        [*command, "--", "/bin/sh", "-c", "cat; :", MARK], stdin=subprocess.PIPE, pass_fds=[info]
    )


def test_an_inner_process_without_its_outer_one_is_ended_and_no_other() -> None:
    reading, info = os.pipe()
    well = bwrap(info)
    os.close(info)
    with os.fdopen(reading) as told:
        assert "child-pid" in told.read()

    def strays() -> set[int]:
        return set(sandboxes()) - {well.pid, *descendants(well.pid)}

    reading, info = os.pipe()
    os.close(reading)  # the outer one dies of this, between its fork and letting the inner one go on
    killed = bwrap(info)
    os.close(info)
    assert killed.wait() != 0
    (stray,) = strays()
    assert stray in end_strays()
    wait_for(lambda: not strays())
    assert well.poll() is None
    assert well.stdin is not None
    well.stdin.close()
    assert well.wait() == 0


def test_a_sandbox_is_known_as_ours_whatever_runs_in_it() -> None:
    """Else what is left of a runner that was killed while it tried its sandbox stays for ever."""
    box = Sandbox("bubblewrap", 65534, (min(os.sched_getaffinity(0)),))
    process = box.start(["/bin/sleep", "600"], {"A": "1"}, any_thread=True)
    try:
        outer = (Path("/proc") / str(process.pid) / "cmdline").read_bytes()
        assert outer.startswith(NAME + b"\0") and OURS.encode() in outer.split(b"\0")
        assert b"sleep" in outer
    finally:
        process.kill()
        process.close()


def test_a_sandbox_whose_outer_process_is_stopped_can_be_ended() -> None:
    box = Sandbox("bubblewrap", 65534, (min(os.sched_getaffinity(0)),))
    process = box.start(["/bin/sleep", "600"], {}, any_thread=True)
    inside = descendants(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    process.kill()
    process.close()

    def ended(pid: int) -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(lambda: all(ended(pid) for pid in (process.pid, *inside)))
