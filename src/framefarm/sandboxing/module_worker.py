"""Module worker: a Python module of ours in a sandbox that stays open and answers many requests.

The sandbox is that of `module_call.run_module`. Requests go in as lines through a pipe, answers come out as
lines of standard output. The module sees one folder, read-only, with the files that requests refer to.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from framefarm.sandboxing.bubblewrap import Bind, Mode, Process, Sandbox
from framefarm.sandboxing.limits import Limits
from framefarm.sandboxing.module_call import PROCESSES, programs, request_file
from framefarm.sandboxing.uids import UidClaim

INSIDE = "/in"
"""Path of the worker's folder inside the sandbox."""
OPEN_FILES = 64


class SandboxedWorker:
    """A running module worker. The module must call `module_entry.begin`.

    `begin` returns `request` with two more keys: `folder`, the folder's path inside, and `questions`, the
    descriptor with the further requests. The kernel kills the worker when the *thread* that started it ends.
    `output` is the descriptor of the worker's standard output.

    Args:
        request: settings for the module; anything JSON can express.
        folder: a folder of this machine, which the module can read.
        cpu_seconds: processor time for the worker's whole life.
        memory_bytes: size of its address space.
        file_bytes: the longest file it may write (below /tmp).
        mode: `none` runs a plain child process without bubblewrap.

    Raises SandboxUnavailable.
    """

    def __init__(
        self,
        module: str,
        request: Mapping[str, Any],
        folder: Path,
        *,
        cpu_seconds: int,
        memory_bytes: int,
        file_bytes: int,
        mode: Mode = "bubblewrap",
    ) -> None:
        self._claim: UidClaim | None = None
        self._sandbox: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        requests, self._requests = os.pipe()
        life, self._life = os.pipe()
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        passed_fds = [requests, life, *([folder_fd] if mode == "none" else [])]
        limits = Limits(
            processes=PROCESSES,
            open_files=max(passed_fds) + OPEN_FILES * 2,
            file_bytes=file_bytes,
            cpu_seconds=cpu_seconds,
            address_bytes=memory_bytes,
        )
        inside = f"/proc/self/fd/{folder_fd}" if mode == "none" else INSIDE
        first_request = request_file(
            {**request, "folder": inside, "questions": requests}, limits, max(passed_fds) + 8 + OPEN_FILES
        )
        program = [sys.executable, "-I", "-B", "-m", module, str(first_request), str(life)]
        try:
            if mode == "none":
                self._child = _start_plain(program, [first_request, *passed_fds])
                assert self._child.stdout is not None
                self.output = self._child.stdout.fileno()
            else:
                self._claim = UidClaim()
                cores = tuple(sorted(os.sched_getaffinity(0)))
                binds = (*programs(), Bind(os.path.abspath(folder), INSIDE))
                sandbox = Sandbox("bubblewrap", self._claim.uid, cores, binds, limits=limits, proc=False)
                self._sandbox = sandbox.start(
                    program, {"LANG": "C.UTF-8"}, [first_request, *passed_fds], any_thread=True, quiet=True
                )
                self.output = self._sandbox.output
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in (first_request, requests, life, folder_fd):
                os.close(descriptor)

    @property
    def pid(self) -> int:
        """Process id of the outermost process: bwrap, or the plain child."""
        if self._sandbox is not None:
            return self._sandbox.pid
        assert self._child is not None
        return self._child.pid

    def ask(self, line: bytes) -> None:
        """Send one request, without its newline. Has no effect if the worker has ended."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, line + b"\n")

    def answers(self, most_bytes: int) -> Iterator[bytes]:
        """Lines of the worker's output, without newlines, until it ends or a line exceeds `most_bytes`."""
        rest = b""
        while part := os.read(self.output, 1 << 18):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if len(line) > most_bytes:
                    return
                yield line
            if len(rest) > most_bytes:
                return

    def kill(self) -> None:
        """Kill the worker and all its processes, and wait for their end. Harmless if it has ended."""
        if self._sandbox is not None:
            self._sandbox.kill()
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def close(self) -> None:
        """Kill the worker, close its descriptors and release its user id. `answers` must not be in use."""
        self.kill()
        for descriptor in (self._requests, self._life):
            os.close(descriptor)
        if self._sandbox is not None:
            self._sandbox.close()
        if self._child is not None and self._child.stdout is not None:
            self._child.stdout.close()
        if self._claim is not None:
            self._claim.release()


def _start_plain(program: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        pass_fds=descriptors,
    )
