"""The Pythons of this machine, and uv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from framefarm.node.install_steps import RuntimeProblem

_REPOSITORY = Path(__file__).parents[3]
_START_SECONDS = 30


def uv() -> str | None:
    """The repository's own pinned uv, else the one on PATH; None if there is none."""
    own = _REPOSITORY / ".uv" / "bin" / "uv"
    return str(own) if own.is_file() else shutil.which("uv")


def find(version: str) -> str | None:
    """A Python of this version, as `3.13`, that starts; None if this machine has none.

    Preferably the system's, which the sandbox's user can read without a bind of its own.
    """
    return next((path for path in _candidates(version) if _is_python(path, version)), None)


def with_pip() -> str:
    """A Python that has pip, of any version. Raises RuntimeProblem if there is none."""
    own = str(_REPOSITORY / ".uv" / "bin" / "python")
    for candidate in (own, sys.executable, *_candidates("3.11")):
        if os.access(candidate, os.X_OK) and _prints([candidate, "-m", "pip", "--version"]) is not None:
            return candidate
    raise RuntimeProblem(
        "Finding Blender's newest release needs pip: name an exact release, as 4.2.23, or install pip."
    )


def _candidates(version: str) -> Iterator[str]:
    name = f"python{version}"
    yield f"/usr/bin/{name}"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if os.path.isabs(folder):
            yield os.path.join(folder, name)  # each: the first may be a stand-in that does not start
    if ".".join(map(str, sys.version_info[:2])) == version:
        yield os.path.realpath(sys.executable)
    program = uv()
    if program and (
        managed := _prints([program, "python", "find", "--managed-python", "--no-project", version])
    ):
        yield managed


def _is_python(path: str, version: str) -> bool:
    if not os.access(path, os.X_OK):
        return False
    code = "import sys, venv; print(*sys.version_info[:2], sep='.')"
    return _prints([path, "-I", "-c", code]) == version


def _prints(command: list[str]) -> str | None:
    """The output of a program; None if it fails."""
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_START_SECONDS, check=False, env=environment, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
