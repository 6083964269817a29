"""A userland of its own: a tree with another Linux's programs and libraries, for Blenders that this machine's
can't run.

A Blender that needs one has the file `framefarm-userland` in its folder, which names the tree.
"""

from __future__ import annotations

import os
from pathlib import Path

LINK = "framefarm-userland"
"""File beside a Blender's `bin` folder with the path of its userland."""
ENVIRONMENT = "environment"
"""Folder beside `bin` with the Python environment that is used in the userland."""
MARKER = "framefarm-complete"
"""File in a complete userland."""
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/fonts", "/etc/alternatives", "/etc/glvnd")
"""Files that programs need of a system, besides /usr and the links into it."""
SYSTEM_LINKS = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
"""Links into /usr; on old systems folders."""


def userland_of(program: str) -> Path | None:
    """The userland that the Blender with the start program `program` needs; None if it needs none."""
    try:
        return Path((Path(program).parents[1] / LINK).read_text().strip())
    except (OSError, IndexError, UnicodeDecodeError):
        return None


def is_whole(program: str) -> bool:
    """Whether a Blender's start program is there, and its userland if it needs one."""
    tree = userland_of(program)
    return os.path.exists(program) and (tree is None or (tree / MARKER).is_file())


def needs_bubblewrap(release: str) -> str:
    """The sentence that refuses to run a Blender with a userland without bubblewrap."""
    return (
        f"Blender {release} has its own userland, which needs bubblewrap: run the farm without "
        "--sandbox none, or use another Blender."
    )


def entering(tree: Path) -> list[str]:
    """The command line that runs a program with the system of `tree` and all other files of this machine.

    Unlike the sandbox it confines nothing: it is for the operator's own commands.
    """
    words = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--ro-bind", f"{tree}/usr", "/usr"]
    for path in SYSTEM_LINKS:
        if os.path.isdir(path) and not os.path.islink(path) and os.path.isdir(f"{tree}{path}"):
            words += ["--ro-bind", f"{tree}{path}", path]
    for path in SYSTEM_FILES:
        if os.path.exists(path) and os.path.exists(f"{tree}{path}"):
            words += ["--ro-bind", f"{tree}{path}", path]
    return words
