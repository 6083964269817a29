"""Uploads: complete files are stored, failed ones leave nothing, and accounts learn nothing of each other."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from api_client import SCENE, ApiClient, md5

from framefarm.server.files.tables import contents, registrations

DATA = b"BLENDER" + bytes(range(256)) * 40
BOUNDARY = "frontier"


def nothing_is_left(site: ApiClient) -> bool:
    files = [p for p in (site.context.data / "store").rglob("*") if p.is_file()]
    return not files and not site.rows(contents) and not site.rows(registrations)


def form(*parts: tuple[str, bytes], complete: bool = True) -> bytes:
    body = b""
    for name, data in parts:
        extra = '; filename="shot.blend"' if name == "file" else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode() if complete else body[:-100]


def send(site: ApiClient, body: bytes) -> Any:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return site.ask("POST", "/api/uploads/file", content=body, headers=headers)


def exists(site: ApiClient, data: bytes, path: str | None = None) -> Any:
    body = {"md5": md5(data)} | ({"path": path} if path else {})
    answer = site.ask("POST", "/api/uploads/md5", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_upload_is_stored_and_answered_with_its_hashes(site: ApiClient) -> None:
    answer = site.upload(SCENE, DATA, md5=md5(DATA))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "path": SCENE,
        "size": len(DATA),
        "md5": md5(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "deduplicated": False,
    }
    stored = [p for p in (site.context.data / "store").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in stored] == [DATA]
    assert exists(site, DATA)["exists"] is True


def test_equal_bytes_are_stored_once(site: ApiClient) -> None:
    site.upload("/a.blend", DATA)
    assert site.upload("/b.blend", DATA).json()["deduplicated"] is True
    assert len([p for p in (site.context.data / "store").rglob("*") if p.is_file()]) == 1
    assert {r["path"] for r in site.rows(registrations)} == {"/a.blend", "/b.blend"}


@pytest.mark.parametrize(
    "order", [("file", "path", "md5"), ("md5", "path", "file"), ("path", "file", "md5")], ids="-".join
)
def test_the_fields_may_come_in_any_order(site: ApiClient, order: tuple[str, ...]) -> None:
    parts = {"file": DATA, "path": SCENE.encode(), "md5": md5(DATA).encode()}
    answer = send(site, form(*((name, parts[name]) for name in order)))
    assert answer.status_code == 200, answer.text
    assert answer.json()["sha256"] == hashlib.sha256(DATA).hexdigest()


def test_an_md5_may_be_base64(site: ApiClient) -> None:
    text = base64.b64encode(hashlib.md5(DATA).digest()).decode()
    assert site.upload(SCENE, DATA, md5=text).status_code == 200


def test_upload_damaged_is_refused_by_its_md5_and_leaves_nothing(site: ApiClient) -> None:
    answer = site.upload(SCENE, DATA, md5=md5(b"other"))
    assert answer.status_code == 422
    assert [e["field"] for e in answer.json()["errors"]] == ["md5"]
    assert nothing_is_left(site)


def test_upload_damaged_is_refused_by_its_sha256_and_leaves_nothing(site: ApiClient) -> None:
    assert site.upload(SCENE, DATA, sha256="0" * 64).status_code == 422
    assert nothing_is_left(site)


def test_a_truncated_body_leaves_nothing(site: ApiClient) -> None:
    answer = send(site, form(("path", SCENE.encode()), ("file", DATA), complete=False))
    assert answer.status_code == 422
    assert nothing_is_left(site)


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([("file", DATA)], "path"),
        ([("path", b"relative.blend"), ("file", DATA)], "path"),
        ([("path", b"/a\xff.blend"), ("file", DATA)], "path"),
        ([("path", SCENE.encode())], "file"),
        ([("path", SCENE.encode()), ("file", DATA), ("file", DATA)], "file"),
        ([("path", SCENE.encode()), ("file", DATA), ("colour", b"red")], "colour"),
        ([("path", SCENE.encode()), ("file", DATA), ("md5", b"short")], "md5"),
    ],
)
def test_a_bad_form_names_the_field_and_leaves_nothing(
    site: ApiClient, parts: list[tuple[str, bytes]], field: str
) -> None:
    answer = send(site, form(*parts))
    assert answer.status_code == 422
    assert [e["field"] for e in answer.json()["errors"]] == [field]
    assert nothing_is_left(site)


def test_a_file_above_the_limit_is_refused_and_leaves_nothing(site: ApiClient) -> None:
    site.context.settings.max_file_bytes = 1000
    assert site.upload(SCENE, DATA).status_code == 413
    assert nothing_is_left(site)


def test_another_account_learns_nothing_of_a_file(site: ApiClient, other: ApiClient) -> None:
    site.upload(SCENE, DATA)
    assert exists(other, DATA) == exists(other, b"never seen by anyone")
    assert exists(other, DATA, "/mine.blend") == {"exists": False, "registered": False}
    assert other.upload("/mine.blend", DATA).json()["deduplicated"] is False


def test_a_known_file_is_registered_under_a_new_path_by_its_hash(site: ApiClient) -> None:
    site.upload(SCENE, DATA)
    assert exists(site, DATA, "/second.blend") == {"exists": True, "registered": True}
    assert {r["path"] for r in site.rows(registrations)} == {SCENE, "/second.blend"}


def test_an_upload_needs_a_token(site: ApiClient) -> None:
    site.token = "wrong"
    assert site.upload(SCENE, DATA).status_code == 401
    assert nothing_is_left(site)


def test_a_batch_of_1000_is_answered_in_its_order_and_1001_are_refused(site: ApiClient) -> None:
    site.upload(SCENE, DATA)
    known = [7, 500, 999]
    checks = [{"md5": md5(DATA) if n in known else f"{n:032x}", "path": f"/batch/{n}"} for n in range(1000)]
    answer = site.ask("POST", "/api/uploads/md5", json={"files": checks})
    assert answer.status_code == 200, answer.text
    assert [n for n, f in enumerate(answer.json()["files"]) if f["exists"] and f["registered"]] == known
    over = site.ask("POST", "/api/uploads/md5", json={"files": [*checks, {"md5": "0" * 32}]})
    assert (over.status_code, over.json()["errors"][0]["field"]) == (422, "files")


def test_an_empty_file_is_stored(site: ApiClient) -> None:
    answer = site.upload("/empty.txt", b"", md5=md5(b""))
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] == 0
    assert exists(site, b"")["exists"] is True
