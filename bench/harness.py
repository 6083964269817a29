"""A farm for each bench, and the printing of its figures."""

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
FIGURES: list[tuple[str, list[float], str, str]] = []
"""All figures of this run: name, values, unit, remark."""


class BenchFarm:
    """A running farm with the data directory `data`, and a client that is logged in to it."""

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
        """The live runners and all processes below them."""
        processes = []
        for record in (self.data / "sessions").glob("*/runner.json"):
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                runner = psutil.Process(json.loads(record.read_text())["pid"])
                if "framefarm.node.runner" in runner.cmdline():
                    processes += [runner, *runner.children(recursive=True)]
        return processes

    def quiet(self) -> bool:
        """Whether all sessions have ended."""
        return not list((self.data / "sessions").iterdir())

    def finished(self, job_id: str) -> bool:
        """Whether the job is a success. Exits the program if it failed."""
        job = self.job(job_id)
        if job["status"] == "failed":
            raise SystemExit(f"the job failed: {job['message']}")
        return bool(job["status"] == "success")


def until(condition: Callable[[], bool], pause_seconds: float = 0.02) -> None:
    while not condition():
        time.sleep(pause_seconds)


@contextlib.contextmanager
def bench_farm() -> Iterator[BenchFarm]:
    os.environ["FRAMEFARM_ADMIN_EMAIL"], os.environ["FRAMEFARM_ADMIN_PASSWORD"] = LOGIN.values()
    with tempfile.TemporaryDirectory(prefix="framefarm-bench-") as folder:
        farm = BenchFarm(Path(folder))
        try:
            yield farm
        finally:
            subprocess.run([FRAMEFARM, "stop", "--data", folder, "--now"], stdout=subprocess.DEVNULL)
            farm.process.wait()


def row(name: str, values: list[float], unit: str, remark: str = "") -> None:
    """Record and print a figure: its median, its least and greatest value, and their number."""
    FIGURES.append((name, values, unit, remark))
    _print(name, values, unit, remark)


def _print(name: str, values: list[float], unit: str, remark: str) -> None:
    spread = f"{min(values):.3g}–{max(values):.3g}" if len(values) > 1 else ""
    middle = f"{statistics.median(values):>9.3g} {unit:<8}"
    print(f"  {name:<48} {middle} {spread:<16} n={len(values):<3} {remark}".rstrip(), flush=True)


def table() -> None:
    """Print all figures again, below a description of this machine."""
    print(f"\n{machine_description()}", flush=True)
    for figure in FIGURES:
        _print(*figure)


def machine_description() -> str:
    """This machine's processor, memory, kernel and load, in one line."""
    models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    memory = psutil.virtual_memory().total / (1 << 30)
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {name}, {memory:.1f} GiB, Linux {platform.release()}; load average {load:.1f}"


def blender() -> Installed:
    return next(b for b in installed() if b.id == "blender-4-2")


def make_empty_scene(path: Path) -> None:
    """Save Blender's default scene at `path`."""
    program = "import bpy, sys; bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])"
    subprocess.run([blender().path, "-c", program, path], check=True, capture_output=True)


SCENE_SCRIPT = """
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


def bench_scene(options: argparse.Namespace, folder: Path) -> Path:
    """The scene of `--scene`. If it does not exist, one made by script that takes about a second a frame."""
    given = Path(options.scene)
    if given.exists():
        return given
    made = folder / "made.blend"
    if made.exists():
        return made
    subprocess.run([blender().path, "-c", SCENE_SCRIPT, made], check=True, capture_output=True)
    print(f"  {given} does not exist: using a scene made by script; give another with --scene", flush=True)
    return made


def prepare_rendering(farm: BenchFarm, options: argparse.Namespace) -> None:
    """Register Blender and upload the bench's scene as /bench/scene.blend on a new farm."""
    install = blender()
    farm.register("blender-4-2", "bpy", install.path, install.release)
    farm.upload("/bench/scene.blend", bench_scene(options, farm.data).read_bytes())
