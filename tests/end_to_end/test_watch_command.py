"""`framefarm watch` in a pipe while the farm is killed, and on a terminal until Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from running_farm import FRAMEFARM, RunningFarm

from framefarm.core.frames import FrameSet

pytestmark = pytest.mark.blender


def command(farm: RunningFarm, *more: str) -> dict[str, Any]:
    token = str(farm.client.headers["Authorization"]).removeprefix("Bearer ")
    address = str(farm.client.base_url).rstrip("/")
    environment = os.environ | {"FRAMEFARM_URL": address, "FRAMEFARM_TOKEN": token, "COLUMNS": "120"}
    return {"args": [FRAMEFARM, *more], "env": environment}


def test_watch_goes_on_when_the_farm_is_killed_and_tells_every_frame_once(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-16", samples=400, output_path="gs://renders/watched")["id"]
    watching = subprocess.Popen(
        **command(farm, "watch", job), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    farm.until(lambda: len(farm.done(job)) >= 3, "frames are done")
    address = urlsplit(str(farm.client.base_url)).netloc
    farm.kill()
    farm.start(listen=address)
    out, lines = watching.communicate(timeout=90)
    assert watching.returncode == 0, lines
    assert "success, 16 of 16 frames" in out
    assert "There is no event stream" not in lines
    assert sorted(frames_of(lines)) == list(range(1, 17))


def frames_of(lines: str) -> list[int]:
    """The frames that the lines of `watch` name, in single lines and in lines for many frames."""
    frames = [int(n) for n in re.findall(r"^  frame (\d+) +[\d.]+ s", lines, re.M)]
    for text in re.findall(r"frames done: (\S+)", lines):
        frames += FrameSet.from_text(text)
    return frames


@contextmanager
def on_terminal(**command: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command on a new terminal. Gives the process and a descriptor to read the terminal from."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        **command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        # If a shell runs the tests in the background, they and their children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, ours
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """Output of the terminal until `text` appears or the terminal is closed."""
    seen = ""
    while text not in seen:
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            break
    return seen


def test_watch_on_a_terminal_is_left_by_ctrl_c_and_the_job_goes_on(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-200", samples=400, output_path="gs://renders/left")["id"]
    with on_terminal(**command(farm, "watch", job)) as (process, terminal):
        shown = read_until(terminal, "/200 frames")
        shown += read_until(terminal, "frame ")
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, "never")
        assert process.wait(30) == 130
    assert "Traceback" not in shown
    assert farm.job(job)["status"] in {"running", "pending"}
    farm.client.patch(f"/api/jobs/{job}", json={"action": "cancel"})
    farm.wait(job, "cancelled")
