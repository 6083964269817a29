from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from framefarm.client import LocalProblem
from framefarm.client.hashing import TWO_THREADS_FROM_BYTES, HashCache, hash_file, hash_files

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


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "cache.sqlite")
    path = write_file(tmp_path / "a", b"first")
    first = hash_file(path, cache=cache)
    write_file(path, b"other")  # same size and time: only the cache still has the first hashes
    assert hash_file(path, cache=HashCache(tmp_path / "cache.sqlite")) == first


def test_a_file_with_another_time_or_size_is_read_again(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "cache.sqlite")
    first = hash_file(write_file(tmp_path / "a", b"first"), cache=cache)
    later = hash_file(write_file(tmp_path / "a", b"other", LONG_AGO_NS + 1), cache=cache)
    longer = hash_file(write_file(tmp_path / "a", b"longer"), cache=cache)
    assert len({first.sha256, later.sha256, longer.sha256}) == 3


def test_a_file_modified_a_moment_ago_is_not_cached(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "cache.sqlite")
    path = write_file(tmp_path / "a", b"first", mtime_ns=None)
    mtime_ns = path.stat().st_mtime_ns
    hash_file(path, cache=cache)
    write_file(path, b"other", mtime_ns)
    assert hash_file(path, cache=cache).sha256 == hashlib.sha256(b"other").hexdigest()


def test_hashing_works_without_a_writable_cache(tmp_path: Path) -> None:
    (tmp_path / "not-a-folder").write_text("")
    cache = HashCache(tmp_path / "not-a-folder" / "cache.sqlite")
    assert hash_file(write_file(tmp_path / "a", b"first"), cache=cache).size == 5


def test_a_file_that_does_not_exist_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(LocalProblem, match="gone"):
        hash_files([tmp_path / "gone"])
