"""Trying the features of an installed Blender, each really, in processes of its own.

`bpy.app.build_options` alone is no proof: the `bpy` packages report a fluid solver, and abort when a fluid
is simulated.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from framefarm.core.blender_features import Feature, known

TRY_SECONDS = 120.0
"""Most time of one process that tries features: 3 s are usual for all of them."""
RESULTS = "framefarm-features.json"
"""File in an install's folder with the features that were tried and those that it lacks."""

_SCRIPT = Path(__file__).with_name("in_blender") / "features.py"
_LINE = re.compile(rb"^framefarm: (trying|works|lacks|done) ?([a-z0-9_]*)", re.MULTILINE)


def start_words(kind: str, path: str, script: str) -> list[str]:
    """The command line that runs a Python script in a Blender of `kind`, up to the script's own words."""
    if kind == "bpy":
        return [path, "-I", script, "--"]
    return [path, "-b", "--factory-startup", "-noaudio", "--python", script, "--"]


def lacking(kind: str, path: str, folder: Path | None = None) -> list[str] | None:
    """The codes of the features that this Blender lacks; None if it can't be asked.

    They are tried once and kept in `folder`, if that can be written, as long as this program knows no
    feature that was not tried.
    """
    if folder is not None and (kept := kept_lacking(folder)) is not None:
        return kept
    found = try_features(kind, path)
    if found is not None and folder is not None:
        with contextlib.suppress(OSError):
            _keep(folder / RESULTS, found)
    return found


def kept_lacking(folder: Path) -> list[str] | None:
    """The codes that an earlier `lacking` kept in `folder`; None if there are none, or some are new."""
    try:
        results = json.loads((folder / RESULTS).read_bytes())
        tried, lacks = set(results["tried"]), results["lacks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [str(code) for code in known(lacks)] if tried >= set(Feature) else None


def try_features(kind: str, path: str, features: Sequence[Feature] = tuple(Feature)) -> list[str] | None:
    """Try `features`, and return the codes of those that this Blender lacks; None if nothing was tried."""
    left = [str(feature) for feature in features]
    lacks: list[str] = []
    with tempfile.TemporaryDirectory(prefix="framefarm-features-") as folder:
        # A copy: a Blender with its own userland does not see this machine's /usr.
        script = Path(folder) / _SCRIPT.name
        script.write_bytes(_SCRIPT.read_bytes())
        for _ in features:  # each turn ends all of them, or at least one
            trying = None
            for word, name in _LINE.findall(_output([*start_words(kind, path, str(script)), *left], folder)):
                code = name.decode()
                if word == b"done":
                    return lacks
                if code not in left:
                    return None
                if word == b"trying":
                    trying = code
                    continue
                if word == b"lacks":
                    lacks.append(code)
                left.remove(code)
                trying = None
            if trying is None:
                return None
            lacks.append(trying)  # it ended this Blender
            left.remove(trying)
            if not left:
                return lacks
    return lacks


def _output(command: list[str], folder: str) -> bytes:
    """Everything on the standard output of a process that is killed after `TRY_SECONDS`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "BLENDER_"))}
    environment |= {"HOME": folder, "TMPDIR": folder, "BLENDER_USER_RESOURCES": f"{folder}/user"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TRY_SECONDS,
            check=False,
            cwd=folder,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        return error.stdout or b""
    except OSError:
        return b""
    return done.stdout


def _keep(path: Path, lacks: list[str]) -> None:
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({"tried": list(Feature), "lacks": lacks}) + "\n")
    new.chmod(0o644)
    new.replace(path)
