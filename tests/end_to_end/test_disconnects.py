"""Uploads over real connections: broken off, sent twice at once, to a full disk, over the quota."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from running_farm import RunningFarm

from framefarm.server.operator import control_socket

HEAD = (
    "POST /api/uploads/file HTTP/1.1\r\nHost: farm\r\nAuthorization: {token}\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
)
FIELD = b'--b\r\nContent-Disposition: form-data; name="path"\r\n\r\n/film/cut.exr\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="cut.exr"\r\n\r\n'
MiB = 1 << 20


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 48 MiB of its own for a farm's data."""
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "framefarm-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def farm(small_disk: Path, scene: bytes) -> Iterator[RunningFarm]:
    farm = RunningFarm(small_disk / "farm", free_disk_floor_bytes=str(4 * MiB), uploads_per_user="64")
    farm.data.mkdir()
    farm.open(scene)
    yield farm
    farm.stop()


def stored(farm: RunningFarm) -> set[str]:
    return {str(p) for p in (farm.data / "store").rglob("*") if p.is_file()}


def begin_upload(farm: RunningFarm, length: int) -> socket.socket:
    address = urlsplit(str(farm.client.base_url))
    assert address.hostname is not None
    sock = socket.create_connection((address.hostname, address.port or 80), timeout=30)
    token = farm.client.headers["Authorization"]
    sock.sendall(HEAD.format(token=token, length=length).encode() + FIELD + FILE)
    return sock


def exists(farm: RunningFarm, content: bytes) -> bool:
    answer = farm.client.post("/api/uploads/md5", json={"md5": hashlib.md5(content).hexdigest()})
    stored_already: bool = answer.json()["exists"]
    return stored_already


@pytest.mark.parametrize("how", ["closed", "reset", "half"])
def test_upload_broken_off_leaves_nothing(farm: RunningFarm, how: str) -> None:
    before = stored(farm)
    content = os.urandom(3 * MiB)
    sock = begin_upload(farm, len(FIELD) + len(FILE) + len(content) + 9)
    sock.sendall(content[: 2 * MiB])
    farm.until(lambda: stored(farm) - before, "the upload is under way")
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    elif how == "half":
        sock.shutdown(socket.SHUT_WR)
    else:
        sock.close()
    farm.until(lambda: stored(farm) == before, "its file is removed")
    sock.close()
    assert not exists(farm, content)
    assert not exists(farm, content[: 2 * MiB])


def test_the_same_file_sent_at_once_is_stored_once(farm: RunningFarm) -> None:
    content, before = os.urandom(MiB), stored(farm)

    def send(number: int) -> Any:
        with httpx2.Client(base_url=farm.client.base_url, headers=farm.client.headers, timeout=60) as client:
            form = {"path": f"/film/twin{number % 4}.exr"}
            return client.post("/api/uploads/file", data=form, files={"file": ("f", content)})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert [a.status_code for a in answers] == [200] * 8
    assert sorted(a.json()["deduplicated"] for a in answers) == [False] + [True] * 7
    assert len(stored(farm) - before) == 1


def test_a_full_disk_refuses_and_keeps_nothing_half_done(farm: RunningFarm) -> None:
    announced = os.urandom(60 * MiB)
    before = stored(farm)
    refused = farm.client.post(
        "/api/uploads/file", data={"path": "/film/big.exr"}, files={"file": ("f", announced)}
    )
    assert refused.status_code == 503, refused.text
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["content-type"] == "application/problem+json"
    assert stored(farm) == before

    # The same if other files fill the disk during the upload.
    free = os.statvfs(farm.data)
    others = farm.data.parent / "others"
    others.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 6 * MiB))
    content = os.urandom(9 * MiB)
    sock = begin_upload(farm, 0xFFFFFF)
    others.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 2 * MiB))
    answer = farm.client.post(
        "/api/uploads/file", data={"path": "/film/big.exr"}, files={"file": ("f", content)}
    )
    assert answer.status_code == 503
    sock.close()
    others.unlink()
    farm.until(lambda: stored(farm) == before, "its file is removed")
    assert not exists(farm, content)
    small = os.urandom(MiB)
    farm.upload("/film/big.exr", small)
    assert exists(farm, small)
    assert farm.client.get("/readyz").status_code == 200


def test_an_upload_over_the_quota_is_413_and_leaves_nothing(farm: RunningFarm) -> None:
    control_socket.run(farm.data, "account.set", {"account": "studio", "quota_bytes": 1})
    before = stored(farm)
    answer = farm.client.post(
        "/api/uploads/file", data={"path": "/film/q.exr"}, files={"file": ("f", os.urandom(MiB))}
    )
    assert answer.status_code == 413, answer.text
    assert "account may store" in answer.json()["detail"]
    assert stored(farm) == before
    control_socket.run(farm.data, "account.set", {"account": "studio", "quota_bytes": 0})
    farm.upload("/film/q.exr", b"fits")
