"""A running farm under test: the server as a process, and an HTTP client that is logged in to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil

from framefarm.node.blender_installs import installed
from framefarm.server.operator import control_socket

FRAMEFARM = str(Path(sys.executable).with_name("framefarm"))
EMAIL, PASSWORD = "admin@studio.example", "correct horse battery"
SCENE = """
import bpy, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
bpy.ops.mesh.primitive_monkey_add()
monkey = bpy.context.object
for frame in (1, 24):
    monkey.rotation_euler = (0, 0, frame / 8)
    monkey.keyframe_insert("rotation_euler", frame=frame)
bpy.ops.object.light_add(type="SUN", rotation=(0.6, 0.2, 0))
bpy.ops.object.camera_add(location=(0, -6, 0), rotation=(1.5708, 0, 0))
scene.camera = bpy.context.object
scene.render.engine = "CYCLES"
scene.cycles.samples = 1
scene.cycles.use_denoising = False
scene.render.resolution_x, scene.render.resolution_y = 64, 36
scene.frame_start, scene.frame_end = 1, 24
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
"""


class RunningFarm:
    """A farm with the data directory `data`. `settings`: names without `FRAMEFARM_`, in lower case."""

    def __init__(self, data: Path, **settings: str) -> None:
        self.data = data
        self.environment = os.environ | {
            "FRAMEFARM_ADMIN_EMAIL": EMAIL,
            "FRAMEFARM_ADMIN_PASSWORD": PASSWORD,
            "FRAMEFARM_LEASE_SECONDS": "3",
            "FRAMEFARM_DISCONNECTED_SECONDS": "60",
            **{f"FRAMEFARM_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx2.Client(timeout=30)

    def start(self, listen: str = "127.0.0.1:0") -> None:
        """Start the server, and wait until it is ready."""
        (self.data / "endpoint").unlink(missing_ok=True)
        command = [FRAMEFARM, "serve"]
        with open(self.data / "serve.log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--data", str(self.data), "--listen", listen],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until(self._ready, "the farm is ready")

    def open(self, scene: bytes) -> None:
        """Start the server for the first time, register a Blender, log in and upload the scene."""
        self.start()
        blender = next(b for b in installed() if b.id == "blender-4-2")
        control_socket.run(self.data, "package.register", {**blender.as_dict(), "default": True})
        self.login()
        self.upload("/show/monkey.blend", scene)

    def _ready(self) -> bool:
        try:
            self.client.base_url = (self.data / "endpoint").read_text().strip()
            return self.client.get("/readyz").status_code == 200
        except (OSError, httpx2.TransportError):
            return False

    def login(self) -> None:
        answer = self.client.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD})
        self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def kill(self) -> None:
        """Kill the server alone, by SIGKILL."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop the server and all sessions, as `framefarm stop --now` does."""
        stop = [FRAMEFARM, "stop", "--data", str(self.data), "--now"]
        subprocess.run(stop, check=True, capture_output=True, env=self.environment)
        if self.process is not None:
            self.process.wait(20)

    def processes(self) -> list[psutil.Process]:
        """The live runners and every process below them: sandboxes, Blenders, image decoders."""
        processes = []
        for record in (self.data / "sessions").glob("*/runner.json"):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                runner = psutil.Process(json.loads(record.read_text())["pid"])
                if "framefarm.node.runner" in runner.cmdline():
                    processes += [runner, *runner.children(recursive=True)]
        return processes

    @property
    def server_pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    def until(self, condition: Callable[[], Any], description: str, seconds: float = 60) -> Any:
        """Wait until `condition()` is true, and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{description}: not within {seconds} s"
            time.sleep(0.05)
        return value

    # -- the API

    def upload(self, path: str, content: bytes) -> None:
        answer = self.client.post("/api/uploads/file", data={"path": path}, files={"file": ("f", content)})
        assert answer.status_code == 200, answer.text

    def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a job of four frames, changed by `fields`. Returns the job."""
        payload = {
            "job_title": "test",
            "project": "default",
            "instance_type": "local-1",
            "frame_range": "1-4",
            "blender_version": "blender-4-2",
            "output_path": "gs://renders/test",
            "upload_paths": ["/show/monkey.blend"],
        }
        answer = self.client.post("/api/jobs", json=payload | fields)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.client.get(f"/api/jobs/{job_id}").json()
        return job

    def all(self, path: str) -> list[Any]:
        """The first 500 rows of a list."""
        return list(self.client.get(path, params={"limit": 500}).json()["data"])

    def done(self, job_id: str) -> list[int]:
        """The job's finished frames, in order."""
        return [f["frame"] for f in self.all(f"/api/jobs/{job_id}/frames") if f["status"] == "done"]

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the job has one of the statuses. Fails if it ends otherwise. Returns the job."""

        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            ends = {"success", "failed", "cancelled"}
            assert job["status"] in statuses or job["status"] not in ends, job["message"]
            return job if job["status"] in statuses else None

        job: dict[str, Any] = self.until(reached, f"{job_id} is {statuses}")
        return job
