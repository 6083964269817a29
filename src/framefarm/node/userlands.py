"""Laying a userland: a minimal Debian 13 below `runtimes_root()`, for Blenders that need a later Python than
this machine has.

It is laid by debootstrap once for the machine, in a temporary folder that is renamed when it is complete. A
lock file beside it excludes a second installer, which then finds the tree of the first.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from pathlib import Path

from filelock import FileLock

from framefarm.node import install_steps
from framefarm.node.install_steps import OnStep, RuntimeProblem, check_free_space, lock_is_taken
from framefarm.sandboxing import userland

SUITE = "trixie"  # Debian 13
PYTHON_VERSION = "3.13"
PYTHON = f"/usr/bin/python{PYTHON_VERSION}"
NAME = f"userland-{SUITE}"
NEEDED_BYTES = 1500 << 20  # 550 MB, the packages before they are unpacked, and a margin
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = (
    "python3.13", "python3.13-venv", "ca-certificates", "fontconfig-config",
    "libx11-6", "libxext6", "libxrender1", "libxxf86vm1", "libxfixes3", "libxi6", "libxkbcommon0", "libsm6",
    "libice6", "libgomp1", "libgl1", "libegl1", "libegl-mesa0", "libglx-mesa0", "libgl1-mesa-dri",
)  # fmt: skip
"""Needed by `import bpy`; and Mesa, with which EEVEE and Workbench draw."""
_UNNEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_PROXIES = {"http_proxy": "Acquire::http::Proxy", "https_proxy": "Acquire::https::Proxy"}


def existing() -> Path | None:
    """The complete userland of this user, or of the whole machine; None if there is none."""
    for root in (install_steps.runtimes_root(), install_steps.SYSTEM_RUNTIMES):
        if (root / NAME / userland.MARKER).is_file() and os.access(root / NAME / PYTHON[1:], os.X_OK):
            return root / NAME
    return None


def ensure(what: str, on_step: OnStep) -> Path:
    """The userland of this machine, laid now if there is none, which takes root, some minutes and 550 MB.

    `what` names the Blender that needs it. Raises RuntimeProblem with the remedy.
    """
    if shutil.which("bwrap") is None:
        raise RuntimeProblem(f"{what} needs bubblewrap on this machine: apt-get install bubblewrap.")
    if (tree := existing()) is not None:
        return tree
    if os.geteuid() != 0:
        raise RuntimeProblem(
            f"{what} needs Python 3.13, which this machine lacks: install it (`uv python install 3.13`, or "
            "`apt-get install python3.13-venv` where Debian has it), or let root run this command once, "
            "which lays a Debian 13 for all users of this machine."
        )
    root = install_steps.make_root()
    lock = FileLock(root / f"{NAME}.lock", mode=0o644)
    if lock_is_taken(lock):
        on_step("Another installation lays the Debian 13 of this machine: waiting for it.")
    with lock:
        if (tree := existing()) is not None:
            return tree
        _remove_halves(root)
        _lay(root, what, on_step)
        return root / NAME


def write_start_program(path: Path, tree: Path, program: Path) -> None:
    """Write a script to `path` that runs `program` in the userland `tree`, in the caller's folder.

    All other files of the machine are where they are: so it can be used as the program itself.
    """
    words = shlex.join(userland.entering(tree))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!/bin/sh\n"
        "# Enters the userland of this Blender: its libraries are later ones than this machine's.\n"
        f'exec {words} --chdir "$PWD" -- {shlex.quote(str(program))} "$@"\n'
    )
    path.chmod(0o755)


# -------------------------------------------------------------------------------- laying the tree


def _lay(root: Path, what: str, on_step: OnStep) -> None:
    _install_debootstrap(what, on_step)
    check_free_space("The Debian 13 that it needs", root, NEEDED_BYTES)
    new = root / f"{NAME}.new-{os.getpid()}"
    new.mkdir(mode=0o755)
    mirror = debian_mirror()
    on_step(f"Laying a minimal Debian 13 into {root / NAME} from {mirror}, once: minutes, 550 MB.")
    try:
        # In namespaces of its own: its mounts and processes end with this one, however it ends.
        install_steps.run(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}",
             "--force-check-gpg", f"--keyring={KEYRING}", SUITE, str(new), mirror],
            f"{what} needs a Debian 13 of its own, which could not be laid",
            environment=proxies(),
        )  # fmt: skip
        for name in _UNNEEDED:
            shutil.rmtree(new / name, ignore_errors=True)
        _drop_special_modes(new)
        install_steps.run(
            [*userland.entering(new), "--", PYTHON, "-c", "import venv"], "The new Debian 13 is broken"
        )
        install_steps.write_marker(new, SUITE)
        shutil.rmtree(root / NAME, ignore_errors=True)  # one without its marker
        new.rename(root / NAME)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove_halves(root: Path) -> None:
    """Remove what interrupted installations left. The caller holds the lock."""
    for half in root.glob(f"{NAME}.new-*"):
        shutil.rmtree(half, ignore_errors=True)


def _drop_special_modes(tree: Path) -> None:
    """Take the set-user-id bits off the tree's programs, and close no file to others."""
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                os.chmod(path, mode & 0o777)


def _install_debootstrap(what: str, on_step: OnStep) -> None:
    missing = [] if shutil.which("debootstrap") else ["debootstrap"]
    missing += [] if KEYRING.is_file() else ["debian-archive-keyring"]
    if not missing:
        return
    remedy = f"apt-get install {' '.join(missing)}"
    failure = f"{what} needs Python 3.13, which this machine lacks, or a Debian 13 of its own: {remedy}"
    if shutil.which("apt-get") is None:
        raise RuntimeProblem(f"{failure} (or what this system calls it).")
    on_step(f"Installing {' and '.join(missing)}.")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    install_steps.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], failure, environment=quiet
    )


def debian_mirror() -> str:
    """The address of the Debian mirror that this machine's apt uses; Debian's own if it uses none."""
    targets = _apt(["apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Identifier: Packages"])
    for line in targets.splitlines():
        label, _, address = line.partition("|")
        plain = address.rstrip("/")
        if re.fullmatch(r"https?://\S+|file:/\S+", plain) and (
            label == "Debian" or (not label.startswith("Debian") and plain.endswith("/debian"))
        ):
            return plain
    return DEFAULT_MIRROR


def proxies() -> dict[str, str]:
    """The proxies of this machine's apt as variables, where the environment has none."""
    found = {}
    for variable, option in _PROXIES.items():
        match = re.search(r"^p='?([^']+)", _apt(["apt-config", "shell", "p", option]))
        if match and match[1].strip() != "DIRECT" and variable not in os.environ:
            found[variable] = match[1].strip()
    return found


def _apt(command: list[str]) -> str:
    """The output of one of apt's programs; empty where there is no apt."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return install_steps.run(command, "apt can't be asked for its mirror", timeout_seconds=60)
    except RuntimeProblem:
        return ""
