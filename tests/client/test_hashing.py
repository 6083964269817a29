from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from framefarm.client import LocalProblem, hashing
from framefarm.client.hashing import TWO_THREADS_FROM_BYTES, HashCache, Identity, hash_file, hash_files

LONG_AGO_NS = 1_600_000_000_000_000_000


def write_file(path: Path, data: bytes, mtime_ns: int | None = LONG_AGO_NS) -> Path:
    path.write_bytes(data)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


@pytest.mark.parametrize("size", [0, 1, 100_000, TWO_THREADS_FROM_BYTES, TWO_THREADS_FROM_BYTES + 4_321_987])
def test_hashes_of_small_and_large_files_are_right_and_progress_adds_up(tmp_path: Path, size: int) -> None:
    data = os.urandom(1024) * (size // 1024) + b"x" * (size % 1024)
    counts: list[int] = []
    hashed = hash_file(write_file(tmp_path / "a", data), on_bytes=counts.append)
    assert (hashed.size, hashed.md5, hashed.sha256) == (
        size,
        hashlib.md5(data).hexdigest(),
        hashlib.sha256(data).hexdigest(),
    )
    assert sum(counts) == size


def test_many_files_are_returned_in_their_order(tmp_path: Path) -> None:
    paths = [write_file(tmp_path / f"{n:03}", str(n).encode()) for n in range(100)]
    assert [h.path for h in hash_files(paths)] == [str(p) for p in paths]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as changed long ago: ctime cannot be set."""
    monkeypatch.setattr(hashing, "SETTLED_NS", -1)


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, settled: None) -> None:
    path = write_file(tmp_path / "a", b"first")
    first = hash_file(path, cache=HashCache(tmp_path / "cache.sqlite"))
    again = HashCache(tmp_path / "cache.sqlite")
    assert again.get(str(path), Identity.of(path.stat())) == first
    assert hash_file(path, cache=again) == first


def same_bytes_count_and_time(path: Path) -> None:
    write_file(path, b"other")


def copied_with_its_time(path: Path) -> None:
    shutil.copy2(write_file(path.with_name("b"), b"other"), path)


def renamed_into_place(path: Path) -> None:
    write_file(path.with_name("b"), b"other").rename(path)


def exchanged_links(path: Path) -> None:
    write_file(path.with_name("b"), b"other")
    path.unlink()
    os.link(path.with_name("b"), path)


def another_time(path: Path) -> None:
    write_file(path, b"other", LONG_AGO_NS + 1)


def another_size(path: Path) -> None:
    write_file(path, b"longer")


@pytest.mark.parametrize(
    "change",
    [
        same_bytes_count_and_time, copied_with_its_time, renamed_into_place, exchanged_links, another_time,
        another_size,
    ],
)  # fmt: skip
def test_a_changed_file_is_read_again_however_it_was_changed(
    tmp_path: Path, settled: None, change: Callable[[Path], None]
) -> None:
    cache = HashCache(tmp_path / "cache.sqlite")
    path = write_file(tmp_path / "a", b"first")
    hash_file(path, cache=cache)
    ctime_ns = path.stat().st_ctime_ns
    while write_file(tmp_path / "clock", b"").stat().st_ctime_ns == ctime_ns:
        pass  # until the file system's clock ticks
    change(path)
    assert hash_file(path, cache=cache).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_changed_a_moment_ago_is_not_cached_whatever_its_time_of_modification(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "cache.sqlite")
    path = write_file(tmp_path / "a", b"first")
    hash_file(path, cache=cache)
    assert cache.get(str(path), Identity.of(path.stat())) is None


def test_a_cache_of_an_earlier_release_is_deleted_and_a_damaged_one_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "hashes.sqlite").write_bytes(b"whatever")
    (tmp_path / HashCache.NAME).write_bytes(b"no database at all" * 100)
    cache = HashCache(tmp_path / HashCache.NAME)
    assert hash_file(write_file(tmp_path / "a", b"first"), cache=cache).size == 5
    assert not (tmp_path / "hashes.sqlite").exists()


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a", b"first")
    counts: list[int] = []

    def once(count: int) -> None:
        counts.append(count)
        if len(counts) == 1:
            write_file(path, b"other and longer")

    assert hash_file(path, on_bytes=once).sha256 == hashlib.sha256(b"other and longer").hexdigest()
    assert sum(counts) == len(b"other and longer")


@pytest.mark.parametrize("change", [lambda p: write_file(p, os.urandom(9)), renamed_into_place])
def test_a_file_that_changes_each_time_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(hashing, "PAUSES_SECONDS", (0.0, 0.0))
    path = write_file(tmp_path / "log.txt", b"first")
    with pytest.raises(LocalProblem, match=r"log\.txt changed while it was read"):
        hash_file(path, on_bytes=lambda count: change(path) if count > 0 else None)


def test_hashing_works_without_a_writable_cache(tmp_path: Path) -> None:
    (tmp_path / "not-a-folder").write_text("")
    cache = HashCache(tmp_path / "not-a-folder" / "cache.sqlite")
    assert hash_file(write_file(tmp_path / "a", b"first"), cache=cache).size == 5


def test_a_file_that_does_not_exist_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(LocalProblem, match="gone"):
        hash_files([tmp_path / "gone"])
