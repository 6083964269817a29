"""Compiled shaders of EEVEE and Workbench, kept on the node from one Blender to the next.

Without a GPU, Mesa compiles each shader for the processor, which takes most of a first frame. It keeps the
result in a folder of files with checksums, as do GPUs' drivers and, from 4.5 on, Blender itself. A Blender
starts with a copy of that folder, and its additions are kept after its end, once it has saved a frame. So no
two Blenders share a file, and none can change one while another reads it.

The files are hostile: a scene's script can write them. They are only copied, by name and without following a
link, and given to Blenders of the same account, package release and graphics driver.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from framefarm.protocol.node import Package
from framefarm.sandboxing.safe_remove import remove_tree
from framefarm.sandboxing.userland import userland_of

FOLDER = ".cache"
"""Name of the cache's folder in Blender's /tmp."""
MAKERS = frozenset({"mesa_shader_cache", "mesa_shader_cache_db", "nvidia", "blender"})
"""Folders in it that are kept: of Mesa, of NVIDIA's driver, of Blender."""
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
INDEX = "index"
"""Mesa's own list of its files, which it makes again."""
MOST_FILES = 20_000
MOST_DEPTH = 6
MOST_BYTES = 256 << 20
"""Of the cache of one account, package and driver. Beyond it, what was not used longest goes."""
MOST_BYTES_OF_ALL = 4 << 30
UNUSED_SECONDS = 30 * 24 * 3600.0
"""A cache that was not used for this time is removed."""
_NVIDIA = Path("/proc/driver/nvidia/version")
_DRIVERS = ("libEGL_mesa.so.0", "libgallium*.so", "dri/swrast_dri.so", "libEGL_nvidia.so.0")


def environment(home: str) -> dict[str, str]:
    """Variables that put the cache into `home`, Blender's /tmp. Mesa itself would look up its user's home."""
    return {"XDG_CACHE_HOME": f"{home}/{FOLDER}", "MESA_SHADER_CACHE_MAX_SIZE": f"{MOST_BYTES >> 20}M"}


def place(root: str, account: str, package: Package) -> Path | None:
    """The folder of the shaders of this account, package release and driver; None if the node keeps none."""
    if not root or not NAME.fullmatch(account):
        return None
    system = userland_of(package.path) or Path("/")
    release = re.sub(r"[^A-Za-z0-9._-]", "_", f"{package.id}-{package.release}")[:80]
    return Path(root, account, f"{release}-{_driver(system)}")


def _driver(system: Path) -> str:
    """Identity of the graphics drivers: names, sizes and times of their files, and NVIDIA's version."""
    found = [_NVIDIA.read_text()] if _NVIDIA.exists() else []
    for pattern in _DRIVERS:
        for path in sorted(system.glob(f"usr/lib/*-linux-gnu/{pattern}")):
            with contextlib.suppress(OSError):
                state = path.stat()
                found.append(f"{path.name} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def hand_out(kept: Path | None, tmp: Path, uid: int) -> None:
    """Copy the kept cache into Blender's new /tmp, for its user `uid`. Without it Blender is slower: no error
    of the disk is raised."""
    if kept is None or not kept.is_dir():
        return
    target = tmp / FOLDER
    with contextlib.suppress(OSError, shutil.Error):
        os.utime(kept)
        shutil.copytree(kept, target, symlinks=True)
    if os.geteuid() == 0 and target.is_dir():
        for folder, _, files in os.walk(target):
            os.chown(folder, uid, uid)
            for name in files:
                os.chown(os.path.join(folder, name), uid, uid, follow_symlinks=False)


def take_back(kept: Path | None, tmp: Path) -> None:
    """Keep the shaders that a Blender has added to its copy; it has ended. No error of the disk is raised."""
    if kept is None:
        return
    with contextlib.suppress(OSError):
        found = list(_files(tmp / FOLDER))
        if not found:
            return
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(kept.parent.parent):
            for relative, source in found:
                _take(source, kept / relative)
            _shrink(kept)
            _remove_unused(kept.parent.parent)


def _files(cache: Path) -> Iterator[tuple[str, Path]]:
    """(path in the cache, path) of the regular files worth keeping; follows no link."""
    count = size = 0
    if cache.is_symlink():
        return
    for folder, folders, names in os.walk(cache):
        relative = os.path.relpath(folder, cache)
        parts = [] if relative == "." else relative.split("/")
        allowed = MAKERS.intersection(folders) if not parts else filter(NAME.fullmatch, folders)
        folders[:] = sorted(allowed) if len(parts) < MOST_DEPTH else []
        for name in sorted(names) if parts else ():
            path = Path(folder, name)
            state = path.lstat()
            if name == INDEX or not NAME.fullmatch(name) or not stat.S_ISREG(state.st_mode):
                continue
            count, size = count + 1, size + state.st_size
            if count > MOST_FILES or size > MOST_BYTES:
                return
            yield f"{relative}/{name}", path


def _take(source: Path, target: Path) -> None:
    """Copy a file that is not kept in this state yet."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        with contextlib.suppress(FileNotFoundError):
            before = target.stat()
            if (before.st_size, before.st_mtime_ns) == (state.st_size, state.st_mtime_ns):
                return
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with open(part, "wb") as copy:
            shutil.copyfileobj(file, copy)
        os.utime(part, ns=(state.st_atime_ns, state.st_mtime_ns))
        os.replace(part, target)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _shrink(kept: Path) -> None:
    """Remove the oldest files beyond the limits of one cache."""
    files = [(path, path.stat()) for path in kept.rglob("*") if path.is_file()]
    size = sum(state.st_size for _, state in files)
    count = len(files)
    for path, state in sorted(files, key=lambda entry: entry[1].st_mtime_ns):
        if size <= MOST_BYTES and count <= MOST_FILES:
            return
        path.unlink()
        size, count = size - state.st_size, count - 1


def _remove_unused(root: Path) -> None:
    """Remove caches that were not used for long, and the least recently used ones beyond the limit of all."""
    caches = sorted(root.glob("*/*/"), key=lambda cache: cache.stat().st_mtime, reverse=True)
    total, now = 0, time.time()
    for number, cache in enumerate(caches):
        total += sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        if now - cache.stat().st_mtime > UNUSED_SECONDS or (number and total > MOST_BYTES_OF_ALL):
            remove_tree(cache)
