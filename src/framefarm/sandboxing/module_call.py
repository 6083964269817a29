"""Module call: a Python module of ours that parses foreign bytes, run in a sandbox for one request.

Files go in as open descriptors and the request as JSON; the answer is the module's standard output, limited
in bytes and seconds. Inside there are no network and no /proc, and the only files are the system's and our
own programs, read-only. With mode `none` the module runs as a plain child that gives up its rights by itself
(`module_entry.begin`): limited, but able to read the machine's readable files.
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
from framefarm.sandboxing.uids import UidClaim

NOBODY = 65534
PROCESSES = 16
"""Most processes and threads of one sandboxed module."""
STOPPING_SECONDS = 0.2
"""How often `stopping` is called."""
ENDING_SECONDS = 2.0
"""How long a module whose output has ended may take to exit before it is killed."""


@dataclass(frozen=True)
class ModuleResult:
    """Result of one module call.

    `output` is the standard output up to the module's end, the deadline or the limit of bytes. `in_time` is
    false if the deadline came first. `code` is the exit code, 0 on success and negative for a signal.
    """

    output: bytes
    in_time: bool
    code: int


def run_module(
    module: str,
    request: Mapping[str, Any],
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
) -> ModuleResult:
    """Run `module` and wait for its end; blocks.

    Args:
        module: full name of a module of ours that calls `module_entry.begin`.
        request: returned by `begin`; anything JSON can express.
        files: descriptors, open for reading; they have the same numbers inside.
        seconds: time until the module is killed.
        cpu_seconds: processor time until the kernel ends it.
        memory_bytes: size of its address space.
        answer_bytes: length at which its output is cut off.
        binds: further files and folders to show inside, in mode `bubblewrap`.
        open_files: how many files the module may open by itself.
        file_bytes: the longest file it may write (below /tmp).
        stopping: called several times a second; once it returns true, the module is killed.

    Raises SandboxUnavailable in mode `bubblewrap` if `unready` has a reason, Stopped after `stopping`.
    """
    reader = _LimitedReader(time.monotonic() + seconds, answer_bytes, stopping)
    limits = Limits(
        processes=PROCESSES,
        open_files=max(64, *files) + 64 if files else 128,
        file_bytes=file_bytes,
        cpu_seconds=max(1, cpu_seconds),
        address_bytes=memory_bytes,
    )
    own_files = max([2, *files]) + 8 + open_files if open_files else 0
    request_fd = request_file(request, limits, own_files)
    # Only this process holds the other end open, so the module notices our death by itself: bubblewrap may
    # not yet have asked the kernel to be killed with us.
    life, our_end = os.pipe()
    program = [sys.executable, "-I", "-B", "-m", module, str(request_fd), str(life)]
    descriptors = [request_fd, life, *files]
    try:
        if mode == "none":
            return _run_plain(program, descriptors, reader)
        return _run_sandboxed(program, descriptors, (*programs(), *binds), limits, reader)
    finally:
        for descriptor in (request_fd, life, our_end):
            os.close(descriptor)


def request_file(request: Mapping[str, Any], limits: Limits, open_files: int) -> int:
    """Descriptor from which `module_entry.begin` reads the request and the limits that it sets on itself."""
    document = {
        "order": dict(request),  # the name stays: a runner may outlive an upgrade of these programs
        "cpu_seconds": limits.cpu_seconds,
        "memory_bytes": limits.address_bytes,
        "uid": NOBODY,
        "file_bytes": limits.file_bytes,
        "open_files": open_files,
    }
    return memory_file("request", json.dumps(document).encode())


def unready() -> str | None:
    """One sentence why our own Python can't run in a sandbox on this machine; None if it can.

    Runs a module to find out. Only a success is remembered: a run that was killed, or starved on a busy
    machine, is repeated at the next call.
    """
    try:
        _check_ready()
    except SandboxUnavailable as error:
        return error.detail
    return None


@functools.cache
def _check_ready() -> None:
    result = run_module(
        "framefarm.sandboxing.module_entry",
        {},
        [],
        seconds=20,
        cpu_seconds=10,
        memory_bytes=1 << 30,
        answer_bytes=4096,
    )
    if result.output.strip() != b"ready":
        raise SandboxUnavailable(
            f"{sys.executable} does not run in the sandbox (code {result.code}): "
            "every user must be able to read its environment and the farm's programs."
        )


def _run_sandboxed(
    program: list[str],
    descriptors: list[int],
    binds: tuple[Bind, ...],
    limits: Limits,
    reader: _LimitedReader,
) -> ModuleResult:
    with UidClaim() as claim:
        cores = tuple(sorted(os.sched_getaffinity(0)))
        sandbox = Sandbox("bubblewrap", claim.uid, cores, binds, limits=limits, proc=False)
        process = sandbox.start(program, {"LANG": "C.UTF-8"}, descriptors, any_thread=True, quiet=True)
        try:
            output, ended = reader.read(process.output)
            if not ended:
                process.kill()
            in_time = ended or len(output) >= reader.most_bytes
            return ModuleResult(output, in_time, _exit_code(process))
        finally:
            process.kill()
            process.close()


def _exit_code(process: Process) -> int:
    """Exit code of a sandbox whose output has ended or that was killed; kills it if it does not exit."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(ENDING_SECONDS)
    process.kill()
    return process.wait()


def _run_plain(program: list[str], descriptors: list[int], reader: _LimitedReader) -> ModuleResult:
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
            output, ended = reader.read(child.stdout.fileno())
            if not ended:
                child.kill()
            in_time = ended or len(output) >= reader.most_bytes
            return ModuleResult(output, in_time, child.wait())
        finally:
            child.kill()


@dataclass(frozen=True)
class _LimitedReader:
    """Reads a module's output up to `most_bytes` and up to `deadline` (monotonic seconds)."""

    deadline: float
    most_bytes: int
    stopping: Callable[[], bool]

    def read(self, descriptor: int) -> tuple[bytes, bool]:
        """The bytes read, and whether the output has ended. Raises Stopped."""
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
    """Binds of our Python, its packages and our code at their own paths, except those below /usr."""
    folders: list[Path] = []
    for name in (sys.base_prefix, sys.prefix, os.path.dirname(framefarm.__file__)):
        folder = Path(name)
        if not any(folder.is_relative_to(f) for f in (Path("/usr"), *folders)):
            folders.append(folder)
    return tuple(Bind(str(folder), str(folder)) for folder in folders)
