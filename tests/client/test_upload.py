from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fake_farm import FakeFarm, multipart

from framefarm.client import Client, LocalProblem, Refused, hashing, upload
from framefarm.client.hashing import HashedFile


def client_of(fake: FakeFarm) -> Client:
    return Client(fake.url, "t0k", sleep=lambda seconds: None)


def hashed_files(folder: Path, *contents: bytes) -> list[HashedFile]:
    for number, data in enumerate(contents):
        (folder / f"file {number} ü.png").write_bytes(data)
    return hashing.hash_files(sorted(folder.iterdir()))


def test_only_files_that_the_farm_lacks_are_sent(fake: FakeFarm, tmp_path: Path) -> None:
    files = hashed_files(tmp_path, b"one", b"two", b"three")
    fake.content.add(files[1].sha256)
    lacking = upload.missing(client_of(fake), files)
    upload.upload(client_of(fake), lacking)
    sent = {multipart(r)["path"].decode(): multipart(r) for r in fake.requests("POST", "/api/uploads/file")}
    assert {path: fields["file"] for path, fields in sent.items()} == {
        files[0].path: b"one",
        files[2].path: b"three",
    }
    assert sent[files[0].path]["md5"].decode() == files[0].md5


def test_the_farm_is_asked_about_a_thousand_files_at_a_time(fake: FakeFarm) -> None:
    files = [HashedFile(f"/p/{n}", 1, f"{n:032x}", f"{n:064x}") for n in range(2500)]
    assert upload.missing(client_of(fake), files) == files
    batches = [len(r.json["files"]) for r in fake.requests("POST", "/api/uploads/md5")]
    assert batches == [1000, 1000, 500]


def test_progress_adds_up_even_when_a_file_has_to_be_sent_again(fake: FakeFarm, tmp_path: Path) -> None:
    files = hashed_files(tmp_path, b"x" * 3_000_000)
    fake.failures = [(503, {"Retry-After": "0"}, {}), (0, {}, {})]
    counts: list[int] = []
    lock = threading.Lock()

    def add_count(count: int) -> None:
        with lock:
            counts.append(count)

    upload.upload(client_of(fake), files, on_bytes=add_count)
    assert len(fake.requests("POST", "/api/uploads/file")) == 3
    assert sum(counts) == 3_000_000


def test_a_file_changed_since_it_was_hashed_is_reported(fake: FakeFarm, tmp_path: Path) -> None:
    files = hashed_files(tmp_path, b"before")
    Path(files[0].path).write_bytes(b"after!")
    with pytest.raises(LocalProblem, match="changed while it was sent"):
        upload.upload(client_of(fake), files)


def test_a_file_that_shrank_since_it_was_hashed_is_reported(fake: FakeFarm, tmp_path: Path) -> None:
    files = hashed_files(tmp_path, b"before")
    Path(files[0].path).write_bytes(b"a")
    with pytest.raises(LocalProblem, match="changed while it was sent"):
        upload.upload(client_of(fake), files)


def test_a_refused_file_ends_the_upload_with_the_farms_reason(fake: FakeFarm, tmp_path: Path) -> None:
    fake.failures = [(413, {}, {"detail": "The account's quota is full."})] * 2
    with pytest.raises(Refused, match="quota is full"):
        upload.upload(client_of(fake), hashed_files(tmp_path, b"one", b"two"))
