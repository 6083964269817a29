"""Where Blender and every parser of foreign bytes run: bubblewrap around an unprivileged user id, with
nothing of the machine in sight, under a filter of system calls and within limits.

As root, bubblewrap makes no user namespace (a renamed root would still read root's files); it mounts,
cuts off the network and hands over to `setpriv`, which becomes the slot's user id for good:

    runner ─ bwrap ─┬ pid namespace ───────────────────────────────────────────────────┐
                    │ bwrap (its pid 1) ─ setpriv ─ prlimit ─ taskset ─ sh (variables) ─ Blender │
                    └──────────────────────────────────────────────────────────────────┘

As an ordinary user it makes a user namespace instead. The options travel through a descriptor, the job's
variables through the standard input of the `sh`: neither stands in an argument list or in the environment
of a process outside the sandbox.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from framefarm.core import failure_codes
from framefarm.sandboxing import syscalls
from framefarm.sandboxing.errors import SandboxUnavailable
from framefarm.sandboxing.limits import Limits, Quota, disk_facts, is_root, memory_facts
from framefarm.sandboxing.orphans import OURS, end_strays
from framefarm.sandboxing.usage_monitor import UsageMonitor

Mode = Literal["bubblewrap", "none"]

TMP_BYTES = 64 << 20
"""Of each part of the sandbox that is in memory, where the watcher doesn't see it."""
OUTER_SECONDS = 2.0
"""How long bubblewrap's outer process may outlive what it held."""
_HELPER_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM_LINKS = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/fonts", "/etc/alternatives", "/etc/glvnd")
_UNPRIVILEGED = ("--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")


@dataclass(frozen=True)
class Bind:
    """A file or folder of this machine (`source`) as it appears inside (`target`, absolute)."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Sandbox:
    """What one running program may see and use.

    `uid` is used as root only; an ordinary user stays who he is. `cores` are the processor numbers,
    exactly. Of `binds`, a later one lies over an earlier one; the system's libraries lie over all.
    """

    mode: Mode
    uid: int
    cores: tuple[int, ...]
    binds: tuple[Bind, ...] = ()
    tmp: Path | None = None
    """A folder of this machine that is /tmp inside; without it, /tmp is in memory, and small."""
    limits: Limits = field(default_factory=Limits)
    proc: bool = True
    """Whether /proc is there. Without it a descriptor can't be opened again, for writing say."""

    def options(self) -> list[str]:
        """bwrap's options, without the program."""
        root = is_root()
        options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        if root:
            options += ["--unshare-cgroup", "--cap-drop", "ALL"]
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                options += ["--cap-add", capability]
        else:
            options = ["--unshare-all", "--unshare-user", "--disable-userns"]
        options += ["--new-session", "--die-with-parent", "--hostname", "render", "--tmpfs", "/"]
        if self.tmp is None:
            options += ["--size", str(TMP_BYTES), "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
        binds = [*self.binds]
        if self.tmp is not None:
            binds.append(Bind(str(self.tmp), "/tmp", writable=True))  # noqa: S108
        options += _parents(b.target for b in binds)
        for bind in binds:
            options += ["--bind" if bind.writable else "--ro-bind", bind.source, bind.target]
        options += [*_system(), *(["--proc", "/proc"] if self.proc else []), "--dev", "/dev"]
        options += ["--size", str(TMP_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
        return [*options, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]

    def helpers(self) -> list[str]:
        """The programs between bwrap (or the runner) and Blender, in their order of becoming each other."""
        chain: list[str] = []
        drop = is_root()
        if drop or self.mode == "none":
            chain += ["setpriv"]
        if drop:
            chain += ["--reuid", str(self.uid), "--regid", str(self.uid), *_UNPRIVILEGED]
        if self.mode == "none":
            chain += ["--pdeathsig", "KILL", *([] if drop else ["--no-new-privs"])]
        # An ordinary user without a namespace of his own would count all else that he runs.
        chain += self.limits.command(own_user=drop or self.mode == "bubblewrap")
        chain += ["taskset", "-c", ",".join(str(core) for core in self.cores)]
        return [*chain, "/bin/sh", "-s", "--", OURS]

    def start(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Iterable[int] = (),
        *,
        any_thread: bool = False,
        quiet: bool = False,
    ) -> Process:
        """Start `program` (absolute path first) inside, its output going to `Process.output`.

        Call it from the main thread: the kernel ends the sandbox when the *thread* that started it ends.
        Raises SandboxUnavailable.

        Args:
            any_thread: the calling thread lives as long as the sandbox shall.
            quiet: what goes to standard error is thrown away.
        """
        if not any_thread and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a sandbox lives as long as the thread that starts it: use the main thread")
        given = [*pass_fds]
        own: list[int] = []
        command = [*self.helpers(), *program]
        status_read = None
        try:
            variables = memory_file("environment", _shell(environment))
            own.append(variables)
            if self.mode == "bubblewrap":
                options = memory_file("options", b"\0".join(os.fsencode(o) for o in self.options()))
                own.append(options)
                filtered = memory_file("filter", syscalls.program())
                own.append(filtered)
                status_read, status_write = os.pipe()
                own.append(status_write)
                bwrap = ["bwrap", "--args", str(options), "--seccomp", str(filtered)]
                command = [*bwrap, "--info-fd", str(status_write), "--", *command]
            child = subprocess.Popen(
                command,
                stdin=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if quiet else subprocess.STDOUT,
                bufsize=0,
                env={"PATH": _HELPER_PATH},
                pass_fds=[*given, *own],
                start_new_session=True,
            )
        except BaseException as error:
            if status_read is not None:
                os.close(status_read)
            if isinstance(error, FileNotFoundError):
                raise SandboxUnavailable(f"{error.filename} is not installed on this machine.") from None
            raise
        finally:
            for descriptor in own:
                os.close(descriptor)
        return Process(child, status_read, self.limits)


class Process:
    """A running sandbox. `output` is the raw descriptor of all that its programs print."""

    def __init__(self, child: subprocess.Popen[bytes], status: int | None, limits: Limits) -> None:
        self._child = child
        self._inner: int | None = None
        self._lock = threading.Lock()
        assert child.stdout is not None
        self.output = child.stdout.fileno()
        self.pid = child.pid
        if status is not None:
            self._inner = _inner_pidfd(status)
            if self._inner is None:
                end_strays()
        self._limits = limits
        self._watch: UsageMonitor | None = None
        if limits.memory_bytes is not None or limits.quotas:
            self._watch = UsageMonitor(self.pid, limits, self.kill)

    @property
    def memory_bytes(self) -> int | None:
        """The limit of its memory; None: none."""
        return self._limits.memory_bytes

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that its tree was seen to hold; 0 if nobody looked."""
        return 0 if self._watch is None else self._watch.peak_bytes

    @property
    def killed_for(self) -> str | None:
        """`out_of_memory` or `too_much_written` if it was ended for that; None otherwise."""
        return None if self._watch is None else self._watch.killed_for

    @property
    def full(self) -> Quota | None:
        """What it filled, if it was ended for that."""
        return None if self._watch is None else self._watch.full

    def explain(self, where: str = "") -> str | None:
        """For the artist, if it was ended for passing a limit; `where` is what it was at."""
        if self.killed_for is None:
            return None
        if self.full is not None:
            facts = disk_facts(self.full)
        else:
            assert self.memory_bytes is not None
            facts = memory_facts(self.peak_memory_bytes, self.memory_bytes)
        return failure_codes.explain(self.killed_for, facts | {"where": where})

    def kill(self) -> None:
        """End everything inside and wait until it has ended. Harmless if it already has."""
        with self._lock:
            if self._child.returncode is None:
                self._kill()
                try:
                    self._child.wait(OUTER_SECONDS)
                except (
                    subprocess.TimeoutExpired
                ):  # it is stopped, and sees nothing of what became of the rest
                    _signal(self._child.pid)
                    self._child.wait()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """The exit code; a signal is its negative number. Raises subprocess.TimeoutExpired."""
        code = self._child.wait(timeout_seconds)
        if self._inner is not None and code > 128:
            return 128 - code  # bwrap passes on a signal as the shell does
        return code

    def close(self) -> None:
        """Give back the descriptors; the output can't be read any more."""
        if self._watch is not None:
            self._watch.stop()
        if self._child.stdout is not None:
            self._child.stdout.close()
        if self._inner is not None:
            os.close(self._inner)
            self._inner = None

    def _kill(self) -> None:
        if self._inner is not None:
            try:
                # Pid 1 of the namespace: the kernel ends all the others before it counts as ended, and
                # only then does the bwrap that we wait for return.
                signal.pidfd_send_signal(self._inner, signal.SIGKILL)
                return
            except ProcessLookupError:
                pass
        else:
            for pid in _descendants(self._child.pid):
                _signal(pid)
        _signal(self._child.pid)


def check(mode: Mode = "bubblewrap") -> str | None:
    """Why Blender can't be shut in on this machine, in one sentence; None if it can."""
    needed = ["setpriv", "prlimit", "taskset"] + (["bwrap"] if mode == "bubblewrap" else [])
    for name in needed:
        if shutil.which(name, path=_HELPER_PATH) is None:
            package = "bubblewrap" if name == "bwrap" else "util-linux"
            return f"{name} is not installed: install the Debian package {package}."
    if mode == "none":
        return None
    box = Sandbox("bubblewrap", 65534, (min(os.sched_getaffinity(0)),))
    try:
        process = box.start(["/bin/true"], {}, any_thread=True)
    except SandboxUnavailable as error:
        return error.detail
    printed = b"".join(iter(lambda: os.read(process.output, 4096), b"")).decode(errors="replace").strip()
    code = process.wait()
    process.close()
    if code == 0:
        return None
    why = printed.splitlines()[-1] if printed else f"it ended with code {code}"
    return f"bubblewrap does not work on this machine: {why}."


def _parents(targets: Iterable[str]) -> list[str]:
    # bwrap makes missing parents closed to everyone but root.
    made: dict[str, None] = {}
    for target in targets:
        for parent in reversed(Path(target).parents):
            made.setdefault(str(parent))
    return [word for parent in made if parent != "/" for word in ("--perms", "0755", "--dir", parent)]


def _system() -> list[str]:
    options = ["--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    for path in _SYSTEM_LINKS:
        if Path(path).is_symlink():
            options += ["--symlink", os.readlink(path), path]
        elif Path(path).is_dir():
            options += ["--ro-bind", path, path]
    for path in _SYSTEM_FILES:
        options += ["--ro-bind-try", path, path]
    return options


def _shell(environment: Mapping[str, str]) -> bytes:
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return os.fsencode("\n".join([*lines, "shift  # our mark", 'exec "$@" </dev/null', ""]))


def memory_file(name: str, content: bytes) -> int:
    """A descriptor that reads `content` from its start; for a child to read once."""
    descriptor = os.memfd_create(name)
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _inner_pidfd(status: int) -> int | None:
    with os.fdopen(status, "rb") as stream:
        told = stream.read()
    try:
        return os.pidfd_open(json.loads(told)["child-pid"])
    except (ValueError, KeyError, ProcessLookupError):
        return None  # bwrap gave up; its last words are in the output


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in children:
        found += [*_descendants(int(child)), int(child)]
    return found


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
