"""Program that sees which files a sandboxed program looks for in vain. It runs as a process of its own.

`python -I -S lookup_watcher.py PROGRAM CONTROL SETTINGS`, three descriptors. Over the socket PROGRAM the
sandboxed program gets its filter of system calls and answers with the filter's listener (see
seccomp_unotify(2)), or with the reason why the kernel refused. From then on each open waits until this
program has read the path, and then goes on unchanged: nothing is forbidden. Each byte that comes over the
socket CONTROL is a request: its answer is one line of JSON with the paths that were missed since the one
before, up to the program's next mark: a lookup of a certain path, by which it ends a piece of work while it
goes on with the next. By a lookup of another path it takes back those since its last mark. SETTINGS is a file
of JSON, see `lookup_watch.py`.

The program must outlive the sandbox, since each such call fails once the listener is closed. It ends with
the last process that has the filter. Only the standard library is imported, for a quick start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import sys
from typing import Any

RECEIVE, ANSWER, IS_VALID, SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082102, 0x40082104
"""Requests of ioctl, from linux/seccomp.h."""
SAME_PROCESSOR = 1
"""SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: the waiting thread and this one take turns on one processor."""
NOTICE = struct.Struct("QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags, call, architecture, instruction pointer, six arguments."""
REPLY = struct.Struct("QqiI")
CONTINUE = 1
PAGE = 4096
MOST_PATH_BYTES = 4096
MOST_MISSED = 500
"""Most paths in one answer."""
MOST_MISSED_TEXT = 200_000
"""Most characters of the paths in one answer."""
MOST_MARKS = 16
"""Most pieces of work that wait for a request; later marks are ignored."""
MOST_KNOWN = 50_000
"""Paths that are remembered as found or of no interest."""
MOST_OPEN = 64
"""Descriptors of the sandbox's memory that are kept open."""
AT_FDCWD = -100
EMPTY = bytes(NOTICE.size)


class Watcher:
    """The state of one watch."""

    def __init__(self, listener: int, settings: dict[str, Any]) -> None:
        self.listener = listener
        # Call → (index of the path, of the folder's descriptor or None, whether it opens the file)
        self.calls: dict[int, tuple[int, int | None, bool]] = {
            int(number): tuple(places) for number, places in settings["calls"].items()
        }
        self.places = [(inside, outside) for inside, outside in settings["places"]]
        self.ignored = tuple(settings["ignored"])
        self.suffixes = tuple(settings["suffixes"])
        self.plain = settings["plain"]
        self.notice = bytearray(EMPTY)
        self.memories: dict[int, int] = {}
        self.known: set[bytes] = set()
        self.missed: dict[str, None] = {}
        self.mark = os.fsencode(settings["mark"])
        self.forget = os.fsencode(settings["forget"])
        self.finished: list[list[str]] = []
        self.room = MOST_MISSED_TEXT
        self.seen = self.unread = 0

    def serve(self) -> None:
        """Take one waiting call, let it go on, and look at its path."""
        notice = self.notice
        notice[:] = EMPTY
        try:
            fcntl.ioctl(self.listener, RECEIVE, notice, True)
        except OSError:
            return  # its thread was killed meanwhile
        call_id, thread, _, number, _, _, *arguments = NOTICE.unpack(notice)
        self.seen += 1
        path = None
        path_at, folder_at, opens = self.calls[number]
        try:
            path = self.path_of(call_id, thread, arguments[path_at], folder_at, arguments)
        except (OSError, ValueError):
            self.unread += 1
        try:
            fcntl.ioctl(self.listener, ANSWER, REPLY.pack(call_id, 0, 0, CONTINUE))
        except OSError:
            return
        if path == self.mark:
            if len(self.finished) < MOST_MARKS:
                self.finished.append(self.take())
        elif path == self.forget:
            self.take()
        elif path is not None and path not in self.known:
            self.look_at(path, opens)

    def path_of(
        self, call_id: int, thread: int, address: int, folder_at: int | None, arguments: list[int]
    ) -> bytes | None:
        """The path (bytes) that a waiting call names, absolute; None if it names none. Raises OSError."""
        path = self.text_at(call_id, thread, address)
        if not path or path.startswith(b"/"):
            return path or None
        folder = AT_FDCWD if folder_at is None else _signed(arguments[folder_at])
        name = f"/proc/{thread}/cwd" if folder == AT_FDCWD else f"/proc/{thread}/fd/{folder}"
        base: bytes = os.readlink(os.fsencode(name))
        self.check_alive(call_id)
        return base.rstrip(b"/") + b"/" + path if base.startswith(b"/") else None

    def text_at(self, call_id: int, thread: int, address: int) -> bytes:
        """The text (bytes, without its NUL) at an address of the thread's memory. Raises OSError."""
        memory = self.memories.get(thread)
        if memory is None:
            memory = self.open_memory(call_id, thread)
        first = PAGE - address % PAGE
        read = os.pread(memory, first, address)
        if not read:  # the thread has executed another program, or its number was given to another process
            memory = self.open_memory(call_id, thread)
            read = os.pread(memory, first, address)
        end = read.find(b"\0")
        if end < 0 and len(read) < MOST_PATH_BYTES:
            read += os.pread(memory, MOST_PATH_BYTES - len(read), address + len(read))
            end = read.find(b"\0")
        return read[:end] if end >= 0 else b""

    def open_memory(self, call_id: int, thread: int) -> int:
        old = self.memories.pop(thread, None)
        if old is not None:
            os.close(old)
        if len(self.memories) >= MOST_OPEN:
            for descriptor in self.memories.values():
                os.close(descriptor)
            self.memories.clear()
        memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.check_alive(call_id)
        except OSError:
            os.close(memory)
            raise
        self.memories[thread] = memory
        return memory

    def check_alive(self, call_id: int) -> None:
        """Raise OSError unless the call still waits: else its thread's number may be another process's."""
        fcntl.ioctl(self.listener, IS_VALID, struct.pack("Q", call_id))

    def look_at(self, path: bytes, opens: bool) -> None:
        """Note the path if no file is there. Only a call that opens tells a file from a folder: for others,
        the name must end as that of a file."""
        text = os.path.normpath(os.fsdecode(path))
        if text.startswith("//"):
            text = text[1:]
        place = next((place for place in self.places if text.startswith(place[0])), None)
        if place is not None:
            there = os.path.lexists(place[1] + text[len(place[0]) :])
            counts = opens or self.is_file(text)
        else:
            there = text.startswith(self.ignored) or (self.plain and os.path.lexists(text))
            counts = self.is_file(text)
        if there:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            self.known.add(path)
        elif counts and text not in self.missed and self.has_room(text):
            self.missed[text] = None
            self.room -= len(text)

    def has_room(self, text: str) -> bool:
        return len(self.missed) < MOST_MISSED and len(text) < self.room

    def is_file(self, text: str) -> bool:
        return text.lower().endswith(self.suffixes)

    def answer(self) -> dict[str, Any]:
        """The line for a request; the next one is about later lookups."""
        missed = self.finished.pop(0) if self.finished else self.take()
        return {"state": "watching", "calls": self.seen, "unread": self.unread, "missed": missed}

    def take(self) -> list[str]:
        missed = list(self.missed)
        self.missed.clear()
        self.room = MOST_MISSED_TEXT
        return missed


def _signed(argument: int) -> int:
    """A descriptor, which is an int in C, from the register that holds it."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def reply(control: socket.socket, line: dict[str, Any]) -> None:
    # Surrogates of undecodable names stay escapes in ASCII.
    control.sendall(json.dumps(line).encode() + b"\n")


def receive_listener(program: socket.socket, control: socket.socket) -> tuple[int | None, str]:
    """The listener's descriptor, and an empty reason; None and the reason without one."""
    poll = select.poll()
    poll.register(program, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == control.fileno():
                if asks(control):
                    reply(control, {"state": "waiting"})
                else:
                    poll.unregister(control)
                continue
            try:
                message, descriptors, _, _ = socket.recv_fds(program, 200, 1)
            except OSError:  # it ended without a look at the filter
                message, descriptors = b"", []
            if descriptors:
                return descriptors[0], ""
            return None, message.decode("ascii", "replace") or "it ended before it could be watched"


def watch(listener: int, control: socket.socket, settings: dict[str, Any]) -> None:
    """Serve both until the last process has ended and nobody can ask any more."""
    watcher = Watcher(listener, settings)
    with contextlib.suppress(OSError):  # since Linux 6.6
        fcntl.ioctl(listener, SET_FLAGS, struct.pack("Q", SAME_PROCESSOR))
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(control, select.POLLIN)
    serving = 2
    while serving:
        for descriptor, event in poll.poll():
            if descriptor != listener:
                if asks(control):
                    reply(control, watcher.answer())
                    continue
                # Nobody asks any more, and the sandbox ends soon: until then its calls go on.
            elif event & select.POLLIN:
                watcher.serve()
                continue
            poll.unregister(descriptor)
            serving -= 1


def asks(control: socket.socket) -> bool:
    """Whether a request has come; false once the other side has closed."""
    try:
        return bool(control.recv(1))
    except OSError:
        return False


def main() -> None:
    program = socket.socket(fileno=int(sys.argv[1]))
    control = socket.socket(fileno=int(sys.argv[2]))
    with open(int(sys.argv[3]), "rb") as file:
        settings = json.load(file)
    with contextlib.suppress(OSError):  # it may not be allowed to run there; it works anywhere
        os.sched_setaffinity(0, settings["cores"])
    listener, why = None, "not on this kind of processor"
    if settings["filter"]:
        program.send(bytes.fromhex(settings["filter"]))
        listener, why = receive_listener(program, control)
    program.close()
    if listener is not None:
        watch(listener, control, settings)
        return
    while asks(control):
        reply(control, {"state": "refused", "why": why})


if __name__ == "__main__":
    main()
