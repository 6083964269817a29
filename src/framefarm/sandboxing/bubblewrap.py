"""The sandbox around Blender and every parser of foreign bytes: bubblewrap with an unprivileged user id, its
own file system, a filter of system calls, and limits.

As root, bubblewrap makes no user namespace (root in a user namespace could still read root's files). It
mounts, cuts off the network and starts `setpriv`, which switches to the slot's user id irrevocably:

    runner ─ bwrap ─┬ pid namespace ─────────────────────────────────────────────────────────────┐
                    │ bwrap (its pid 1) ─ setpriv ─ prlimit ─ taskset ─ sh (variables) ─ Blender │
                    └────────────────────────────────────────────────────────────────────────────┘

As an ordinary user, bubblewrap makes a user namespace instead. The options are passed through a descriptor
and the job's variables through the standard input of `sh`: so no process outside the sandbox has them in its
argument list or environment.
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
from framefarm.sandboxing.orphans import MARKER, end_orphans
from framefarm.sandboxing.usage_monitor import UsageMonitor, descendants
from framefarm.sandboxing.userland import SYSTEM_FILES, SYSTEM_LINKS

Mode = Literal["bubblewrap", "none"]

TMP_BYTES = 64 << 20
"""Size of each in-memory file system of the sandbox. The usage monitor doesn't see their memory."""
OUTER_EXIT_SECONDS = 2.0
"""How long bubblewrap's outer process may take to exit after the inner ones were killed."""
_HELPER_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_UNPRIVILEGED = ("--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")


@dataclass(frozen=True)
class Bind:
    """A file or folder of this machine (`source`) and its absolute path inside the sandbox (`target`)."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Sandbox:
    """Settings of one sandbox: what the program inside may see and use."""

    mode: Mode
    """`none` starts the program with its limits but without bubblewrap."""
    uid: int
    """User id of the program, if this process is root. An ordinary user keeps its own id."""
    cores: tuple[int, ...]
    """Numbers of the processors that the program runs on."""
    binds: tuple[Bind, ...] = ()
    """A later bind hides an earlier one on the same path; the system's libraries hide all binds."""
    tmp: Path | None = None
    """Folder of this machine that is /tmp inside. Without it, /tmp is in memory, of `TMP_BYTES`."""
    limits: Limits = field(default_factory=Limits)
    proc: bool = True
    """Whether /proc exists inside. Without it a descriptor can't be reopened, for example for writing."""
    userland: Path | None = None
    """Tree whose system is the one inside, helpers included; None: this machine's. Not in the mode `none`."""

    def options(self) -> list[str]:
        """Options for bwrap, without the program to run."""
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
        options += _parent_options(b.target for b in binds)
        for bind in binds:
            options += ["--bind" if bind.writable else "--ro-bind", bind.source, bind.target]
        options += [
            *_system_options(self.userland),
            *(["--proc", "/proc"] if self.proc else []),
            "--dev",
            "/dev",
        ]
        options += ["--size", str(TMP_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
        return [*options, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]

    def helpers(self) -> list[str]:
        """Command line of the programs that execute each other, between bwrap (or the runner) and Blender."""
        chain: list[str] = []
        drop = is_root()
        if drop or self.mode == "none":
            chain += ["setpriv"]
        if drop:
            chain += ["--reuid", str(self.uid), "--regid", str(self.uid), *_UNPRIVILEGED]
        if self.mode == "none":
            chain += ["--pdeathsig", "KILL", *([] if drop else ["--no-new-privs"])]
        # Without a user namespace, the kernel counts all processes of an ordinary user against this limit.
        chain += self.limits.command(own_user=drop or self.mode == "bubblewrap")
        chain += ["taskset", "-c", ",".join(str(core) for core in self.cores)]
        return [*chain, "/bin/sh", "-s", "--", MARKER]

    def start(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Iterable[int] = (),
        *,
        any_thread: bool = False,
        quiet: bool = False,
    ) -> Process:
        """Start `program` (absolute path first) inside; its output goes to `Process.output`.

        Call it from the main thread: the kernel kills the sandbox when the *thread* that started it ends.

        Args:
            environment: variables of the program.
            pass_fds: descriptors that keep their numbers inside.
            any_thread: allows another thread, which must live as long as the sandbox.
            quiet: discard standard error instead of adding it to the output.

        Raises SandboxUnavailable if a program that this needs is not installed.
        """
        if not any_thread and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "a sandbox is killed when the thread that started it ends: use the main thread"
            )
        own_fds: list[int] = []
        command = [*self.helpers(), *program]
        status_read = None
        try:
            variables_fd = memory_file("environment", _shell_script(environment))
            own_fds.append(variables_fd)
            if self.mode == "bubblewrap":
                options_fd = memory_file("options", b"\0".join(os.fsencode(o) for o in self.options()))
                own_fds.append(options_fd)
                filter_fd = memory_file("filter", syscalls.program())
                own_fds.append(filter_fd)
                status_read, status_write = os.pipe()
                own_fds.append(status_write)
                bwrap = ["bwrap", "--args", str(options_fd), "--seccomp", str(filter_fd)]
                command = [*bwrap, "--info-fd", str(status_write), "--", *command]
            child = subprocess.Popen(
                command,
                stdin=variables_fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if quiet else subprocess.STDOUT,
                bufsize=0,
                env={"PATH": _HELPER_PATH},
                pass_fds=[*pass_fds, *own_fds],
                start_new_session=True,
            )
        except BaseException as error:
            if status_read is not None:
                os.close(status_read)
            if isinstance(error, FileNotFoundError):
                raise SandboxUnavailable(f"{error.filename} is not installed on this machine.") from None
            raise
        finally:
            for descriptor in own_fds:
                os.close(descriptor)
        return Process(child, status_read, self.limits)


class Process:
    """A running sandbox.

    `output` is the descriptor of everything that its programs print, `pid` the id of the outermost process.
    """

    def __init__(self, child: subprocess.Popen[bytes], status: int | None, limits: Limits) -> None:
        """`status` is the descriptor of bwrap's --info-fd, closed here; None without bubblewrap."""
        self._child = child
        self._inner: int | None = None
        self._lock = threading.Lock()
        assert child.stdout is not None
        self.output = child.stdout.fileno()
        self.pid = child.pid
        if status is not None:
            self._inner = _inner_pidfd(status)
            if self._inner is None:
                end_orphans()
        self._limits = limits
        self._monitor: UsageMonitor | None = None
        if limits.memory_bytes is not None or limits.quotas:
            self._monitor = UsageMonitor(self.pid, limits, self.kill)

    @property
    def memory_bytes(self) -> int | None:
        """Limit of the sandbox's memory; None without a limit."""
        return self._limits.memory_bytes

    @property
    def peak_memory_bytes(self) -> int:
        """Most memory that the usage monitor has seen in the process tree; 0 without a monitor."""
        return 0 if self._monitor is None else self._monitor.peak_bytes

    @property
    def killed_for(self) -> str | None:
        """`out_of_memory` or `too_much_written` if the usage monitor killed the sandbox; None otherwise."""
        return None if self._monitor is None else self._monitor.killed_for

    @property
    def exceeded_quota(self) -> Quota | None:
        """Quota for which the usage monitor killed the sandbox; None otherwise."""
        return None if self._monitor is None else self._monitor.exceeded_quota

    def explain(self, where: str = "") -> str | None:
        """Sentence for the artist if the usage monitor killed the sandbox; None otherwise.

        `where` says what the program was doing, for example " in frame 7".
        """
        if self.killed_for is None:
            return None
        if self.exceeded_quota is not None:
            facts = disk_facts(self.exceeded_quota)
        else:
            assert self.memory_bytes is not None
            facts = memory_facts(self.peak_memory_bytes, self.memory_bytes)
        return failure_codes.explain(self.killed_for, facts | {"where": where})

    def kill(self) -> None:
        """Kill all processes inside and wait for their end. Harmless if they have ended."""
        with self._lock:
            if self._child.returncode is None:
                self._kill()
                try:
                    self._child.wait(OUTER_EXIT_SECONDS)
                except subprocess.TimeoutExpired:
                    # The outer process was stopped (SIGSTOP), so it can't notice the end of the inner ones.
                    _kill_process(self._child.pid)
                    self._child.wait()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Wait for the exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        code = self._child.wait(timeout_seconds)
        if self._inner is not None and code > 128:
            return 128 - code  # bwrap reports a signal as a shell does
        return code

    def close(self) -> None:
        """Stop the usage monitor and close the descriptors, `output` too."""
        if self._monitor is not None:
            self._monitor.stop()
        if self._child.stdout is not None:
            self._child.stdout.close()
        if self._inner is not None:
            os.close(self._inner)
            self._inner = None

    def _kill(self) -> None:
        if self._inner is not None:
            try:
                # This is pid 1 of the namespace: the kernel kills all others before it reports its end,
                # and the outer bwrap, which `kill` waits for, returns after that.
                signal.pidfd_send_signal(self._inner, signal.SIGKILL)
                return
            except ProcessLookupError:
                pass
        else:
            for pid in descendants(self._child.pid):
                _kill_process(pid)
        _kill_process(self._child.pid)


def check(mode: Mode = "bubblewrap") -> str | None:
    """One sentence why Blender can't run in a sandbox on this machine; None if it can."""
    needed = ["setpriv", "prlimit", "taskset"] + (["bwrap"] if mode == "bubblewrap" else [])
    for name in needed:
        if shutil.which(name, path=_HELPER_PATH) is None:
            package = "bubblewrap" if name == "bwrap" else "util-linux"
            return f"{name} is not installed: install the Debian package {package}."
    if mode == "none":
        return None
    sandbox = Sandbox("bubblewrap", 65534, (min(os.sched_getaffinity(0)),))
    try:
        process = sandbox.start(["/bin/true"], {}, any_thread=True)
    except SandboxUnavailable as error:
        return error.detail
    printed = b"".join(iter(lambda: os.read(process.output, 4096), b"")).decode(errors="replace").strip()
    code = process.wait()
    process.close()
    if code == 0:
        return None
    why = printed.splitlines()[-1] if printed else f"it ended with code {code}"
    return f"bubblewrap does not work on this machine: {why}."


def _parent_options(targets: Iterable[str]) -> list[str]:
    """Options for the folders above `targets`, which bwrap would otherwise close to all users but root."""
    parents: dict[str, None] = {}
    for target in targets:
        for parent in reversed(Path(target).parents):
            parents.setdefault(str(parent))
    return [word for parent in parents if parent != "/" for word in ("--perms", "0755", "--dir", parent)]


def _system_options(userland: Path | None) -> list[str]:
    tree = "" if userland is None else str(userland)
    options = ["--ro-bind", f"{tree}/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    for path in SYSTEM_LINKS:
        source = Path(tree + path)
        if source.is_symlink():
            options += ["--symlink", os.readlink(source), path]
        elif source.is_dir():
            options += ["--ro-bind", str(source), path]
    for path in SYSTEM_FILES:
        options += ["--ro-bind-try", tree + path, path]
    return options


def _shell_script(environment: Mapping[str, str]) -> bytes:
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return os.fsencode("\n".join([*lines, "shift  # the marker", 'exec "$@" </dev/null', ""]))


def memory_file(name: str, content: bytes) -> int:
    """Descriptor of a file in memory with `content`, positioned at its start, for a child to read once."""
    descriptor = os.memfd_create(name)
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _inner_pidfd(status: int) -> int | None:
    """Pidfd of the sandbox's pid 1, from bwrap's --info-fd; None if bwrap failed and printed why."""
    with os.fdopen(status, "rb") as stream:
        info = stream.read()
    try:
        return os.pidfd_open(json.loads(info)["child-pid"])
    except (ValueError, KeyError, ProcessLookupError):
        return None


def _kill_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
