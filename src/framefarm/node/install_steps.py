"""Steps that all installations of a Blender share: their folder, running and starting programs, the marker of
a complete one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import platformdirs
from filelock import FileLock

from framefarm.core.errors import FarmError
from framefarm.sandboxing import userland

START_SECONDS = 120.0
INSTALL_SECONDS = 3600.0
MARKER = userland.MARKER
SYSTEM_RUNTIMES = Path("/var/lib/framefarm/runtimes")
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

OnStep = Callable[[str], None]
"""Called with a line of text before each slow step."""

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


def debian_package_of(library: str) -> str | None:
    """The Debian package with a shared library that Blender needs; None if it is not known."""
    return _DEBIAN_PACKAGE_OF.get(library)


class RuntimeProblem(FarmError):
    """A Blender cannot be installed or started on this node. The text is one sentence with the remedy."""

    title = "Blender can't be used"


def runtimes_root() -> Path:
    """The folder for installs: `FRAMEFARM_RUNTIMES`, else one for the whole node (root) or for the user."""
    if given := os.environ.get("FRAMEFARM_RUNTIMES"):
        return Path(os.path.abspath(given))
    if os.geteuid() == 0:
        return SYSTEM_RUNTIMES
    return platformdirs.user_data_path("framefarm") / "runtimes"


def make_root() -> Path:
    """Create `runtimes_root()` and its missing parents, readable for all users under any umask.

    Raises RuntimeProblem if that is not possible.
    """
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


def lock_is_taken(lock: FileLock) -> bool:
    """Whether another process holds the lock at this moment."""
    try:
        with lock.acquire(timeout=0):
            return False
    except TimeoutError:
        return True


def check_free_space(what: str, folder: Path, needed_bytes: int) -> None:
    """Raises RuntimeProblem if the disk of `folder` has less than `needed_bytes` free for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise RuntimeProblem(
            f"{what} needs {needed_bytes / 1e9:.1f} GB of disk space below {folder}, "
            f"and {free / 1e9:.1f} GB are free."
        )


def write_marker(folder: Path, content: str) -> None:
    """Mark the install in `folder` as complete, durably and after all its files."""
    os.sync()  # after a power cut, a marker without all the files would be wrong
    fd = os.open(folder / MARKER, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(fd, "w") as file:
        file.write(content + "\n")
        file.flush()
        os.fchmod(fd, 0o644)
        os.fsync(fd)


def let_everyone_read(folder: Path) -> None:
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


def start(command: list[str], what: str) -> str:
    """Start a Blender that ends by itself, and return its output.

    Raises RuntimeProblem if it does not start; the text begins with `what`, and names a missing library with
    its Debian package.
    """
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
        package = debian_package_of(missing[1])
        remedy = f": apt-get install {package}" if package else ""
        raise RuntimeProblem(f"{what} needs the system library {missing[1]}, which is missing{remedy}.")
    raise RuntimeProblem(f"{what} does not start (exit code {done.returncode}): {last_line(done.stderr)}")


def run(
    command: list[str],
    failure: str,
    *,
    cwd: Path | None = None,
    timeout_seconds: float = INSTALL_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run an installer's program; returns its output.

    Args:
        failure: begins the text of the error.
        cwd: a folder outside of any project with settings.
        environment: further variables.

    Raises RuntimeProblem if it fails.
    """
    unset = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP")
    variables = {k: v for k, v in os.environ.items() if k not in unset}
    variables |= {"UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if os.path.exists(SYSTEM_CERTIFICATES):  # includes the certificate of a private mirror
        variables.setdefault("SSL_CERT_FILE", SYSTEM_CERTIFICATES)
        variables.setdefault("REQUESTS_CA_BUNDLE", SYSTEM_CERTIFICATES)
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
            env=variables | dict(environment or {}),
            umask=0o022,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeProblem(f"{failure}: no end after {timeout_seconds:.0f} s.") from None
    except OSError as error:
        raise RuntimeProblem(f"{failure}: {error.filename}: {error.strerror}.") from error
    if done.returncode == 0:
        return done.stdout
    if "No space left on device" in done.stderr + done.stdout:
        raise RuntimeProblem(f"{failure}: the disk is full.")
    raise RuntimeProblem(f"{failure}: {last_line(done.stderr) or last_line(done.stdout)}")


def last_line(text: str) -> str:
    """The last line of a failed program's output that is not a hint."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    messages = [line for line in lines if not line.startswith("hint:")] or lines
    return messages[-1][:500] if messages else "it printed nothing"
