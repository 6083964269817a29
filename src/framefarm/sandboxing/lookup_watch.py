"""Watch of lookups: which files a sandboxed program looks for in vain, seen while it runs.

The program installs a filter of system calls on itself, beside that of `syscalls.py`; the kernel then hands
each open to a process of ours outside (`lookup_watcher.py`), which reads the path and lets the call go on.
The watch decides nothing, so a hostile program gains nothing by false names, and its memory is read only
while its call waits. A flood of calls slows only the program, on its own processors.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefarm.core.missed_lookups import SUFFIXES
from framefarm.sandboxing.bubblewrap import memory_file

_WATCHER = Path(__file__).with_name("lookup_watcher.py").read_bytes()
"""The program, as it was when this process began: a runner outlives an upgrade in place."""
MARK = "/run/framefarm/lookups-so-far"
"""A program that looks for this path ends a piece of work, as `mark` of in_blender/lookups.py."""
FORGET = "/run/framefarm/lookups-forgotten"
"""A program that looks for this path takes back its lookups since its last mark."""
ANSWER_SECONDS = 60.0
"""How long the watcher, which shares its processors with the program, may take for an answer."""
ENDING_SECONDS = 2.0
_ANSWER_BYTES = 1 << 23


@dataclass(frozen=True)
class _Call:
    """A system call with a path. All but the number are indices of its arguments."""

    number: int
    path: int
    folder: int | None = None
    """The descriptor of the folder that a relative path starts from."""
    flags: int | None = None
    unless: int = 0
    """Flags with which a call is no lookup of a file."""
    opens: bool = False


_MAKES_OR_LISTS = os.O_CREAT | os.O_DIRECTORY
_EMPTY_PATH = 0x1000
_CALLS = {
    # Architecture → its number in linux/audit.h, and its calls. openat2 has its flags in memory.
    "x86_64": (0xC000003E, (
        _Call(2, 0, None, 1, _MAKES_OR_LISTS, True),  # open
        _Call(257, 1, 0, 2, _MAKES_OR_LISTS, True), _Call(437, 1, 0, opens=True),  # openat, openat2
        _Call(4, 0), _Call(6, 0),  # stat, lstat
        _Call(262, 1, 0, 3, _EMPTY_PATH), _Call(332, 1, 0, 2, _EMPTY_PATH),  # newfstatat, statx
        _Call(21, 0), _Call(269, 1, 0), _Call(439, 1, 0),  # access, faccessat, faccessat2
    )),
    "aarch64": (0xC00000B7, (
        _Call(56, 1, 0, 2, _MAKES_OR_LISTS, True), _Call(437, 1, 0, opens=True),
        _Call(79, 1, 0, 3, _EMPTY_PATH), _Call(291, 1, 0, 2, _EMPTY_PATH),
        _Call(48, 1, 0), _Call(439, 1, 0),
    )),
}  # fmt: skip
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_ARCHITECTURE_AT, _NUMBER_AT, _ARGUMENTS_AT = 4, 0, 16
"""Places in `struct seccomp_data`."""


@dataclass(frozen=True)
class WatchedPlaces:
    """Where lookups count, and how a path of the program is found on this machine."""

    folders: tuple[tuple[str, str], ...]
    """Pairs (folder as the program sees it, the same folder on this machine): any lookup below counts."""
    ignored: tuple[str, ...]
    """Other folders, as the program sees them, in which no lookup counts."""
    plain: bool = False
    """The program sees this machine's own files, as without bubblewrap."""

    def exists(self, path: str) -> bool:
        """Whether a file is at `path`, as the program sees it."""
        for inside, outside in self.folders:
            if path.startswith(inside + "/"):
                return os.path.lexists(outside + path[len(inside) :])
        return self.plain and os.path.lexists(path)

    def in_any_case(self) -> Callable[[str], bool]:
        """A function that tells whether a file is at a path, or at one that differs from it in case alone.

        It lists each folder once.
        """
        listed: dict[str, dict[str, list[str]]] = {}

        def exists(path: str) -> bool:
            for inside, outside in self.folders:
                if path.startswith(inside + "/"):
                    return _exists_in_any_case(outside, path[len(inside) + 1 :].split("/"), listed)
            return self.exists(path)

        return exists


@dataclass(frozen=True)
class Lookups:
    """Lookups since the last answer. `refused`: why there is no watch; empty if there is one."""

    missed: tuple[str, ...] = ()
    """Paths as the program sees them, each once; unfiltered, and foreign text."""
    refused: str = ""


class WatchLost(Exception):
    """The watcher has ended before the program. The program's calls failed from then on."""


class LookupWatch:
    """A watcher process for one sandboxed program, which gets the descriptor `for_program`.

    Close `for_program` once the program has started. Raises OSError.
    """

    def __init__(self, places: WatchedPlaces, cores: Sequence[int]) -> None:
        self._control, control = socket.socketpair()
        program, self.for_program = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = memory_file("settings", json.dumps(_settings(places, cores)).encode())
        code = memory_file("watcher", _WATCHER)
        descriptors = (program.fileno(), control.fileno(), settings)
        command = [sys.executable, "-I", "-S", "-B", f"/proc/self/fd/{code}", *map(str, descriptors)]
        try:
            self._watcher = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
                pass_fds=(*descriptors, code),
                start_new_session=True,  # a signal to the runner's group must not end it before the program
            )
        except BaseException:
            self._control.close()
            self.for_program.close()
            raise
        finally:
            program.close()
            control.close()
            os.close(settings)
            os.close(code)
        self._control.settimeout(ANSWER_SECONDS)

    @property
    def pid(self) -> int:
        """Process id of the watcher."""
        return self._watcher.pid

    def take(self) -> Lookups:
        """Lookups since the last call, up to the program's next mark, or up to now. Waits for the watcher.

        Raises WatchLost: then the program's answers since the last call are worth nothing.
        """
        try:
            self._control.sendall(b"?")
            line = bytearray()
            while not line.endswith(b"\n"):
                part = self._control.recv(1 << 16)
                if not part or len(line) > _ANSWER_BYTES:
                    raise WatchLost
                line += part
            answer = json.loads(line)
        except (OSError, ValueError):
            raise WatchLost from None
        if answer["state"] == "refused":
            return Lookups(refused=str(answer["why"]))
        if answer["state"] != "watching":
            return Lookups(refused="it did not begin")
        if answer["unread"] and answer["unread"] == answer["calls"]:
            return Lookups(refused="the program's memory cannot be read")
        return Lookups(tuple(answer["missed"]))

    def wait(self) -> None:
        """Wait until the watcher ends: for `close`, or too early. May be called in another thread."""
        self._watcher.wait()

    def close(self) -> None:
        """End the watcher, after the program has ended. Harmless if it was closed before."""
        self.for_program.close()
        self._control.close()
        try:
            self._watcher.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._watcher.wait(ENDING_SECONDS)


def _exists_in_any_case(folder: str, parts: Sequence[str], listed: dict[str, dict[str, list[str]]]) -> bool:
    found = [folder]
    for part in parts:
        next_found = []
        for place in found:
            if place not in listed:
                listed[place] = _by_lower_case(place)
            next_found += [f"{place}/{name}" for name in listed[place].get(part.lower(), ())]
        found = next_found[:100]
    return bool(found)


def _by_lower_case(folder: str) -> dict[str, list[str]]:
    """Name in lower case → names in the folder."""
    names: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            names.setdefault(name.lower(), []).append(name)
    return names


def _settings(places: WatchedPlaces, cores: Sequence[int]) -> dict[str, Any]:
    architecture, calls = _CALLS.get(platform.machine(), (0, ()))
    return {
        "filter": _filter(architecture, calls).hex(),
        "calls": {call.number: (call.path, call.folder, call.opens) for call in calls},
        "places": [(inside + "/", outside + "/") for inside, outside in places.folders],
        "ignored": [folder + "/" for folder in places.ignored],
        "suffixes": SUFFIXES,
        "plain": places.plain,
        "mark": MARK,
        "forget": FORGET,
        "cores": list(cores),
    }


def _filter(architecture: int, calls: Sequence[_Call]) -> bytes:
    """The filter as an array of `struct sock_filter`: these calls wait for the watcher, all others pass.

    Empty without calls. 32-bit programs pass: the filter beside it kills them.
    """
    if not calls:
        return b""
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for call in calls:
        if call.flags is None:
            code += [(_EQUAL, 0, 1, call.number), (_RETURN, 0, 0, _NOTIFY)]
        else:
            code += [
                (_EQUAL, 0, 4, call.number),
                (
                    _LOAD,
                    0,
                    0,
                    _ARGUMENTS_AT + 8 * call.flags,
                ),  # its lower half: both machines are little-endian
                (_ANY_BIT, 1, 0, call.unless),
                (_RETURN, 0, 0, _NOTIFY),
                (_RETURN, 0, 0, _ALLOW),
            ]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
