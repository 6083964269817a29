"""Traces that a crashed Blender left: Python's stack in its output, and Blender's own crash file.

Both are hostile text: shown, never trusted.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from framefarm.node.blender_protocol import clean

CRASH_FILE_BYTES = 64 << 10
MOST_ENTRIES = 1000
"""Names in Blender's /tmp among which the crash file is looked for."""
_STACK_START = b"Fatal Python error: "
"""First words of Python's `faulthandler`, which in_blender/main.py switches on."""
_CALL = re.compile(r'File "([^"\n]{1,1000})", line (\d+) in (\S{1,200})')
_OWN = ("/in_blender/", "/bpy/", "<frozen ", "bpy_types.py", "/scripts/modules/")
"""Parts of the paths of the farm's and of Blender's own modules."""


def before_stack(printed: bytes) -> bytes:
    """The output without the Python stack that a crash adds at its end."""
    return printed.partition(_STACK_START)[0]


def crashed_script(printed: bytes) -> str:
    """The innermost call of the scene's or an add-on's code, as `rig.py, line 3 (update)`; empty if none."""
    stack = printed.partition(_STACK_START)[2].decode(errors="replace")
    for path, line, function in _CALL.findall(stack):
        if not any(part in path for part in _OWN):
            return clean(f"{os.path.basename(path)}, line {line} ({function})")[:200]
    return ""


def last_operator(tmp: Path) -> str:
    """The last operator in the crash file that an official Blender wrote to `tmp`; empty if there is none."""
    with contextlib.suppress(OSError), os.scandir(tmp) as entries:
        for entry, _ in zip(entries, range(MOST_ENTRIES), strict=False):
            if entry.name.endswith(".crash.txt"):
                lines = _read(Path(entry.path)).partition("# backtrace")[0].splitlines()
                calls = [line for line in lines if line.startswith("bpy.ops.")]
                if calls:
                    return clean(calls[-1].partition("#")[0])[:200]
    return ""


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return file.read(CRASH_FILE_BYTES).decode(errors="replace")
