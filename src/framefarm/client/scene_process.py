"""Reading a .blend in a separate process, since a damaged one can make the reader use endless memory or time.

As a program: `python -P -m framefarm.client.scene_process scene|files PATH` prints its result, or a
`problem`, as JSON. Paths are encoded as their bytes, one character each (Latin-1).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from framefarm.client import dependencies, scene_facts
from framefarm.client.dependencies import Dependencies, Doubt, MissingFile
from framefarm.client.errors import LocalProblem
from framefarm.client.scene_facts import SceneFacts

Command = Literal["scene", "files"]
MEMORY_BYTES = 4 << 30
"""Limit of the process's address space."""
SECONDS = 600.0
"""Time after which the process is killed."""


def read_scene(path: Path) -> SceneFacts:
    """Read facts about a .blend's scenes. Raises LocalProblem if it cannot be read."""
    return scene_facts.from_json(_run("scene", path))


def find(scene: Path) -> Dependencies:
    """All files that a scene needs. Raises LocalProblem if the scene itself cannot be read."""
    reply = _run("files", scene)
    missing = [MissingFile(_decode(path), wanted_by) for path, wanted_by in reply["missing"]]
    doubts = [Doubt(_decode(path), why) for path, why in reply["doubts"]]
    return Dependencies(tuple(Path(_decode(p)) for p in reply["files"]), tuple(missing), tuple(doubts))


def _run(command: Command, path: Path) -> dict[str, Any]:
    # -P: modules in the current folder, which may be anybody's, are not imported.
    arguments = [sys.executable, "-P", "-m", __name__, command, os.fspath(path)]
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _too_large(path) from None
    try:
        reply: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise _too_large(path) from None
    if "problem" in reply:
        raise LocalProblem(_decode(reply["problem"]))
    return reply


def _too_large(path: Path) -> LocalProblem:
    return LocalProblem(
        f"{path} cannot be read as a .blend: that took more than {MEMORY_BYTES >> 30} GiB of memory or "
        f"{SECONDS / 60:.0f} minutes. It is probably damaged: open it in Blender and save it again."
    )


def _encode(path: str) -> str:
    return os.fsencode(path).decode("latin-1")


def _decode(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


def _limit_memory() -> None:
    """Limit this process's address space; Windows has no such limit, so only the time-out applies there."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _reply(command: str, path: Path) -> dict[str, Any]:
    if command == "scene":
        return asdict(dependencies.read_scene(path))
    needed = dependencies.find(path)
    return {
        "files": [_encode(os.fspath(file)) for file in needed.files],
        "missing": [(_encode(m.path), m.wanted_by) for m in needed.missing],
        "doubts": [(_encode(d.path), d.why) for d in needed.doubts],
    }


def main() -> None:
    """Read the scene named in the arguments and print the result as JSON."""
    _limit_memory()
    try:
        reply = _reply(sys.argv[1], Path(sys.argv[2]))
    except LocalProblem as problem:
        reply = {"problem": _encode(str(problem))}
    json.dump(reply, sys.stdout)


if __name__ == "__main__":
    main()
