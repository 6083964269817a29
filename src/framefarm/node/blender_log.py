"""Blender's printed output: kept in one log file per attempt, and parsed for what it reports only there."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

from framefarm.node.blender_protocol import clean

OPENING_MARK = b"framefarm: the scene is opened\n"
OPENED_MARK = b"framefarm: the scene is open\n"
"""Printed by in_blender/main.py: all that Blender printed while it opened the scene is between the two."""
OCIO_TROUBLE = (b"OpenColorIO Error", b"fallback mode for management", b"could not load OCIO", b"OCIO Error")
_COLOUR_NAME = re.compile(r'\b(?:display|view|look|colorspace) "', re.IGNORECASE)
MAX_UNKNOWN_COLOURS = 20
NO_MEMORY = (
    b"bad_alloc",
    b"Out of memory",
    b"out of memory",
    b"Malloc returns null",
    b"Cannot allocate memory",
)
NOISE = ("could not get a list of mounted file-systems", OPENED_MARK.decode().strip())
"""Lines that do not explain an end."""
MAX_OPENING_BYTES = 1 << 20
TAIL_BYTES = 16384
"""Room for the stack of a crash and the lines before it."""


class BlenderLog:
    """Writes to one log file at a time, at most `limit_bytes` (more than 100) to each.

    A last line in a full file says so; all further output is dropped. Output is also dropped while there is
    no file, and when the disk is full: reading must continue, or Blender would block. `switch` may be called
    while another thread writes.
    """

    def __init__(self, limit_bytes: int = 16 << 20) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._file: int | None = None
        self._remaining = 0

    def switch(self, path: Path | None) -> None:
        """Append to `path` from now on; None: drop the output."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            if path is None:
                return
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._file = os.open(path, flags, 0o644)
                self._remaining = self._limit - len(_FULL_NOTICE) - os.fstat(self._file).st_size

    def write(self, printed: bytes) -> None:
        """Append what the limit allows. Never raises."""
        with self._lock:
            if self._file is None or self._remaining < 0:
                return
            kept = printed
            if len(printed) > self._remaining:
                kept = printed[: self._remaining] + _FULL_NOTICE  # within the limit: see `switch`
            self._remaining -= len(printed)
            with contextlib.suppress(OSError):
                _write_all(self._file, kept)


_FULL_NOTICE = b"\n[The log is full; what follows was left out.]\n"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class LogParser:
    """Parses one Blender's output as it comes. `parse` is for one thread; the others may read and wait."""

    def __init__(self) -> None:
        self.tail = b""
        """The last TAIL_BYTES printed."""
        self.ocio_trouble = False
        """Blender could not use the OCIO configuration."""
        self.unknown_colours: list[str] = []
        """Displays, views, looks and colour spaces that Blender did not know while it opened the scene."""
        self._opened = threading.Event()
        self._opening: bytes | None = None
        """The output since the opening began; None before it."""

    def parse(self, printed: bytes) -> None:
        text = self.tail + printed
        self.ocio_trouble = self.ocio_trouble or any(words in text for words in OCIO_TROUBLE)
        if not self._opened.is_set():
            self._parse_opening(text, printed)
        self.tail = text[-TAIL_BYTES:]

    def _parse_opening(self, text: bytes, printed: bytes) -> None:
        if self._opening is None and OPENING_MARK in text:
            self._opening = text[text.rindex(OPENING_MARK) :]
        elif self._opening is not None:
            self._opening = (self._opening + printed)[-MAX_OPENING_BYTES:]
        if OPENED_MARK in text:
            self.unknown_colours = unknown_colours(self._opening or b"")
            self._opening = None
            self._opened.set()

    def expect_opening(self) -> None:
        """Blender is asked to open a scene: `wait_until_opened` waits for the mark of this opening."""
        self._opening = None
        self._opened.clear()

    def wait_until_opened(self, timeout_seconds: float) -> None:
        """Wait until all output of the opening is parsed, at most for the time-out."""
        self._opened.wait(timeout_seconds)


def ran_out_of_memory(printed: bytes) -> bool:
    """Whether the output names a failed allocation."""
    return any(words in printed for words in NO_MEMORY)


def last_line(printed: bytes) -> str:
    """The last line that may explain an end: printable, at most 300 characters; empty if there is none."""
    lines = [clean(line) for line in printed[-1500:].decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line and line not in NOISE), "")[:300]


def unknown_colours(printed: bytes) -> list[str]:
    """The displays, views, looks and colour spaces that the output calls unknown: `scene view "Film"`."""
    lines = (
        clean(line[:1000]) for line in printed.decode(errors="replace").splitlines() if " not found, " in line
    )
    texts = (line.partition(" not found, ")[0].rpartition("| ")[2] for line in lines)
    plain = (text.removeprefix("Color management: ").removeprefix("WARNING ")[:200] for text in texts)
    return list(dict.fromkeys(text for text in plain if _COLOUR_NAME.search(text)))[:MAX_UNKNOWN_COLOURS]
