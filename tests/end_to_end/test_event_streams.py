"""Event streams in a browser's EventSource and in curl: cut, resumed, without a missed event."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cutting_proxy import CuttingProxy
from running_farm import EMAIL, PASSWORD, RunningFarm

pytestmark = pytest.mark.blender
CHROMIUM = (
    "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update --disable-dev-shm-usage"
    " --remote-debugging-port=0"
)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a process group of its own, which is killed afterwards."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def numbers_of(farm: RunningFarm, job: str) -> list[int]:
    """Numbers of all events of the job so far."""
    answer = farm.client.get(f"/api/jobs/{job}/events", params={"follow": "false"})
    return [e["number"] for e in events_in(answer.text)]


def events_in(text: str) -> list[dict[str, Any]]:
    """The complete events in the text of a stream."""
    events = []
    for block in text.split("\n\n")[:-1]:
        lines = dict(line.partition(": ")[::2] for line in block.split("\n") if ": " in line)
        if "id" in lines:
            events.append(json.loads(lines["data"]) | {"id": int(lines["id"])})
    return events


def test_stream_cut_in_a_browser_resumes_and_misses_nothing(farm: RunningFarm, tmp_path: Path) -> None:
    with CuttingProxy(str(farm.client.base_url).rstrip("/"), events_before_cut=4) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        job = farm.submit(frame_range="1-12", output_path="gs://renders/browser", hold=True)["id"]
        query = urlencode({"job": job, "email": EMAIL, "password": PASSWORD})
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        with running([*CHROMIUM.split(), profile, f"{proxy.url}/follow?{query}"]):
            farm.until(lambda: proxy.last_event_ids or proxy.reported, "the browser follows")
            farm.client.patch(f"/api/jobs/{job}", json={"action": "unhold"})
            assert proxy.has_reported.wait(90)
        proxy.shutdown()
    (reported,) = proxy.reported
    assert reported.get("ids") == numbers_of(farm, job)[: len(reported["ids"])], reported
    assert reported["kinds"].count("frame.done") == 12
    assert reported["kinds"][0] == "job.created"
    assert proxy.last_event_ids[:2] == [None, "4"]


def test_stream_cut_under_curl_resumes_and_misses_nothing(farm: RunningFarm, tmp_path: Path) -> None:
    job = farm.submit(frame_range="1-12", output_path="gs://renders/curl", samples=200)["id"]
    seen: list[dict[str, Any]] = []

    def follow(name: str, *, until: Any) -> None:
        out = tmp_path / name
        token = farm.client.headers["Authorization"]
        command = ["curl", "-sN", "-o", str(out), "-H", f"Authorization: {token}"]
        if seen:
            command += ["-H", f"Last-Event-ID: {seen[-1]['id']}"]
        with running([*command, f"{farm.client.base_url}/api/jobs/{job}/events".replace("//api", "/api")]):
            farm.until(lambda: out.exists() and until(events_in(out.read_text())), name)
        seen.extend(events_in(out.read_text()))

    follow("two frames", until=lambda events: sum(e["type"] == "frame.done" for e in events) >= 2)
    farm.until(lambda: len(farm.done(job)) >= 5, "frames are done while no client follows")
    farm.kill()
    farm.start()
    follow("the end", until=lambda events: any(e["data"].get("status") == "success" for e in events))
    assert [e["id"] for e in seen] == numbers_of(farm, job)[: len(seen)]
    assert sorted(e["data"]["frame"] for e in seen if e["type"] == "frame.done") == list(range(1, 13))


def test_a_long_frame_shows_its_progress(farm: RunningFarm) -> None:
    big = {"samples": 60_000, "resolution_percentage": 1000}
    job = farm.submit(frame_range="1", output_path="gs://renders/long", **big)["id"]
    shown = farm.until(lambda: farm.job(job)["frames_in_work"], "progress within the frame", 60)
    assert shown[0]["frame"] == 1
    first = shown[0]["fraction"]

    def advanced() -> bool:
        return any(f["fraction"] > first for f in farm.job(job)["frames_in_work"])

    farm.until(advanced, "the progress advances")
    farm.client.patch(f"/api/jobs/{job}", json={"action": "cancel"})
    farm.wait(job, "cancelled")
