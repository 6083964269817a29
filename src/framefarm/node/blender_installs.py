"""The Blender installs of this node, shared by all data folders on it.

Below `runtimes_root()`, each `bpy` release has its own Python environment, as `bpy-4.2.23/`, since releases
pin different numpy versions. An environment is created in its final folder, since it holds absolute paths. It
counts after Blender has started in it and its marker file was written. A lock file beside it excludes a
second installer. Where this machine has no Python of the version that a release needs, the environment is of
a userland's Python (node/userlands.py), and its `bin/python` is a script that enters it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from filelock import FileLock

from framefarm.core.errors import InvalidInput
from framefarm.core.packages import (
    BPY_SERIES,
    Series,
    VersionRequest,
    newest,
    package_id,
    parse_version,
    release_key,
    series_of,
)
from framefarm.node import blender_probe, install_steps, pythons, userlands
from framefarm.node.blender_archives import installed_archives
from framefarm.node.install_steps import (
    MARKER,
    OnStep,
    RuntimeProblem,
    check_free_space,
    let_everyone_read,
    lock_is_taken,
    make_root,
    runtimes_root,
    write_marker,
)
from framefarm.node.installed import Installed, release_of_program
from framefarm.sandboxing import userland
from framefarm.sandboxing.userland import ENVIRONMENT as ENVIRONMENT_IN_USERLAND

FIRST_BPY = Series(4, 2)
NEEDED_BYTES = 2 << 30  # wheel 370 MB, unpacked 950 MB, and a margin

_FOLDER = re.compile(r"bpy-(\d+\.\d+\.\d+)")


def installed() -> list[Installed]:
    """The complete installs below `runtimes_root()`, oldest release first; starts none of them."""
    try:
        names = os.listdir(runtimes_root())
    except FileNotFoundError:
        return []
    installs = installed_archives()
    for name in names:
        match = _FOLDER.fullmatch(name)
        folder = runtimes_root() / name
        if match and (folder / MARKER).is_file():
            installs.append(_bpy(folder, match[1]))
    return sorted(installs, key=lambda i: release_key(i.release))


def install_bpy(version: str, *, upgrade: bool = False, on_step: OnStep = lambda _: None) -> Installed:
    """Install a `bpy` of this version (`4.2`, `4.2.23`, `blender-4-2`) if it is missing, and start it once.

    An installed release of the series is used as it is, unless `upgrade`. `on_step` gets a line of text
    before each slow step.

    Raises:
        InvalidInput: there is no such version; the text names the existing ones.
        RuntimeProblem: it cannot be installed or started on this node.
    """
    wanted = parse_version(version, "version")
    _refuse_older(wanted)
    release = newest(wanted, [i.release for i in installed() if i.kind == "bpy"])
    if release is None or (upgrade and wanted.patch is None):
        release = _newest_on_index(wanted)
    root = make_root()
    folder = root / f"bpy-{release}"
    lock = FileLock(root / f"bpy-{release}.lock", mode=0o644)
    if lock_is_taken(lock):
        on_step(f"Another installation of Blender {release} is at work: waiting for it.")
    with lock:
        if not (folder / MARKER).is_file():
            _build(folder, release, on_step)
        else:
            _start_bpy(folder, release)
        if blender_probe.kept_lacking(folder) is None:
            on_step(f"Trying the features of Blender {release}.")
            blender_probe.lacking("bpy", _python_of(folder), folder)
    return _bpy(folder, release)


def describe_executable(path: str | os.PathLike[str]) -> Installed:
    """The release of a Blender program, found by starting it.

    Raises:
        InvalidInput: there is no such program, or it is not a Blender.
        RuntimeProblem: it does not start on this node.
    """
    program = os.path.abspath(path)
    if not os.path.isfile(program) or not os.access(program, os.X_OK):
        raise InvalidInput.of("executable", "must be the path of a Blender program", os.fspath(path))
    release = ".".join(str(n) for n in release_key(release_of_program(program, "executable")))
    lacks = blender_probe.lacking("executable", program)
    return Installed("executable", package_id(release), release, program, lacks)


# ------------------------------------------------------------------------------- which release


def _refuse_older(wanted: VersionRequest) -> None:
    if wanted.series < FIRST_BPY:
        raise InvalidInput.of(
            "version",
            f"Blender {wanted} does not exist as a package (the first is {FIRST_BPY}): install Blender's own "
            "archive with `framefarm blender install --archive FILE --sha256 SUM`",
            str(wanted),
        )


def _newest_on_index(wanted: VersionRequest) -> str:
    python = wanted.series.python
    releases = available_releases(python)
    if (found := newest(wanted, releases)) is not None:
        return found
    there_are = [r for r in releases if series_of(r) == wanted.series] or BPY_SERIES
    raise InvalidInput.of(
        "version",
        f"there is no bpy {wanted}; there are: {', '.join(there_are)}",
        str(wanted),
    )


def available_releases(python: str) -> list[str]:
    """The `bpy` releases for the Python version `python` that the package index has, oldest first.

    Raises:
        RuntimeProblem: the index does not answer, or pip is not installed.
    """
    output = install_steps.run(
        [pythons.with_pip(), "-m", "pip", "index", "versions", "bpy", "--python-version", python],
        "The package index can't be asked for the releases of Blender",
        timeout_seconds=120,
    )
    match = re.search(r"^Available versions: (.+)$", output, re.MULTILINE)
    if match is None:
        raise RuntimeProblem("The package index knows no release of Blender's package bpy.")
    releases = [r for r in (part.strip() for part in match[1].split(",")) if re.fullmatch(r"[\d.]+", r)]
    return sorted(releases, key=release_key)


# -------------------------------------------------------------------------------- installation


def _build(folder: Path, release: str, on_step: OnStep) -> None:
    check_free_space(f"Blender {release}", folder.parent, NEEDED_BYTES)
    version = series_of(release).python
    base, tree = pythons.find(version), None
    if base is None and version != userlands.PYTHON_VERSION:
        raise RuntimeProblem(f"Blender's package needs Python {version}, and none was found on this machine.")
    if base is None:
        tree = userlands.ensure(f"Blender {release}", on_step)
    on_step(f"Installing Blender {release} into {folder} (about 370 MB to download).")
    shutil.rmtree(folder, ignore_errors=True)
    failure = f"Blender {release} could not be installed"
    _make_environment(folder, base, tree, failure)
    python, wheel, uv = _python_of(folder), f"bpy=={release}", pythons.uv()
    installer = [python, "-m", "pip"] if uv is None else [uv, "pip"]
    target = [] if uv is None else ["--python", python]
    install_steps.run([*installer, "install", "--quiet", *target, wheel], failure, cwd=folder.parent)
    _start_bpy(folder, release)  # also compiles its modules, which the sandbox cannot do
    let_everyone_read(folder)
    write_marker(folder, release)


def _make_environment(folder: Path, base: str | None, tree: Path | None, failure: str) -> None:
    """Make the Python environment of a Blender: of this machine's Python `base`, or of the one in `tree`."""
    uv = pythons.uv()
    if tree is None:
        assert base is not None
        made_by_uv = [uv, "venv", "--quiet", "--no-project", "--python", base] if uv else None
        install_steps.run([*(made_by_uv or [base, "-m", "venv"]), str(folder)], failure, cwd=folder.parent)
        return
    environment = folder / ENVIRONMENT_IN_USERLAND
    folder.mkdir()
    without_pip = ["--without-pip"] if uv else []
    words = [*userland.entering(tree), "--", userlands.PYTHON, "-m", "venv", *without_pip, str(environment)]
    install_steps.run(words, failure, cwd=folder.parent)
    userlands.write_start_program(Path(_python_of(folder)), tree, environment / "bin" / "python")
    (folder / userland.LINK).write_text(f"{tree}\n")


# ------------------------------------------------------------------------------------ starting


def _python_of(folder: Path) -> str:
    return str(folder / "bin" / "python")


def _bpy(folder: Path, release: str) -> Installed:
    lacks = blender_probe.kept_lacking(folder)
    return Installed("bpy", package_id(release), release, _python_of(folder), lacks)


_PRINT_VERSION = (
    "import bpy, os, sys; print('Blender', bpy.app.version_string); sys.stdout.flush(); os._exit(0)"
)


def _start_bpy(folder: Path, release: str) -> None:
    output = install_steps.start([_python_of(folder), "-I", "-c", _PRINT_VERSION], f"Blender {release}")
    if not re.search(rf"^Blender {re.escape(release)}\b", output, re.MULTILINE):
        raise RuntimeProblem(
            f"The folder {folder} holds another Blender than {release}: remove it and install again."
        )
