"""A farm of the suite's own, used as an artist does: by `framefarm submit` and `framefarm download`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from declarations import Scene
from plain import frame_list

from framefarm.node.blender_installs import Installed
from framefarm.server.operator import control_socket

FRAMEFARM = str(Path(sys.executable).with_name("framefarm"))
EMAIL, PASSWORD = "artist@studio.example", "correct horse battery"
ENDED = ("success", "failed", "cancelled")
START_SECONDS, COMMAND_SECONDS = 60.0, 120.0


@dataclass
class Submitted:
    """The farm's side of a scene: the submitted job, or the reason why there is none."""

    said: str = ""
    """All that the command and the job said, in lines."""
    job_id: str = ""
    title: str = ""
    sent: set[str] = field(default_factory=set)
    """Names of the files that belong to the job."""
    job: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> bool:
        held = self.job.get("status") == "holding" and not self.job.get("frames_in_work")
        return not self.job_id or held or self.job.get("status") in ENDED


class Farm:
    """A running farm with its data below `work`. Raises RuntimeError if it does not start."""

    def __init__(self, work: Path) -> None:
        self.data = work / "farm"
        self.data.mkdir(parents=True, exist_ok=True)
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith("FRAMEFARM_") or k == "FRAMEFARM_RUNTIMES"
        }
        home = str(work / "home")
        self.environment = kept | {
            "FRAMEFARM_ADMIN_EMAIL": EMAIL,
            "FRAMEFARM_ADMIN_PASSWORD": PASSWORD,
            "XDG_CACHE_HOME": home,
            "XDG_CONFIG_HOME": home,
            "COLUMNS": "400",
        }
        with open(work / "farm.log", "ab") as log:
            self.process = subprocess.Popen(
                [FRAMEFARM, "serve", "--data", str(self.data), "--listen", "127.0.0.1:0"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.client = httpx2.Client(timeout=60)
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the farm does not start: see {work / 'farm.log'}")
            time.sleep(0.1)
        login = self.client.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD}).json()
        self.client.headers["Authorization"] = f"Bearer {login['access_token']}"
        url = str(self.client.base_url).rstrip("/")
        self.environment |= {"FRAMEFARM_URL": url, "FRAMEFARM_TOKEN": login["access_token"]}

    def _ready(self) -> bool:
        try:
            self.client.base_url = (self.data / "endpoint").read_text().strip()
            return self.client.get("/readyz").status_code == 200
        except (OSError, httpx2.TransportError):
            return False

    def stop(self) -> None:
        """Stop the farm and all its sessions."""
        self._command("stop", "--data", str(self.data), "--now")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)

    def register(self, blender: Installed) -> None:
        control_socket.run(self.data, "package.register", {**blender.as_dict(), "default": False})

    def submit(self, scene: Scene, path: Path, blender: Installed) -> Submitted:
        """Submit the scene at `path`, as the command of an artist who stands in its folder."""
        frames = len(frame_list(scene.frames))
        words = [str(path), *shlex.split(scene.submit)]
        words = [str(path.parent / w[1:]) if w.startswith("@") else w for w in words]
        for option, value in (
            ("--frames", scene.frames if scene.range else ""),
            ("--chunk", str(scene.chunk or 100) if frames > 1 else ""),
            ("--blender", blender.id),
            ("--title", f"{scene.id} {blender.release}"),
            ("--output", re.sub(r"[^\w/.-]", "-", f"{blender.id}/{scene.id}")),
            ("--task-retries", "0"),
        ):
            if value and option not in words:
                words.append(f"{option}={value}")
        done = self._command("submit", *words, "--json", cwd=path.parent)
        if not done.stdout.strip():
            return Submitted(said=f"refused: {done.stderr}")
        job = json.loads(done.stdout)
        sent = {os.path.basename(name) for name in job.get("upload_paths", [])}
        return Submitted(f"{done.stderr}\n{_told(job)}", job["id"], scene.id, sent, job)

    def refresh(self, submitted: list[Submitted]) -> None:
        """Read the state of the jobs that have not ended."""
        newest = self.client.get("/api/jobs", params={"limit": 500}).json()["data"]
        states = {job["id"]: job["status"] for job in newest}
        for one in submitted:
            if one.job_id and not one.ended and states.get(one.job_id) in (*ENDED, "holding"):
                one.job = self.client.get(f"/api/jobs/{one.job_id}").json()
                if one.ended:
                    one.said += _told(one.job)
                    answer = self.client.get(f"/api/jobs/{one.job_id}/attempts", params={"limit": 500})
                    one.attempts = len(answer.json()["data"])

    def cancel(self, one: Submitted) -> None:
        self.client.patch(f"/api/jobs/{one.job_id}", json={"action": "cancel"})

    def download(self, one: Submitted, folder: Path) -> str:
        """Fetch all files of the job. Returns an error in words, else an empty text."""
        done = self._command("download", one.job_id, str(folder))
        one.said += done.stdout + done.stderr
        return done.stderr.strip() if done.returncode else ""

    def log(self, one: Submitted) -> str:
        """The log of the job's first task."""
        return str(self.client.get(f"/api/jobs/{one.job_id}/tasks/000/log").text)

    def _command(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FRAMEFARM, *words],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )


@contextlib.contextmanager
def running(work: Path) -> Iterator[Farm]:
    farm = Farm(work)
    try:
        yield farm
    finally:
        farm.stop()


def _told(job: dict[str, Any]) -> str:
    texts = [job.get("message") or "", job.get("cause") or "", job.get("waiting_for") or ""]
    texts += [f"[{one['code']}] {one['message']}" for one in job.get("warnings") or []]
    return "\n".join(texts) + "\n"
