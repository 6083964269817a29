"""A farm of its own for each bench, and how a figure is told."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil

from framefarm.node.blender_installs import Installed, installed
from framefarm.server.operator import control_socket

HERE = Path(__file__).resolve().parent
FRAMEFARM = str(Path(sys.executable).with_name("framefarm"))
LOGIN = {"email": "bench@studio.example", "password": "bench-password"}
ROWS: list[tuple[str, list[float], str, str]] = []
"""Every figure of this run: name, values, unit, note."""


class Farm:
    """A farm of its own, in a temporary folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        log = open(data / "serve.log", "wb")  # noqa: SIM115 - the child's
        self.process = subprocess.Popen(
            [FRAMEFARM, "serve", "--data", str(data), "--listen", "127.0.0.1:0"], stdout=log, stderr=log
        )
        self.client = httpx2.Client(timeout=120)
        until(self._ready)
        token = self.client.post("/api/auth/login", json=LOGIN).json()["access_token"]
        self.client.headers["Authorization"] = f"Bearer {token}"

    def _ready(self) -> bool:
        try:
            self.client.base_url = (self.data / "endpoint").read_text().strip()
            return self.client.get("/readyz").status_code == 200
        except (OSError, httpx2.TransportError):
            return False

    def register(self, package: str, kind: str, path: str, release: str) -> None:
        arguments = {"id": package, "kind": kind, "path": path, "release": release, "default": False}
        control_socket.run(self.data, "package.register", arguments)

    def upload(self, path: str, content: Any) -> None:
        self.client.post("/api/uploads/file", data={"path": path}, files={"file": content}).raise_for_status()

    def submit(self, **fields: Any) -> str:
        payload = {
            "job_title": "bench", "project": "default", "instance_type": "local-1",
            "upload_paths": ["/bench/scene.blend"],
        }  # fmt: skip
        answer = self.client.post("/api/jobs", json=payload | fields)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/api/jobs/{job_id}").json())

    def all(self, path: str) -> list[dict[str, Any]]:
        return list(self.client.get(path, params={"limit": 500}).json()["data"])

    def patch(self, job_id: str, **change: Any) -> None:
        self.client.patch(f"/api/jobs/{job_id}", json=change).raise_for_status()

    def processes(self) -> list[psutil.Process]:
        """The runners that are alive, and all below them."""
        found = []
        for record in (self.data / "sessions").glob("*/runner.json"):
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                runner = psutil.Process(json.loads(record.read_text())["pid"])
                if "framefarm.node.runner" in runner.cmdline():
                    found += [runner, *runner.children(recursive=True)]
        return found

    def quiet(self) -> bool:
        """No session is left."""
        return not list((self.data / "sessions").iterdir())

    def finished(self, job_id: str) -> bool:
        job = self.job(job_id)
        if job["status"] == "failed":
            raise SystemExit(f"the job failed: {job['message']}")
        return bool(job["status"] == "success")


def until(condition: Callable[[], bool], pause_seconds: float = 0.02) -> None:
    while not condition():
        time.sleep(pause_seconds)


@contextlib.contextmanager
def a_farm() -> Iterator[Farm]:
    os.environ["FRAMEFARM_ADMIN_EMAIL"], os.environ["FRAMEFARM_ADMIN_PASSWORD"] = LOGIN.values()
    with tempfile.TemporaryDirectory(prefix="framefarm-bench-") as folder:
        farm = Farm(Path(folder))
        try:
            yield farm
        finally:
            subprocess.run([FRAMEFARM, "stop", "--data", folder, "--now"], stdout=subprocess.DEVNULL)
            farm.process.wait()


def row(name: str, values: list[float], unit: str, note: str = "") -> None:
    """One figure: its median, its spread from least to most, how many."""
    ROWS.append((name, values, unit, note))
    _print(name, values, unit, note)


def _print(name: str, values: list[float], unit: str, note: str) -> None:
    spread = f"{min(values):.3g}–{max(values):.3g}" if len(values) > 1 else ""
    middle = f"{statistics.median(values):>9.3g} {unit:<8}"
    print(f"  {name:<48} {middle} {spread:<16} n={len(values):<3} {note}".rstrip(), flush=True)


def table() -> None:
    """All figures again, and what they were measured on."""
    print(f"\n{machine()}", flush=True)
    for one in ROWS:
        _print(*one)


def machine() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.machine()
    memory = psutil.virtual_memory().total / (1 << 30)
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {name}, {memory:.1f} GiB, Linux {platform.release()}; load average {load:.1f}"


def blender() -> Installed:
    return next(b for b in installed() if b.id == "blender-4-2")


def a_scene(path: Path) -> None:
    program = "import bpy, sys; bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])"
    subprocess.run([blender().path, "-c", program, path], check=True, capture_output=True)


SMALL = """
import bpy, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
bpy.ops.mesh.primitive_monkey_add()
bpy.context.object.modifiers.new("fine", "SUBSURF").render_levels = 4
bpy.ops.object.light_add(type="SUN", rotation=(0.6, 0.2, 0))
bpy.ops.object.camera_add(location=(0, -6, 0), rotation=(1.5708, 0, 0))
scene.camera = bpy.context.object
scene.render.engine = "CYCLES"
scene.cycles.samples, scene.cycles.use_denoising = 16, False
scene.render.resolution_x, scene.render.resolution_y = 480, 270
scene.frame_end = 1000
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
"""


def the_scene(options: argparse.Namespace, folder: Path) -> Path:
    """`--scene`, or where that is not there one made by script, of about a second a frame."""
    given = Path(options.scene)
    if given.exists():
        return given
    made = folder / "made.blend"
    if made.exists():
        return made
    subprocess.run([blender().path, "-c", SMALL, made], check=True, capture_output=True)
    print(f"  there is no {given}: a scene made by script; give one with --scene", flush=True)
    return made


def render_farm(farm: Farm, options: argparse.Namespace) -> None:
    """Give a fresh farm Blender and the scene, as /bench/scene.blend."""
    found = blender()
    farm.register("blender-4-2", "bpy", found.path, found.release)
    farm.upload("/bench/scene.blend", the_scene(options, farm.data).read_bytes())
