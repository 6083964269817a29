"""A proxy before a farm that serves a page with an EventSource and cuts its first stream in mid-event."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = """<!doctype html><title>follow</title><script>
const query = new URLSearchParams(location.search);
const report = (body) => fetch("/reported", {method: "POST", body: JSON.stringify(body)});
async function follow() {
  const login = {email: query.get("email"), password: query.get("password"), cookie: true};
  const headers = {"Content-Type": "application/json"};
  await fetch("/api/auth/login", {method: "POST", headers, body: JSON.stringify(login)});
  const ids = [], kinds = [];
  const source = new EventSource(`/api/jobs/${query.get("job")}/events`);
  source.addEventListener("reset", () => report({reset: true}));
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    ids.push(Number(message.lastEventId));
    kinds.push(event.type);
    if (event.type === "job.status" && event.data.status === "success") report({ids, kinds});
  };
}
follow().catch((error) => report({error: String(error)}));
</script>"""


class CuttingProxy(ThreadingHTTPServer):
    """`reported`: the page's reports. `last_event_ids`: the Last-Event-ID of each request for a stream."""

    daemon_threads = True

    def __init__(self, farm: str, events_before_cut: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.farm = farm.removeprefix("http://")
        self.events_before_cut = events_before_cut
        self.last_event_ids: list[str | None] = []
        self.reported: list[Any] = []
        self.has_reported = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: CuttingProxy
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        if self.path.startswith("/follow"):
            self._answer(200, [("Content-Type", "text/html")], PAGE.encode())
        else:
            self._relay(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/reported":
            self.server.reported.append(json.loads(body))
            self.server.has_reported.set()
            self._answer(204, [], b"")
        else:
            self._relay(body)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _relay(self, body: bytes | None) -> None:
        farm = http.client.HTTPConnection(self.server.farm, timeout=120)
        passed = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "connection"}}
        farm.request(self.command, self.path, body, passed)
        answer = farm.getresponse()
        hop = {"transfer-encoding", "connection", "keep-alive", "date", "server"}
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in hop]
        if "event-stream" not in answer.headers.get("Content-Type", ""):
            self._answer(answer.status, headers, answer.read())
            return
        self.server.last_event_ids.append(self.headers.get("Last-Event-ID"))
        cut_after = self.server.events_before_cut if len(self.server.last_event_ids) == 1 else None
        self._answer(answer.status, headers, b"")
        sent = b""
        try:
            while piece := answer.read1(4096):
                if cut_after is not None and (sent + piece).count(b"\nid: ") > cut_after:
                    whole = sent + piece
                    parts = whole.split(b"\nid: ")
                    keep = b"\nid: ".join(parts[: cut_after + 1]) + b"\nid: " + parts[cut_after + 1][:9]
                    self.wfile.write(keep[len(sent) :])
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(piece)
                sent += piece
        except OSError:
            pass
        finally:
            farm.close()
