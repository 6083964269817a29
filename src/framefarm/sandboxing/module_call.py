"""The second sandbox: a module of ours that parses foreign bytes, shut in for one question and one answer.

Files go in as open descriptors, the order as JSON, the answer comes out of its standard output, bounded in
length and time. Inside there is no network, no /proc, no file but the system's and our own programs, and no
way to write one. Where bubblewrap does not work (`unready`) or is switched off, the module runs as a plain
child that gives up its rights by itself (`inside.begin`): limited, but seeing the machine's readable files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import framefarm
from framefarm.sandboxing.bubblewrap import Bind, Mode, Process, Sandbox, memory_file
from framefarm.sandboxing.errors import SandboxUnavailable, Stopped
from framefarm.sandboxing.limits import Limits
from framefarm.sandboxing.uids import Claim

NOBODY = 65534
PROCESSES = 16
"""Threads too."""
STOPPING_SECONDS = 0.2
ENDING_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """All that it printed until it ended, the deadline or the limit of bytes. `code` as of
    `Process.wait`: 0 if it ended well, negative for a signal."""

    output: bytes
    in_time: bool
    code: int


def run_module(
    module: str,
    order: Mapping[str, Any],
    files: Sequence[int],
    *,
    seconds: float,
    cpu_seconds: int,
    memory_bytes: int,
    answer_bytes: int,
    mode: Mode = "bubblewrap",
    binds: Sequence[Bind] = (),
    open_files: int = 0,
    file_bytes: int = 0,
    stopping: Callable[[], bool] = lambda: False,
) -> Answer:
    """Run `module` (`framefarm.…`, one that calls `inside.begin`) and wait for its end; blocks.

    Args:
        order: what the module gets, as JSON.
        files: descriptors, open for reading; they have the same numbers inside.
        seconds: from now until it is killed.
        memory_bytes: address space.
        binds: what else is to be seen inside, in mode `bubblewrap`.
        open_files: how many the module may open by itself, and `file_bytes` how long a file it may write
            (below /tmp).
        stopping: asked several times a second; once it is true, the module is killed.

    Raises SandboxUnavailable in mode `bubblewrap` if `unready` has a reason; Stopped.
    """
    reading = _Reading(time.monotonic() + seconds, answer_bytes, stopping)
    limits = Limits(
        processes=PROCESSES,
        open_files=max(64, *files) + 64 if files else 128,
        file_bytes=file_bytes,
        cpu_seconds=max(1, cpu_seconds),
        address_bytes=memory_bytes,
    )
    own_files = max([2, *files]) + 8 + open_files if open_files else 0
    asked = order_file(order, limits, own_files)
    # Held open by us alone: its end is the module's end, even if we are killed before bubblewrap has
    # asked the kernel to be told of that.
    life, ours = os.pipe()
    program = [sys.executable, "-I", "-B", "-m", module, str(asked), str(life)]
    try:
        if mode == "none":
            return _plain(program, [asked, life, *files], reading)
        seen = (*programs(), *binds)
        return _shut_in(program, [asked, life, *files], seen, limits, reading)
    finally:
        for descriptor in (asked, life, ours):
            os.close(descriptor)


def order_file(order: Mapping[str, Any], limits: Limits, open_files: int) -> int:
    """A descriptor from which `inside.begin` reads what is asked, and the limits it sets itself."""
    whole = {
        "order": dict(order),
        "cpu_seconds": limits.cpu_seconds,
        "memory_bytes": limits.address_bytes,
        "uid": NOBODY,
        "file_bytes": limits.file_bytes,
        "open_files": open_files,
    }
    return memory_file("order", json.dumps(whole).encode())


def unready() -> str | None:
    """Why our own Python can't run in a sandbox on this machine, in one sentence; None if it can.

    Only that it can is remembered: a try that was killed, or starved on a busy machine, says nothing of the
    next one.
    """
    try:
        _try_once()
    except SandboxUnavailable as error:
        return error.detail
    return None


@functools.cache
def _try_once() -> None:
    answer = run_module(
        "framefarm.sandboxing.module_entry",
        {},
        [],
        seconds=20,
        cpu_seconds=10,
        memory_bytes=1 << 30,
        answer_bytes=4096,
    )
    if answer.output.strip() != b"ready":
        raise SandboxUnavailable(
            f"{sys.executable} does not run in the sandbox (code {answer.code}): "
            "every user must be able to read its environment and the farm's programs."
        )


def _shut_in(
    program: list[str],
    descriptors: list[int],
    binds: tuple[Bind, ...],
    limits: Limits,
    reading: _Reading,
) -> Answer:
    with Claim() as claim:
        cores = tuple(sorted(os.sched_getaffinity(0)))
        box = Sandbox("bubblewrap", claim.uid, cores, binds, limits=limits, proc=False)
        process = box.start(program, {"LANG": "C.UTF-8"}, descriptors, any_thread=True, quiet=True)
        try:
            output, ended = reading.read(process.output)
            if not ended:
                process.kill()
            return Answer(output, ended or len(output) >= reading.most_bytes, _code(process))
        finally:
            process.kill()
            process.close()


def _code(process: Process) -> int:
    """Its output has ended, or it was killed: what does not end now is stopped, and killed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(ENDING_SECONDS)
    process.kill()
    return process.wait()


def _plain(program: list[str], descriptors: list[int], reading: _Reading) -> Answer:
    with subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        pass_fds=descriptors,
    ) as child:
        assert child.stdout is not None
        try:
            output, ended = reading.read(child.stdout.fileno())
            if not ended:
                child.kill()
            return Answer(output, ended or len(output) >= reading.most_bytes, child.wait())
        finally:
            child.kill()


@dataclass(frozen=True)
class _Reading:
    """How long, and how much. `deadline` in monotonic seconds."""

    deadline: float
    most_bytes: int
    stopping: Callable[[], bool]

    def read(self, descriptor: int) -> tuple[bytes, bool]:
        """What came until the end, and whether the end came. Raises Stopped."""
        output = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(output) < self.most_bytes:
                left = self.deadline - time.monotonic()
                ready = selector.select(max(0.0, min(left, STOPPING_SECONDS)))
                if self.stopping():
                    raise Stopped
                if not ready:
                    if left <= STOPPING_SECONDS:
                        return bytes(output), False
                    continue
                part = os.read(descriptor, 1 << 18)
                if not part:
                    return bytes(output), True
                output += part
        return bytes(output[: self.most_bytes]), False


@functools.cache
def programs() -> tuple[Bind, ...]:
    """Our Python, its packages and our own code, where they are, except what /usr has anyway."""
    places: list[Path] = []
    for name in (sys.base_prefix, sys.prefix, os.path.dirname(framefarm.__file__)):
        place = Path(name)
        if not any(place.is_relative_to(p) for p in (Path("/usr"), *places)):
            places.append(place)
    return tuple(Bind(str(place), str(place)) for place in places)
