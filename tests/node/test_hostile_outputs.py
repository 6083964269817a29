"""Outputs that a hostile program in a real sandbox has left, or still changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from framefarm.node.output_files import FrameLimits, OutputRejected, collect
from framefarm.node.sandbox import OUTPUT_FOLDER, Bind, Process, Sandbox
from framefarm.protocol.node import StagedFile
from framefarm.sandboxing.uids import UidClaim

CORES = tuple(sorted(os.sched_getaffinity(0)))


class Folder:
    """A frame's output folder that a sandboxed program owns."""

    def __init__(self, path: Path, uid: int) -> None:
        self.frame = path / "output" / "1"
        self.frame.mkdir(parents=True)
        self.staging = path / "staging"
        self.uid = uid
        for folder in (self.frame.parent, self.frame):
            os.chown(folder, uid, uid)
        self.processes: list[Process] = []

    def start(self, code: str) -> Process:
        bind = Bind(str(self.frame.parent), OUTPUT_FOLDER, writable=True)
        box = Sandbox("bubblewrap", self.uid, CORES, (bind,))
        picture = "open('picture_0007.png', 'wb').write(b'picture')"
        code = f"import os\nos.chdir('{OUTPUT_FOLDER}/1')\n{picture}\n{code}"
        self.processes.append(box.start(["/usr/bin/python3.11", "-I", "-c", code], {}))
        return self.processes[-1]

    def leave(self, code: str) -> None:
        process = self.start(code)
        printed = b"".join(iter(lambda: os.read(process.output, 65536), b""))
        assert (process.wait(60), printed) == (0, b"")

    def collect(self, limits: FrameLimits | None = None) -> list[StagedFile]:
        return collect(self.frame, self.staging, "film", 7, limits or FrameLimits())

    def refused(self, limits: FrameLimits | None = None) -> OutputRejected:
        with pytest.raises(OutputRejected) as refusal:
            self.collect(limits)
        assert refusal.value.detail.endswith(".") and "\n" not in refusal.value.detail
        return refusal.value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with UidClaim(71400) as claim:
        folder = Folder(tmp_path, claim.uid)
        yield folder
        for process in folder.processes:
            process.kill()
            process.close()


def test_harmless_files_are_staged(folder: Folder) -> None:
    folder.leave("os.mkdir('Depth'); open('Depth/Image0007.exr', 'w').write('x')")
    assert [f.path for f in folder.collect()] == ["film_0007.png", "Depth/Image0007.exr"]


@pytest.mark.parametrize(
    "code",
    [
        "os.symlink('/etc/shadow', 'extra.png')",
        "os.symlink('/etc', 'extra')",
        "os.symlink('../../../staging', 'extra')",
        "os.remove('picture_0007.png'); os.symlink('/etc/hostname', 'picture_0007.png')",
        "os.link('picture_0007.png', 'twin.png')",
        "os.mkfifo('extra.png')",
        "import socket; socket.socket(socket.AF_UNIX).bind('extra.png')",
        "open('line\\nfeed.png', 'w')",
        "open('escape\\x1b[2J.png', 'w')",
        "open('c1\\x9b.png', 'w')",
        "open(b'bad\\xff\\xfe.png', 'w')",
        "open('back\\\\..\\\\slash.png', 'w')",
        "open('turned\\u202egnp.exe', 'w')",
        "os.mkdir('Depth'); open('depth', 'w')",
        "open('\\u00e9.png', 'w'); open('e\\u0301.png', 'w')",
        "os.makedirs('/'.join('d' * 40))",
        "for n in range(300):\n  os.mkdir('d' * 200); os.chdir('d' * 200)",
    ],
)
def test_links_pipes_sockets_and_strange_names_are_refused(folder: Folder, code: str) -> None:
    folder.leave(code)
    assert folder.refused().cause == "bad_output"


def test_a_program_in_the_sandbox_makes_no_device(folder: Folder) -> None:
    folder.leave("try: os.mknod('disk', 0o60600, os.makedev(254, 0))\nexcept PermissionError: pass")
    assert [f.path for f in folder.collect()] == ["film_0007.png"]


def test_a_device_is_refused_unopened(folder: Folder) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make one")
    folder.leave("")
    os.mknod(folder.frame / "disk", 0o60600, os.makedev(254, 0))
    assert folder.refused().cause == "bad_output"


def test_a_sparse_file_is_refused_by_its_length_before_a_byte_is_copied(folder: Folder) -> None:
    folder.leave("open('huge.exr', 'wb').truncate(200 << 30)")
    assert folder.refused().cause == "output_too_large"
    assert all(f.stat().st_size < 1000 for f in folder.staging.iterdir())


def test_the_bytes_of_a_frame_are_bounded_together(folder: Folder) -> None:
    folder.leave("for n in range(5): open(f'{n}.exr', 'wb').write(bytes(1000))")
    assert folder.refused(FrameLimits(bytes=4000)).cause == "output_too_large"


@pytest.mark.long
def test_a_hundred_thousand_files_are_refused_before_one_is_copied(folder: Folder) -> None:
    folder.leave("for n in range(100_000): os.close(os.open(str(n), os.O_CREAT | os.O_WRONLY))")
    assert folder.refused().cause == "too_many_files"
    assert not list(folder.staging.iterdir())


RACE = """
import itertools
os.symlink('/etc/hostname', 'link')
open('file', 'w').write('mine')
os.mkdir('folder'); open('folder/a', 'w').write('mine')
os.symlink('/etc', 'elsewhere')
print(1, flush=True)
def swap(a, b):
    os.rename(a, 'spare'); os.rename(b, a); os.rename('spare', b)
while True:
    try: swap('file', 'link'); swap('folder', 'elsewhere')
    except OSError: pass
"""


def test_links_swapped_in_while_it_is_collected_lead_nowhere(folder: Folder) -> None:
    """Each attempt may succeed or be refused, but only the program's own bytes are ever staged."""
    process = folder.start(RACE)
    os.read(process.output, 1)
    for _ in range(200):
        try:
            files = folder.collect(FrameLimits(files=100))
        except OutputRejected as refusal:
            assert refusal.cause in {"bad_output", "no_picture", "staging_failed"}
        else:
            assert files
        for staged in folder.staging.iterdir():
            assert staged.read_bytes() in (b"mine", b"picture", b""), staged
        if not folder.frame.exists():
            break


CHANGING = """
import itertools
f = open('picture_0007.png', 'r+b')
print(1, flush=True)
for n in itertools.count():
    f.seek(0); f.write(bytes([n % 256]) * (4 << 20)); f.flush()
    f.truncate((2 << 20) + n % 7 * 1000)
"""


def test_of_a_file_that_changes_while_it_is_read_the_copy_counts(folder: Folder) -> None:
    process = folder.start(CHANGING)
    os.read(process.output, 1)
    [file] = folder.collect(FrameLimits(bytes=64 << 20))
    copy = (folder.staging / file.staged).read_bytes()
    assert len(copy) == file.size
    assert hashlib.sha256(copy).hexdigest() == file.sha256
    assert hashlib.md5(copy).hexdigest() == file.md5


def test_a_file_that_grows_without_end_is_not_followed_to_it(folder: Folder) -> None:
    process = folder.start(
        "f = open('picture_0007.png', 'ab')\nprint(1, flush=True)\nwhile True: f.write(bytes(1 << 20))"
    )
    os.read(process.output, 1)
    try:
        [file] = folder.collect(FrameLimits(bytes=8 << 20))
        assert file.size <= 8 << 20
    except OutputRejected as refusal:
        assert refusal.cause == "output_too_large"
    finally:
        process.kill()
    assert all(f.stat().st_size <= 8 << 20 for f in folder.staging.iterdir())
