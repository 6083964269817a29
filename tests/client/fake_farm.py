"""A fake farm for failure injection: speaks just enough of the API over real HTTP, and fails when told to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Seen:
    """A request as the fake farm got it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeFarm:
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    content: set[str] = field(default_factory=set)
    """SHA-256 of what was uploaded."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What the job has rendered: path → bytes."""
    spoiled: dict[str, bytes] = field(default_factory=dict)
    """What is sent instead when a path is fetched."""
    listed: list[dict[str, Any]] = field(default_factory=list)
    """Further entries of the job's files, as they are."""
    failures: list[tuple[int, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """Answers (status, headers, problem) to the next requests, one each; status 0 hangs up instead."""
    refusals: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Paths whose POST is always refused: path → problem of a 422."""
    job: dict[str, Any] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    """What the job becomes at each look at it; the last one stays."""
    no_jobs: bool = False
    """Whether its list of jobs is empty."""
    on_seen: Callable[[Seen], object] = lambda seen: None
    """Called with each request before it is answered."""
    streams: list[list[dict[str, Any]]] = field(default_factory=list)
    """Events of the job's stream, connection by connection: each is sent, and the stream is cut in the next
    one. Without any there is no such stream."""

    def requests(self, method: str, path: str) -> list[Seen]:
        return [s for s in self.seen if s.method == method and s.path == path]

    def rendered(self, path: str, data: bytes) -> None:
        self.files[path] = data

    def file_entries(self) -> list[dict[str, Any]]:
        return [
            {
                "path": path,
                "frame": 1,
                "kind": "frame",
                "size": len(data),
                "md5": hashlib.md5(data).hexdigest(),
                "sha256": hashlib.sha256(data).hexdigest(),
                "url": f"/signed/{number}",
            }
            for number, (path, data) in enumerate(self.files.items())
        ] + self.listed


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is part of the tests."""


@contextmanager
def fake_farm() -> Iterator[FakeFarm]:
    fake = FakeFarm()

    class Handler(_Handler):
        farm = fake

    server = _Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    farm: FakeFarm
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_any()

    do_POST = do_PATCH = do_DELETE = do_GET

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, parts.path, parse_qs(parts.query), headers, body)
        self.farm.seen.append(seen)
        self.farm.on_seen(seen)
        if self.farm.failures:
            status, extra, problem = self.farm.failures.pop(0)
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            self.answer(status, json.dumps(problem).encode(), "application/problem+json", extra)
            return
        if seen.method == "POST" and seen.path in self.farm.refusals:
            problem = self.farm.refusals[seen.path]
            self.answer(422, json.dumps(problem).encode(), "application/problem+json")
            return
        if self.farm.streams and seen.path.endswith("/events"):
            told = [f"id: {e['number']}\ndata: {json.dumps(e)}\n\n" for e in self.farm.streams.pop(0)]
            self.close_connection = True
            self.answer(
                200, "".join(["retry: 1\n\n", *told, "id: 99\ndata: {"]).encode(), "text/event-stream"
            )
            return
        if seen.path.startswith("/signed/"):
            path = list(self.farm.files)[int(seen.path.rpartition("/")[2])]
            self.answer(200, self.farm.spoiled.get(path, self.farm.files[path]), "application/octet-stream")
            return
        self.answer(200, json.dumps(self.reply(seen)).encode(), "application/json")

    def answer(self, status: int, data: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def reply(self, seen: Seen) -> Any:
        match seen.method, seen.path:
            case "POST", "/api/auth/login":
                user = {"email": seen.json["email"], "role": "member"}
                moment = "2026-11-24T22:00:00Z"
                return {
                    "access_token": "t0k",
                    "user": user,
                    "account": {"name": "studio"},
                    "expires_at": moment,
                }
            case "POST", "/api/uploads/md5":
                known = [q["sha256"] in self.farm.content for q in seen.json["files"]]
                return {"files": [{"exists": k, "registered": k} for k in known]}
            case "POST", "/api/uploads/file":
                data = multipart(seen)["file"]
                self.farm.content.add(hashlib.sha256(data).hexdigest())
                return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            case "GET", "/api/enterprise/instances":
                return page([instance("local-2", 80_000, 40_000), instance("local-1", 40_000, 20_000)])
            case "GET", "/api/packages":
                return page([{"id": "blender-4-2", "status": "available", "default": True}])
            case "POST", "/api/jobs":
                self.farm.job = job(**seen.json)
                return self.farm.job
            case "GET", "/api/jobs":
                return page([] if self.farm.no_jobs else [self.farm.job])
            case "GET", path if path.endswith("/files"):
                return page(self.farm.file_entries())
            case "GET", path if path.endswith("/frames"):
                return page([{"frame": n, "status": "done"} for n in range(1, 9)])
            case "GET", path if path.startswith("/api/jobs/"):
                if self.farm.states:
                    self.farm.job |= self.farm.states.pop(0)
                return self.farm.job
            case "PATCH", path if path.startswith("/api/jobs/"):
                return self.farm.job
        return {}


def instance(name: str, price: int, preemptible: int) -> dict[str, Any]:
    return {
        "id": name,
        "enabled": True,
        "price_per_hour": {"amount_micros": price, "currency": "USD"},
        "preemptible_price_per_hour": {"amount_micros": preemptible, "currency": "USD"},
    }


def job(**said: Any) -> dict[str, Any]:
    """A job of eight frames as the farm would answer it."""
    return {
        "id": "job_1",
        "job_title": "Shot",
        "status": "pending",
        "status_since": "2026-11-24T10:00:00Z",
        "hold_reasons": [],
        "waiting_for": None,
        "frames": {"total": 8, "done": 0, "left": 8},
        "tasks": {"total": 8, "running": 0, "success": 0},
        "cost": {"amount_micros": 0, "currency": "USD"},
        "warnings": [],
        "missing_paths": [],
        "remaining_seconds": None,
        "message": None,
        **said,
    }


def page(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": items, "next_cursor": None}


def multipart(seen: Seen) -> dict[str, bytes]:
    boundary = seen.headers["content-type"].partition("boundary=")[2].encode()
    fields = {}
    for part in seen.body.split(b"--" + boundary)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="(\w+)"', head)
        assert name is not None
        fields[name[1].decode()] = data.removesuffix(b"\r\n")
    return fields
