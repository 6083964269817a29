"""Installing a Blender from its own archive (`blender-4.2.23-linux-x64.tar.xz`), for what the packages lack.

The archive's checksum is compared before anything of it is read. It is unpacked into a temporary folder,
started once, and then renamed to `archive-RELEASE` below `runtimes_root()`.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

from framefarm.core.errors import InvalidInput
from framefarm.core.packages import archive_id, release_key
from framefarm.node import blender_probe, install_steps
from framefarm.node.install_steps import MARKER, OnStep, RuntimeProblem
from framefarm.node.installed import Installed, release_of_program

MAX_BYTES = 8 << 30
"""Unpacked; Blender 5.2 has some 1.6 GB."""
MAX_ENTRIES = 100_000
PROGRAM = "blender"
_FOLDER = re.compile(r"archive-(\d+\.\d+\.\d+)")
_NOT_FOUND = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
_CHUNK = 1 << 20
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


def installed_archives() -> list[Installed]:
    """The Blenders that were installed from archives; starts none of them."""
    root = install_steps.runtimes_root()
    names = os.listdir(root) if root.is_dir() else []
    found = ((root / name, _FOLDER.fullmatch(name)) for name in names)
    return [_described(folder, match[1]) for folder, match in found if match and (folder / MARKER).is_file()]


def install_archive(archive: Path, sha256: str, *, on_step: OnStep = lambda _: None) -> Installed:
    """Install the Blender of an archive (tar, also compressed, or zip) whose checksum is `sha256`.

    Raises:
        InvalidInput: there is no such file, its checksum is another one, or it is not a Blender.
        RuntimeProblem: it cannot be unpacked or started on this node, or its release is installed already,
            from another archive.
    """
    wanted = sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise InvalidInput.of(
            "sha256", "must be 64 hexadecimal digits, as Blender's download page has them", sha256
        )
    root = install_steps.make_root()
    with _opened(archive) as file:
        on_step(f"Checking {archive.name}.")
        if (seen := _sha256(file)) != wanted:
            raise InvalidInput.of(
                "sha256", f"is not that of {archive.name}, which has {seen}: fetch it again", sha256
            )
        lock = FileLock(root / "archives.lock", mode=0o644)
        if install_steps.lock_is_taken(lock):
            on_step("Another installation of an archive is at work: waiting for it.")
        with lock:
            for half in root.glob("archive.new-*"):
                shutil.rmtree(half, ignore_errors=True)
            if (known := _with_checksum(wanted)) is not None:
                _start(Path(known.path))
                return known
            file.seek(0)
            return _install(root, archive, file, wanted, on_step)


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _install(root: Path, archive: Path, file: IO[bytes], sha256: str, on_step: OnStep) -> Installed:
    new = root.resolve() / f"archive.new-{os.getpid()}"
    new.mkdir(mode=0o755)
    try:
        on_step(f"Unpacking {archive.name}.")
        try:
            _unpack(file, new)
        except _DAMAGED as error:
            raise InvalidInput.of("archive", f"can't be unpacked: {error}", str(archive)) from error
        except OSError as error:
            raise RuntimeProblem(f"{archive.name} can't be unpacked: {error.strerror or error}.") from error
        folder = _blender_folder(new, archive)
        install_steps.let_everyone_read(folder)
        release = _start(folder / PROGRAM)
        final = root / f"archive-{release}"
        if (final / MARKER).is_file():
            raise RuntimeProblem(
                f"Blender {release} is installed from another archive: to replace it, remove {final}."
            )
        shutil.rmtree(final, ignore_errors=True)
        on_step(f"Trying the features of Blender {release}.")
        blender_probe.lacking("archive", str(folder / PROGRAM), folder)
        install_steps.write_marker(folder, sha256)
        folder.rename(final)
        return _described(final, release)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _with_checksum(sha256: str) -> Installed | None:
    """The Blender that was installed from the archive with this checksum."""
    for known in installed_archives():
        if (Path(known.path).parent / MARKER).read_text().strip() == sha256:
            return known
    return None


def _described(folder: Path, release: str) -> Installed:
    lacks = blender_probe.kept_lacking(folder)
    return Installed("archive", archive_id(release), release, str(folder / PROGRAM), lacks)


def _blender_folder(folder: Path, archive: Path) -> Path:
    """The folder with the program: the archive's one folder, or the archive itself."""
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        program = candidate / PROGRAM
        if program.is_file() and os.access(program, os.X_OK):
            return candidate
    raise InvalidInput.of("archive", f"is not a Blender: it has no program {PROGRAM}", str(archive))


def _start(program: Path) -> str:
    """The release of the program. Raises InvalidInput; RuntimeProblem, with all libraries that it lacks."""
    if missing := _missing_libraries(program):
        packages = [p for p in map(install_steps.debian_package_of, missing) if p]
        remedy = f": apt-get install {' '.join(packages)}" if packages else ""
        raise RuntimeProblem(
            f"This Blender needs the system libraries {', '.join(missing)}, which are missing{remedy}."
        )
    return ".".join(str(n) for n in release_key(release_of_program(str(program), "archive")))


def _missing_libraries(program: Path) -> list[str]:
    try:
        done = subprocess.run(
            ["ldd", str(program)], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sorted(set(_NOT_FOUND.findall(done.stdout)))


# ------------------------------------------------------------------------------------- unpacking


@contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    try:
        file = archive.open("rb")
    except OSError as error:
        raise InvalidInput.of("archive", f"can't be read: {error.strerror}", str(archive)) from error
    with file:
        yield file


def _unpack(file: IO[bytes], target: Path) -> None:
    """Unpack a tar or zip. Raises ValueError for an entry that leads out of `target`, or too much of it."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as zipped:
            _unpack_zip(zipped, target)
        return
    file.seek(0)
    if not tarfile.is_tarfile(file):
        raise ValueError("it is neither a zip nor a tar, plain or compressed (xz, bzip2, gzip)")
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        _unpack_tar(tar, target)


def _unpack_tar(tar: tarfile.TarFile, target: Path) -> None:
    links: list[tuple[Path, str]] = []
    unpacked_bytes = 0
    for number, entry in enumerate(tar):
        path = _place(entry.name, target, number)
        if entry.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif entry.isreg():
            unpacked_bytes += entry.size
            source = tar.extractfile(entry)
            assert source is not None
            _write(source, path, entry.mode, unpacked_bytes)
        elif entry.issym():
            links.append((path, _link_target(entry.linkname, path, target)))
        elif entry.islnk():
            other = _place(entry.linkname, target, number)
            if not other.is_file() or other.is_symlink():
                raise ValueError(f"{entry.name[:100]!r} is a link to a file that it does not have")
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(other, path)
        else:
            raise ValueError(f"{entry.name[:100]!r} is neither a file, a folder nor a link")
    _make_links(links)


def _unpack_zip(zipped: zipfile.ZipFile, target: Path) -> None:
    links: list[tuple[Path, str]] = []
    unpacked_bytes = 0
    for number, entry in enumerate(zipped.infolist()):
        path, mode = _place(entry.filename, target, number), entry.external_attr >> 16
        if entry.is_dir():
            path.mkdir(parents=True, exist_ok=True)
        elif stat.S_ISLNK(mode):
            if entry.file_size > 4096:
                raise ValueError(f"{entry.filename[:100]!r} is a link without end")
            links.append((path, _link_target(zipped.read(entry).decode(), path, target)))
        else:
            unpacked_bytes += entry.file_size
            with zipped.open(entry) as source:
                _write(source, path, mode or 0o644, unpacked_bytes)
    _make_links(links)


def _place(name: str, target: Path, number: int) -> Path:
    """The path below `target` for an entry's name."""
    if number >= MAX_ENTRIES:
        raise ValueError(f"it has more than {MAX_ENTRIES:,} entries")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{name[:100]!r} leads out of its folder")
    return target.joinpath(*parts)


def _link_target(link: str, path: Path, target: Path) -> str:
    """`link` itself. Raises ValueError if it leads out of `target`."""
    if os.path.isabs(link) or not Path(os.path.normpath(path.parent / link)).is_relative_to(target):
        raise ValueError(f"{path.name[:100]!r} is a link that leads out of its folder")
    return link


def _make_links(links: list[tuple[Path, str]]) -> None:
    """Make the symbolic links after all files, so that none is written through a link."""
    for path, link in links:
        if path.parent.resolve() != path.parent:
            raise ValueError(f"{path.name[:100]!r} is a link within a link")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(link, path)


def _write(source: IO[bytes], path: Path, mode: int, unpacked_bytes: int) -> None:
    if unpacked_bytes > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 30} GiB unpacked")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as out:
        shutil.copyfileobj(source, out, _CHUNK)
    path.chmod(0o755 if mode & 0o100 else 0o644)
