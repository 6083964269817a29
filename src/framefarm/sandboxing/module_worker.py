"""A module of ours in the second sandbox that stays: many questions, one start.

Shut in as `python.run_module` does it. Questions go in as lines through a pipe, answers come out as lines of
its standard output; what it is to look into lies in one folder, which it sees and can't write.
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
from framefarm.sandboxing.module_call import PROCESSES, order_file, programs
from framefarm.sandboxing.uids import Claim

INSIDE = "/in"
OPEN_FILES = 64


class SandboxedWorker:
    """A running module (one that calls `inside.begin`), told in its order where it finds `folder` and the
    `questions`. The kernel ends it when the *thread* that started it ends. Raises SandboxUnavailable.

    Args:
        cpu_seconds: for all that it ever does.
        memory_bytes: address space.
        file_bytes: how long a file it may write, below /tmp.
    """

    def __init__(
        self,
        module: str,
        order: Mapping[str, Any],
        folder: Path,
        *,
        cpu_seconds: int,
        memory_bytes: int,
        file_bytes: int,
        mode: Mode = "bubblewrap",
    ) -> None:
        self._claim: Claim | None = None
        self._box: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        questions, self._ask = os.pipe()
        life, self._life = os.pipe()
        seen = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        given = [questions, life, *([seen] if mode == "none" else [])]
        limits = Limits(
            processes=PROCESSES,
            open_files=max(given) + OPEN_FILES * 2,
            file_bytes=file_bytes,
            cpu_seconds=cpu_seconds,
            address_bytes=memory_bytes,
        )
        more = {"folder": f"/proc/self/fd/{seen}" if mode == "none" else INSIDE, "questions": questions}
        asked = order_file({**order, **more}, limits, max(given) + 8 + OPEN_FILES)
        program = [sys.executable, "-I", "-B", "-m", module, str(asked), str(life)]
        try:
            if mode == "none":
                self._child = _plain(program, [asked, *given])
                assert self._child.stdout is not None
                self.output = self._child.stdout.fileno()
            else:
                self._claim = Claim()
                cores = tuple(sorted(os.sched_getaffinity(0)))
                binds = (*programs(), Bind(os.path.abspath(folder), INSIDE))
                box = Sandbox("bubblewrap", self._claim.uid, cores, binds, limits=limits, proc=False)
                self._box = box.start(
                    program, {"LANG": "C.UTF-8"}, [asked, *given], any_thread=True, quiet=True
                )
                self.output = self._box.output
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in (asked, questions, life, seen):
                os.close(descriptor)

    @property
    def pid(self) -> int:
        """Of the outermost process."""
        if self._box is not None:
            return self._box.pid
        assert self._child is not None
        return self._child.pid

    def ask(self, line: bytes) -> None:
        """Pass on one question, without its newline. One that has ended does not hear it."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._ask, line + b"\n")

    def answers(self, most_bytes: int) -> Iterator[bytes]:
        """Its lines until its end. One that is longer than `most_bytes` is its end."""
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
        """End it, and all below it, now. Harmless if it has ended."""
        if self._box is not None:
            self._box.kill()
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def close(self) -> None:
        """End it and give everything back; nobody may be reading its answers."""
        self.kill()
        for descriptor in (self._ask, self._life):
            os.close(descriptor)
        if self._box is not None:
            self._box.close()
        if self._child is not None and self._child.stdout is not None:
            self._child.stdout.close()
        if self._claim is not None:
            self._claim.release()


def _plain(program: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        pass_fds=descriptors,
    )
