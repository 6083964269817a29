"""A fake farm with as much of the API over real HTTP as the client's tests need; fails as a test asks."""

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
class ReceivedRequest:
    """A request that the fake farm received; header names in lower case."""

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
    received: list[ReceivedRequest] = field(default_factory=list)
    content: set[str] = field(default_factory=set)
    """SHA-256 of each uploaded file."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The job's rendered files: path → bytes."""
    spoiled: dict[str, bytes] = field(default_factory=dict)
    """Wrong contents to send: path → bytes."""
    listed: list[dict[str, Any]] = field(default_factory=list)
    """Further entries of the job's list of files."""
    failures: list[tuple[int, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """Answers (status, headers, problem) to the next requests, one each; status 0 hangs up instead."""
    refusals: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Paths whose POST is always refused: path → problem of a 422."""
    job: dict[str, Any] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    """Changes to the job, one at each GET of it; it stays as the last one made it."""
    no_jobs: bool = False
    packages: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"id": "blender-4-2", "release": "4.2.23", "status": "available", "default": True, "lacks": []}
        ]
    )
    """Whether its list of jobs is empty."""
    on_request: Callable[[ReceivedRequest], object] = lambda request: None
    """Called with each request before it is answered."""
    streams: list[list[dict[str, Any]]] = field(default_factory=list)
    """Events of the job's stream, one list for each connection, which then breaks off in the middle of a
    further event. With an empty list of connections, the farm has no event stream."""

    def requests(self, method: str, path: str) -> list[ReceivedRequest]:
        return [r for r in self.received if r.method == method and r.path == path]

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
        """Ignore errors: clients close connections on purpose."""


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
        request = ReceivedRequest(self.command, parts.path, parse_qs(parts.query), headers, body)
        self.farm.received.append(request)
        self.farm.on_request(request)
        if self.farm.failures:
            status, extra, problem = self.farm.failures.pop(0)
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            self.answer(status, json.dumps(problem).encode(), "application/problem+json", extra)
            return
        if request.method == "POST" and request.path in self.farm.refusals:
            problem = self.farm.refusals[request.path]
            self.answer(422, json.dumps(problem).encode(), "application/problem+json")
            return
        if self.farm.streams and request.path.endswith("/events"):
            events = [f"id: {e['number']}\ndata: {json.dumps(e)}\n\n" for e in self.farm.streams.pop(0)]
            self.close_connection = True
            self.answer(
                200, "".join(["retry: 1\n\n", *events, "id: 99\ndata: {"]).encode(), "text/event-stream"
            )
            return
        if request.path.startswith("/signed/"):
            path = list(self.farm.files)[int(request.path.rpartition("/")[2])]
            self.answer(200, self.farm.spoiled.get(path, self.farm.files[path]), "application/octet-stream")
            return
        self.answer(200, json.dumps(self.reply(request)).encode(), "application/json")

    def answer(
        self, status: int, data: bytes, content_type: str, extra: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": content_type,
            "Content-Length": str(len(data)),
            **(extra or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def reply(self, request: ReceivedRequest) -> Any:
        match request.method, request.path:
            case "POST", "/api/auth/login":
                user = {"email": request.json["email"], "role": "member"}
                expires_at = "2026-11-24T22:00:00Z"
                return {
                    "access_token": "t0k",
                    "user": user,
                    "account": {"name": "studio"},
                    "expires_at": expires_at,
                }
            case "POST", "/api/uploads/md5":
                known = [q["sha256"] in self.farm.content for q in request.json["files"]]
                return {"files": [{"exists": k, "registered": k} for k in known]}
            case "POST", "/api/uploads/file":
                data = multipart(request)["file"]
                self.farm.content.add(hashlib.sha256(data).hexdigest())
                return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            case "GET", "/api/enterprise/instances":
                return page([instance("local-2", 80_000, 40_000), instance("local-1", 40_000, 20_000)])
            case "GET", "/api/packages":
                return page(self.farm.packages)
            case "POST", "/api/jobs":
                self.farm.job = job(**request.json)
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


def job(**fields: Any) -> dict[str, Any]:
    """A job of eight frames as the API returns it, with some fields replaced."""
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
        **fields,
    }


def page(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": items, "next_cursor": None}


def multipart(request: ReceivedRequest) -> dict[str, bytes]:
    """Fields of a multipart/form-data body: name → content."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    fields = {}
    for part in request.body.split(b"--" + boundary)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="(\w+)"', head)
        assert name is not None
        fields[name[1].decode()] = data.removesuffix(b"\r\n")
    return fields
