"""The Blender installs of this node, shared by all data folders on it.

Below `runtimes_root()`, each `bpy` release has its own Python environment, as `bpy-4.2.23/`, since releases
pin different numpy versions. An environment is created in its final folder, since it holds absolute paths. It
counts after Blender has started in it and its marker file was written. A lock file beside it excludes a
second installer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from framefarm.core.errors import FarmError, InvalidInput
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
from framefarm.protocol.node import PackageKind

FIRST_BPY = Series(4, 2)
FIRST_BPY_OF_LATER_PYTHON = Series(5, 1)  # needs Python 3.13
START_SECONDS = 120.0
INSTALL_SECONDS = 3600.0
NEEDED_BYTES = 2 << 30  # wheel 370 MB, unpacked 950 MB, and a margin
MARKER = "framefarm-complete"
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

OnStep = Callable[[str], None]

_FOLDER = re.compile(r"bpy-(\d+\.\d+\.\d+)")
_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")
_DEBIAN_PACKAGE_OF = {
    "libX11.so.6": "libx11-6",
    "libXrender.so.1": "libxrender1",
    "libXxf86vm.so.1": "libxxf86vm1",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgomp.so.1": "libgomp1",
}


class RuntimeProblem(FarmError):
    """A Blender cannot be installed or started on this node. The text is one sentence with the remedy."""

    title = "Blender can't be used"


@dataclass(frozen=True)
class Installed:
    """A Blender that has started on this node. `release`: as `4.2.23`. `path`: for `bpy` the Python of its
    environment, else the program."""

    kind: PackageKind
    id: str
    release: str
    path: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def runtimes_root() -> Path:
    """The folder for installs: `FRAMEFARM_RUNTIMES`, else one for the whole node (root) or for the user."""
    if given := os.environ.get("FRAMEFARM_RUNTIMES"):
        return Path(os.path.abspath(given))
    if os.geteuid() == 0:
        return Path("/var/lib/framefarm/runtimes")
    return platformdirs.user_data_path("framefarm") / "runtimes"


def installed() -> list[Installed]:
    """The complete `bpy` environments below `runtimes_root()`, oldest release first; starts none of them."""
    try:
        names = os.listdir(runtimes_root())
    except FileNotFoundError:
        return []
    installs = []
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
    _refuse_other_pythons(wanted)
    release = newest(wanted, [i.release for i in installed()])
    if release is None or (upgrade and wanted.patch is None):
        release = _newest_on_index(wanted)
    root = _make_root()
    folder = root / f"bpy-{release}"
    lock = FileLock(root / f"bpy-{release}.lock", mode=0o644)
    if lock_is_taken(lock):
        on_step(f"Another installation of Blender {release} is at work: waiting for it.")
    with lock:
        if not (folder / MARKER).is_file():
            _build(folder, release, on_step)
        else:
            _start_bpy(folder, release)
    return _bpy(folder, release)


def lock_is_taken(lock: FileLock) -> bool:
    """Whether another process holds the lock at this moment."""
    try:
        with lock.acquire(timeout=0):
            return False
    except TimeoutError:
        return True


def describe_executable(path: str | os.PathLike[str]) -> Installed:
    """The release of a Blender program, found by starting it.

    Raises:
        InvalidInput: there is no such program, or it is not a Blender.
        RuntimeProblem: it does not start on this node.
    """
    program = os.path.abspath(path)
    if not os.path.isfile(program) or not os.access(program, os.X_OK):
        raise InvalidInput.of("executable", "must be the path of a Blender program", os.fspath(path))
    output = _start([program, "--background", "--version"], f"The program {program}")
    match = re.search(r"^Blender (\d+\.\d+(?:\.\d+)?)", output, re.MULTILINE)
    if match is None:
        raise InvalidInput.of("executable", "is not a Blender: it does not print its version", program)
    release = ".".join(str(n) for n in release_key(match[1]))
    return Installed("executable", package_id(release), release, program)


# ------------------------------------------------------------------------------- which release


def _refuse_other_pythons(wanted: VersionRequest) -> None:
    if wanted.series >= FIRST_BPY_OF_LATER_PYTHON:
        raise InvalidInput.of(
            "version",
            f"Blender {wanted} can't be installed as a package, since 5.1 and later need Python 3.13: "
            "install Blender's own archive and add it with `framefarm blender add --executable PATH`",
            str(wanted),
        )
    if wanted.series < FIRST_BPY:
        raise InvalidInput.of(
            "version",
            f"Blender {wanted} does not exist as a package (the first is {FIRST_BPY}): install Blender's own "
            "archive and add it with `framefarm blender add --executable PATH`",
            str(wanted),
        )


def _newest_on_index(wanted: VersionRequest) -> str:
    releases = available_releases()
    if (found := newest(wanted, releases)) is not None:
        return found
    same_series = [r for r in releases if series_of(r) == wanted.series]
    choice = same_series or [str(s) for s in sorted({series_of(r) for r in releases})] or BPY_SERIES
    raise InvalidInput.of(
        "version", f"there is no bpy {wanted} for Python 3.11; there are: {', '.join(choice)}", str(wanted)
    )


def available_releases() -> list[str]:
    """The `bpy` releases for Python 3.11 that the package index has, oldest first.

    Raises:
        RuntimeProblem: the index does not answer, or pip is not installed.
    """
    output = _run(
        [_python_with_pip(), "-m", "pip", "index", "versions", "bpy", "--python-version", "3.11"],
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
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES:
        raise RuntimeProblem(
            f"Blender {release} needs {NEEDED_BYTES / 1e9:.1f} GB of disk space below {folder.parent}, "
            f"and {free / 1e9:.1f} GB are free."
        )
    on_step(f"Installing Blender {release} into {folder} (about 370 MB to download).")
    shutil.rmtree(folder, ignore_errors=True)
    failure = f"Blender {release} could not be installed"
    base, python, uv = _base_python(), str(folder / "bin" / "python"), _uv()
    if uv is not None:
        _run(
            [uv, "venv", "--quiet", "--no-project", "--python", base, str(folder)], failure, cwd=folder.parent
        )
        _run(
            [uv, "pip", "install", "--quiet", "--python", python, f"bpy=={release}"],
            failure,
            cwd=folder.parent,
        )
    else:
        _run([base, "-m", "venv", str(folder)], failure)
        _run([python, "-m", "pip", "install", "--quiet", f"bpy=={release}"], failure)
    _start_bpy(folder, release)  # also compiles its modules, which the sandbox cannot do
    _let_everyone_read(folder)
    _write_marker(folder, release)


def _write_marker(folder: Path, release: str) -> None:
    os.sync()  # after a power cut, a marker without all the files would be wrong
    fd = os.open(folder / MARKER, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(fd, "w") as file:
        file.write(release + "\n")
        file.flush()
        os.fchmod(fd, 0o644)
        os.fsync(fd)


def _let_everyone_read(folder: Path) -> None:
    """Let all users read: the sandbox has its own user, and an installer's cache may be from umask 077."""
    for directory, _, names in os.walk(folder):
        for path in (directory, *(os.path.join(directory, name) for name in names)):
            if os.path.islink(path):
                continue
            mode = os.stat(path).st_mode & 0o777
            # Others may read and run what the owner may; only the owner may write.
            readable = (mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6) & 0o755
            if readable != mode:
                os.chmod(path, readable)


def _make_root() -> Path:
    """Create the folder and its missing parents, readable for all users under any umask."""
    root = runtimes_root()
    missing = [p for p in (root, *root.parents) if not p.exists()]
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        except OSError as error:
            raise RuntimeProblem(
                f"The folder for Blenders {root} can't be made ({error.strerror}): set FRAMEFARM_RUNTIMES."
            ) from error
    if not os.access(root, os.W_OK):
        raise RuntimeProblem(f"The folder for Blenders {root} can't be written: set FRAMEFARM_RUNTIMES.")
    return root


def _uv() -> str | None:
    """The repository's own pinned uv, else the one on PATH; None if there is none."""
    own = Path(__file__).parents[3] / ".uv" / "bin" / "uv"
    return str(own) if own.is_file() else shutil.which("uv")


def _base_python() -> str:
    """The Python 3.11 for new environments: preferably the system's, which the sandbox's user can read."""
    candidates = ["/usr/bin/python3.11", shutil.which("python3.11")]
    if sys.version_info[:2] == (3, 11):
        candidates.append(os.path.realpath(sys.executable))
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeProblem("Blender's package needs Python 3.11, and none was found on this machine.")


def _python_with_pip() -> str:
    own = str(Path(__file__).parents[3] / ".uv" / "bin" / "python")
    for candidate in (own, sys.executable, _base_python()):
        if not os.access(candidate, os.X_OK):
            continue
        result = subprocess.run(
            [candidate, "-m", "pip", "--version"], capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
        if result.returncode == 0:
            return candidate
    raise RuntimeProblem(
        "Finding Blender's newest release needs pip: name an exact release, as 4.2.23, or install pip."
    )


# ------------------------------------------------------------------------------------ starting


def _bpy(folder: Path, release: str) -> Installed:
    return Installed("bpy", package_id(release), release, str(folder / "bin" / "python"))


_PRINT_VERSION = (
    "import bpy, os, sys; print('Blender', bpy.app.version_string); sys.stdout.flush(); os._exit(0)"
)


def _start_bpy(folder: Path, release: str) -> None:
    output = _start([str(folder / "bin" / "python"), "-I", "-c", _PRINT_VERSION], f"Blender {release}")
    if not re.search(rf"^Blender {re.escape(release)}\b", output, re.MULTILINE):
        raise RuntimeProblem(
            f"The folder {folder} holds another Blender than {release}: remove it and install again."
        )


def _start(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_SECONDS,
            check=False,
            cwd="/",
            umask=0o022,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeProblem(f"{what} did not start within {START_SECONDS:.0f} s.") from None
    except OSError as error:
        raise RuntimeProblem(f"{what} can't be started: {error.strerror}.") from error
    if done.returncode == 0:
        return done.stdout
    if missing := _MISSING_LIBRARY.search(done.stderr + done.stdout):
        package = _DEBIAN_PACKAGE_OF.get(missing[1])
        remedy = f": apt-get install {package}" if package else ""
        raise RuntimeProblem(f"{what} needs the system library {missing[1]}, which is missing{remedy}.")
    raise RuntimeProblem(f"{what} does not start (exit code {done.returncode}): {_last_line(done.stderr)}")


def _run(
    command: list[str], failure: str, *, cwd: Path | None = None, timeout_seconds: float = INSTALL_SECONDS
) -> str:
    """Run an installer's program; returns its output. `cwd` must be outside of any project with settings."""
    unset = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if os.path.exists(SYSTEM_CERTIFICATES):  # includes the certificate of a private mirror
        environment.setdefault("SSL_CERT_FILE", SYSTEM_CERTIFICATES)
        environment.setdefault("REQUESTS_CA_BUNDLE", SYSTEM_CERTIFICATES)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
            cwd=cwd or "/",
            env=environment,
            umask=0o022,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeProblem(f"{failure}: no end after {timeout_seconds:.0f} s.") from None
    if done.returncode == 0:
        return done.stdout
    if "No space left on device" in done.stderr:
        raise RuntimeProblem(f"{failure}: the disk is full.")
    raise RuntimeProblem(f"{failure}: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    """The last line of a failed program's output that is not a hint."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    messages = [line for line in lines if not line.startswith("hint:")] or lines
    return messages[-1][:500] if messages else "it printed nothing"
