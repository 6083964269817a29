"""`framefarm watch` as an artist has it: in a pipe, on a terminal, with a farm that is killed, and left."""

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
from running_farm import FRAMEFARM, Farm

from framefarm.core.frames import FrameSet

pytestmark = pytest.mark.blender


def words(farm: Farm, *more: str) -> dict[str, Any]:
    token = str(farm.client.headers["Authorization"]).removeprefix("Bearer ")
    address = str(farm.client.base_url).rstrip("/")
    environment = os.environ | {"FRAMEFARM_URL": address, "FRAMEFARM_TOKEN": token, "COLUMNS": "120"}
    return {"args": [FRAMEFARM, *more], "env": environment}


def test_watch_goes_on_when_the_farm_is_killed_and_tells_every_frame_once(farm: Farm) -> None:
    job = farm.submit(frame_range="1-16", samples=400, output_path="gs://renders/watched")["id"]
    watching = subprocess.Popen(
        **words(farm, "watch", job), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    farm.until(lambda: len(farm.done(job)) >= 3, "frames are done")
    address = urlsplit(str(farm.client.base_url)).netloc
    farm.kill()
    farm.start(listen=address)
    out, told = watching.communicate(timeout=90)
    assert watching.returncode == 0, told
    assert "success, 16 of 16 frames" in out
    assert "There is no event stream" not in told
    assert sorted(frames_of(told)) == list(range(1, 17))


def frames_of(told: str) -> list[int]:
    """The frames that lines name; a line for many together counts for each of them."""
    found = [int(n) for n in re.findall(r"^  frame (\d+) +[\d.]+ s", told, re.M)]
    for text in re.findall(r"frames done: (\S+)", told):
        found += FrameSet.from_text(text)
    return found


@contextmanager
def a_terminal(**command: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command on a terminal of its own, and what is to be read from there."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        **command, stdin=its, stdout=its, stderr=its, start_new_session=True,
        # Tests that a shell runs in the background ignore it, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(its)
    try:
        yield process, ours
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: str) -> str:
    """What came, until `wanted` has or the terminal is closed."""
    seen = ""
    while wanted not in seen:
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            break
    return seen


def test_watch_on_a_terminal_is_left_by_ctrl_c_and_the_job_goes_on(farm: Farm) -> None:
    job = farm.submit(frame_range="1-200", samples=400, output_path="gs://renders/left")["id"]
    with a_terminal(**words(farm, "watch", job)) as (process, terminal):
        shown = read_until(terminal, "/200 frames")
        shown += read_until(terminal, "frame ")
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, "never")
        assert process.wait(30) == 130
    assert "Traceback" not in shown
    assert farm.job(job)["status"] in {"running", "pending"}
    farm.client.patch(f"/api/jobs/{job}", json={"action": "cancel"})
    farm.wait(job, "cancelled")
