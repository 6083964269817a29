"""Orphans: sandboxes whose outer process was killed before it let the inner one continue."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from framefarm.sandboxing.bubblewrap import Sandbox
from framefarm.sandboxing.orphans import BWRAP, MARKER, end_orphans
from framefarm.sandboxing.usage_monitor import descendants

TEST_MARK = f"framefarm-orphan-{os.getpid()}"


def bwrap_processes() -> list[int]:
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if TEST_MARK.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                pids.append(int(process.name))
        except OSError:
            continue
    return pids


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_bwrap(info: int) -> subprocess.Popen[bytes]:
    command = ["bwrap", "--unshare-pid", "--die-with-parent", "--info-fd", str(info), "--bind", "/", "/"]
    return subprocess.Popen(
        [*command, "--", "/bin/sh", "-c", "cat; :", TEST_MARK], stdin=subprocess.PIPE, pass_fds=[info]
    )


def test_an_orphan_is_killed_and_a_running_sandbox_is_not() -> None:
    reading, info = os.pipe()
    healthy = start_bwrap(info)
    os.close(info)
    with os.fdopen(reading) as stream:
        assert "child-pid" in stream.read()

    def orphans() -> set[int]:
        return set(bwrap_processes()) - {healthy.pid, *descendants(healthy.pid)}

    reading, info = os.pipe()
    os.close(reading)  # kills the outer process after its fork, before it lets the inner one continue
    broken = start_bwrap(info)
    os.close(info)
    assert broken.wait() != 0
    (orphan,) = orphans()
    assert orphan in end_orphans()
    wait_for(lambda: not orphans())
    assert healthy.poll() is None
    assert healthy.stdin is not None
    healthy.stdin.close()
    assert healthy.wait() == 0


def test_every_sandbox_carries_the_marker_whichever_program_runs_in_it() -> None:
    """Otherwise the orphan of a runner that was killed while it checked its sandbox would never be ended."""
    sandbox = Sandbox("bubblewrap", 65534, (min(os.sched_getaffinity(0)),))
    process = sandbox.start(["/bin/sleep", "600"], {"A": "1"}, any_thread=True)
    try:
        outer = (Path("/proc") / str(process.pid) / "cmdline").read_bytes()
        assert outer.startswith(BWRAP + b"\0") and MARKER.encode() in outer.split(b"\0")
        assert b"sleep" in outer
    finally:
        process.kill()
        process.close()


def test_a_sandbox_whose_outer_process_is_stopped_can_be_ended() -> None:
    sandbox = Sandbox("bubblewrap", 65534, (min(os.sched_getaffinity(0)),))
    process = sandbox.start(["/bin/sleep", "600"], {}, any_thread=True)
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
