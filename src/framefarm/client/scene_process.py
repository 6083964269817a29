"""A .blend read in a process of its own: a damaged one may ask for endless memory or time.

As a program: `python -P -m framefarm.client.scene_process scene|files PATH` prints what it found, or what is wrong,
as JSON. Paths travel as their bytes, one character each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from framefarm.client import dependencies
from framefarm.client.dependencies import Dependencies, Missing, SceneFacts
from framefarm.client.errors import LocalProblem

MEMORY_BYTES = 4 << 30
SECONDS = 600.0


def read_scene(path: Path) -> SceneFacts:
    """Read a .blend's version and frame ranges. Raises LocalProblem if it is no readable .blend."""
    said = _apart("scene", path)
    ranges = {name: (first, last, step) for name, (first, last, step) in said["ranges"].items()}
    return SceneFacts((said["version"][0], said["version"][1]), said["active"], ranges)


def find(scene: Path) -> Dependencies:
    """All files a scene needs. Raises LocalProblem if the scene itself cannot be read."""
    said = _apart("files", scene)
    missing = [Missing(_path(path), wanted_by) for path, wanted_by in said["missing"]]
    return Dependencies(tuple(Path(_path(p)) for p in said["files"]), tuple(missing))


def _apart(what: str, path: Path) -> dict[str, Any]:
    # -P: the folder that the artist is in may be a stranger's, and holds no modules of ours.
    command = [sys.executable, "-P", "-m", __name__, what, os.fspath(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _endless(path) from None
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise _endless(path) from None
    if "problem" in said:
        raise LocalProblem(_path(said["problem"]))
    return said


def _endless(path: Path) -> LocalProblem:
    return LocalProblem(
        f"{path} cannot be read as a .blend: that took more than {MEMORY_BYTES >> 30} GiB of memory or "
        f"{SECONDS / 60:.0f} minutes. It is probably damaged: open it in Blender and save it again."
    )


def _bytes(path: str) -> str:
    return os.fsencode(path).decode("latin-1")


def _path(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


def _limit() -> None:
    """Windows has no such limits: there the time-out is the only one."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _answer(what: str, path: Path) -> dict[str, Any]:
    if what == "scene":
        return asdict(dependencies.read_scene(path))
    found = dependencies.find(path)
    return {"files": _all(found.files), "missing": [(_bytes(m.path), m.wanted_by) for m in found.missing]}


def _all(paths: Iterable[Path]) -> list[str]:
    return [_bytes(os.fspath(path)) for path in paths]


def main() -> None:
    _limit()
    try:
        said = _answer(sys.argv[1], Path(sys.argv[2]))
    except LocalProblem as problem:
        said = {"problem": _bytes(str(problem))}
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
