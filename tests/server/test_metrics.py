"""`/metrics`, its access and its labels; the log lines and traces of a request."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog
from api_client import ApiClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from structlog.testing import capture_logs

NAMES = {
    "framefarm_jobs", "framefarm_sessions", "framefarm_tasks_ready", "framefarm_frames",
    "framefarm_commit_seconds", "framefarm_event_lag_seconds", "framefarm_event_streams",
    "framefarm_publish_queue", "framefarm_webhook_queue", "framefarm_http_seconds",
}  # fmt: skip


def metrics(site: ApiClient) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    answer = site.ask("GET", "/metrics")
    assert answer.status_code == 200, answer.text
    return {
        family.name: {tuple(sorted(s.labels.items())): s.value for s in family.samples}
        for family in text_string_to_metric_families(answer.text)
    }


def test_the_metrics_are_right_and_no_label_names_a_tenant(site: ApiClient) -> None:
    before = metrics(site)
    job = site.submit(frame_range="1-9")["id"]
    waiting = metrics(site)
    assert waiting["framefarm_tasks_ready"][()] == 9
    assert waiting["framefarm_jobs"][("status", "pending"),] == 1
    site.render(job)
    site.get(f"/api/jobs/{job}")
    after = metrics(site)
    assert set(after) >= NAMES
    assert after["framefarm_jobs"] == {(("status", "success"),): 1}
    assert after["framefarm_publish_queue"][()] == 0
    text = site.ask("GET", "/metrics").text
    frames = re.compile(r"^framefarm_frames_total (\S+)", re.M)
    assert float(frames.findall(text)[0]) - sum(before.get("framefarm_frames", {}).values()) >= 9
    assert 'route="/api/jobs/{job_id}"' in text
    for secret in (job, site.account_id, site.email, "Shot 1", "default", "studio"):
        assert secret not in text


def test_metrics_need_a_request_from_this_machine_or_the_token(site: ApiClient) -> None:
    proxied = {"X-Forwarded-For": "10.0.0.1"}
    assert site.ask("GET", "/metrics", headers=proxied).status_code == 403
    site.context.settings.metrics_token = SecretStr("right")
    for token, status in (("right", 200), ("wrong", 403)):
        headers = proxied | {"Authorization": f"Bearer {token}"}
        assert site.ask("GET", "/metrics", headers=headers).status_code == status


def test_a_request_is_logged_with_its_id_without_its_query(site: ApiClient) -> None:
    with capture_logs() as lines:
        answer = site.ask("POST", "/api/projects?secret=x", json={"name": "film"})
    (line,) = [x for x in lines if x["event"] == "request"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/api/projects", 201)
    assert "secret" not in json.dumps(lines)
    assert answer.headers["x-request-id"].startswith("req_")


PROGRAM = """
import logging, structlog
from framefarm.server.logs import configure_logs
configure_logs("info")
with structlog.contextvars.bound_contextvars(request_id="req_1"):
    structlog.get_logger("a").info("by the farm", job="job_1")
    logging.getLogger("some.library").warning("by the library")
"""


def test_log_lines_are_json_with_the_request_id_also_from_libraries() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in io.StringIO(run.stderr)]
    assert [(x["event"], x["request_id"]) for x in lines] == [
        ("by the farm", "req_1"), ("by the library", "req_1"),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["read", "write"])
def test_a_unit_of_work_has_the_id_of_its_request(site: ApiClient, method: str) -> None:
    async def context_variables() -> dict[str, str]:
        with structlog.contextvars.bound_contextvars(request_id="req_7"):
            run = site.context.db.read if method == "read" else site.context.db.write
            return await run(lambda tx: structlog.contextvars.get_contextvars())

    assert site.loop.run(context_variables())["request_id"] == "req_7"


TRACED = """
import sys, asyncio
from pathlib import Path
import httpx2
from framefarm.server import app, bootstrap, tracing
from framefarm.server.settings import Settings
tracing.start(sys.argv[1])
farm = bootstrap.open_farm(Settings(data=Path(sys.argv[2])))
async def ask():
    transport = httpx2.ASGITransport(app=app.create_app(farm))
    async with httpx2.AsyncClient(transport=transport, base_url="http://farm") as client:
        answer = await client.get("/api/jobs/job_secret", headers={"Authorization": "Bearer x"})
        await client.post("/api/auth/login", json={"email": "ada@studio.example", "password": "wrong"})
        print(answer.headers["x-request-id"])
asyncio.run(ask())
farm.db.close()
"""


def test_traces_reach_the_collector_with_route_patterns_as_names(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, "-c", TRACED, f"http://127.0.0.1:{server.server_address[1]}"]
        run = subprocess.run([*command, str(tmp_path / "farm")], capture_output=True, text=True, check=True)
        server.shutdown()
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    spans = [s for r in requests for x in r.resource_spans for y in x.scope_spans for s in y.spans]
    assert {"GET /api/jobs/{job_id}", "POST /api/auth/login"} <= {s.name for s in spans}
    ids = {a.value.string_value for s in spans for a in s.attributes if a.key == "request_id"}
    assert run.stdout.split()[-1] in ids
    assert b"job_secret" not in b"".join(bodies)
