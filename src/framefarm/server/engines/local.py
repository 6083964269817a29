"""The local engine: runners as detached processes of this machine.

A runner holds an exclusive lock on a file in its session's folder as long as it lives. By the lock a
restarted farm finds its runners again, and a reused process id is not taken for a runner.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import structlog

from framefarm.core.schedule import NodeCapacity
from framefarm.protocol.node import Slot
from framefarm.sandboxing import orphans
from framefarm.server.engines.base import Capacity, Notice, Observed, SessionSpec

log = structlog.get_logger(__name__)
NODE = "local"
SHADER_CACHE = "shader-cache"
"""Folder of compiled shaders, beside the sessions' folders."""
RESERVED_SHARE = 0.9
"""Share of the machine's memory for sessions; the system keeps the rest."""


class SlotRecord(msgspec.Struct):
    """`slot.json` in a session's folder: its share of the machine. Holds no secrets."""

    cores: tuple[int, ...]
    memory_bytes: int
    uid: int


class LocalEngine:
    """Runs sessions on this machine, each on cores of its own."""

    name = "local"

    def __init__(
        self,
        sessions: Path,
        endpoint_file: Path,
        *,
        first_uid: int,
        sandbox: str,
        cores: Sequence[int] | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._root = sessions
        self._mode = 0o711 if sandbox == "none" else 0o700
        """Mode of sessions' folders: without bubblewrap Blender's user must reach its files in them."""
        self._root.mkdir(exist_ok=True)
        self._root.chmod(self._mode)
        self._endpoint_file = endpoint_file
        self._first_uid = first_uid
        self._sandbox = sandbox
        self._cores = tuple(cores if cores is not None else sorted(os.sched_getaffinity(0)))
        self._memory = memory_bytes or round(psutil.virtual_memory().total * RESERVED_SHARE)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(self, session: SessionSpec) -> None:
        """Start the session's runner. Raises RuntimeError if cores or memory are not free."""
        with self._lock:
            directory = self._root / session.id
            if directory.exists():
                return
            slot = self._reserve(session)
            directory.mkdir(mode=0o700)
            directory.chmod(self._mode)
            (directory / "slot.json").write_bytes(
                msgspec.json.encode(SlotRecord(slot.cores, slot.memory_bytes, slot.uid))
            )
            with open(directory / "runner.log", "wb") as output:
                child = subprocess.Popen(
                    [sys.executable, "-m", "framefarm.node.runner"],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd="/",
                    env=_environment(),
                )
            self._children[session.id] = child
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(msgspec.json.encode(slot))

    def _reserve(self, session: SessionSpec) -> Slot:
        busy: set[int] = set()
        uids: set[int] = set()
        memory = 0
        for name in self._names():
            if self._alive(name):
                with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                    record = self._record(name)
                    busy.update(record.cores)
                    uids.add(record.uid)
                    memory += record.memory_bytes
        free = [c for c in self._cores if c not in busy]
        if len(free) < session.cores or self._memory - memory < session.memory_bytes:
            raise RuntimeError(f"no room for {session.cores} cores: {len(free)} are free")
        uid = next(u for u in range(self._first_uid, self._first_uid + 10_000) if u not in uids)
        return Slot(
            session=session.id,
            token=session.token,
            endpoint_file=str(self._endpoint_file),
            directory=str(self._root / session.id),
            node=NODE,
            cores=tuple(free[: session.cores]),
            memory_bytes=session.memory_bytes,
            gpus=session.gpus,
            uid=uid,
            sandbox="none" if self._sandbox == "none" else "bubblewrap",
            shader_cache=str(self._root.with_name(SHADER_CACHE)),
        )

    def stop(self, session_id: str, grace_seconds: float) -> None:
        """Send SIGTERM, and SIGKILL after the grace; the sandbox ends with its runner."""
        runner = self._runner(session_id)
        if runner is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = [runner, *runner.children(recursive=True)]
            runner.send_signal(signal.SIGTERM)
            if not self._ended_within(session_id, grace_seconds):
                tree = [runner, *runner.children(recursive=True)]
                for process in tree:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            psutil.wait_procs(tree, timeout=5)
        self._reap(session_id)

    def _ended_within(self, session_id: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._alive(session_id):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def observe(self) -> dict[str, Observed]:
        return {
            name: Observed("running") if self._alive(name) else Observed("exited", self._reason(name))
            for name in self._names()
        }

    def capacity(self) -> Sequence[Capacity]:
        return [Capacity(NodeCapacity(NODE, "", len(self._cores), self._memory))]

    def notices(self) -> Sequence[Notice]:
        return []

    def forget(self, session_id: str) -> None:
        if not self._alive(session_id):
            self._reap(session_id)
            orphans.end_orphans()  # its runner may have been killed while it started a sandbox
            shutil.rmtree(self._root / session_id, ignore_errors=True)

    def stop_all(self, grace_seconds: float) -> None:
        """End all sessions on this machine at the same time."""
        threads = [
            threading.Thread(target=self.stop, args=(name, grace_seconds))
            for name in self._names()
            if self._alive(name)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # -- inside

    def _names(self) -> list[str]:
        return [entry.name for entry in os.scandir(self._root) if entry.is_dir()]

    def _alive(self, session_id: str) -> bool:
        child = self._children.get(session_id)
        if child is not None:
            return child.poll() is None
        try:
            fd = os.open(self._root / session_id / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _runner(self, session_id: str) -> psutil.Process | None:
        child = self._children.get(session_id)
        if child is not None:
            pid = child.pid
        elif self._alive(session_id):
            pid = msgspec.json.decode((self._root / session_id / "runner.json").read_bytes())["pid"]
        else:
            return None
        try:
            return psutil.Process(pid)
        except psutil.NoSuchProcess:
            return None

    def _record(self, session_id: str) -> SlotRecord:
        return msgspec.json.decode((self._root / session_id / "slot.json").read_bytes(), type=SlotRecord)

    def _reason(self, session_id: str) -> str:
        try:
            ended = msgspec.json.decode((self._root / session_id / "ended.json").read_bytes())
            return str(ended.get("reason", ""))
        except (FileNotFoundError, msgspec.DecodeError):
            return ""

    def _reap(self, session_id: str) -> None:
        child = self._children.pop(session_id, None)
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)


def _environment() -> dict[str, str]:
    """The runner's environment: without the server's secrets."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUNBUFFERED": "1"}
