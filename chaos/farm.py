"""The farm under test: a server that is restarted often, and its parts as processes."""

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
from proxy import Proxy

from framefarm.node.blender_installs import installed
from framefarm.server.operator import control_socket

FRAMEFARM = str(Path(sys.executable).with_name("framefarm"))
EMAIL, PASSWORD = "chaos@studio.example", "chaos-password"
LEASE_SECONDS = 3.0
DISCONNECTED_SECONDS = 3 * LEASE_SECONDS
SCENE = """
import bpy, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
bpy.ops.mesh.primitive_cube_add()
cube = bpy.context.object
for frame in (1, 100):
    cube.rotation_euler = (0, 0, frame / 30)
    cube.keyframe_insert("rotation_euler", frame=frame)
bpy.ops.object.light_add(type="SUN", rotation=(0.6, 0.2, 0))
bpy.ops.object.camera_add(location=(0, -6, 0), rotation=(1.5708, 0, 0))
scene.camera = bpy.context.object
scene.render.engine = "CYCLES"
scene.cycles.samples = 1
scene.cycles.use_denoising = False
scene.render.resolution_x = scene.render.resolution_y = 32
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
"""


def until(condition: Callable[[], Any], description: str, seconds: float = 60) -> Any:
    """Wait until `condition()` is true, and return its value. Raises TimeoutError with the description."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{description}: not within {seconds:g} s")
        time.sleep(0.05)
    return value


class ChaosFarm:
    """A farm with the data directory `data`. Its runners reach the server through `proxy` only."""

    def __init__(self, data: Path, proxy: Proxy) -> None:
        self.data, self.proxy = data, proxy
        self.log = data.parent / "serve.log"
        self.environment = os.environ | {
            "FRAMEFARM_ADMIN_EMAIL": EMAIL,
            "FRAMEFARM_ADMIN_PASSWORD": PASSWORD,
            "FRAMEFARM_LEASE_SECONDS": str(LEASE_SECONDS),
            "FRAMEFARM_NODE_PAUSE_SECONDS": str(LEASE_SECONDS),
            "FRAMEFARM_IDLE_SECONDS": "2",
            "FRAMEFARM_STARTING_SECONDS": "30",
            "FRAMEFARM_NO_PROGRESS_SECONDS": "60",
            "FRAMEFARM_FREE_DISK_FLOOR_BYTES": str(8 << 20),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.token = ""

    # -- the server

    def start(self) -> None:
        """Start the server and return at once. `settle` puts the proxy before it once it listens."""
        (self.data / "endpoint").unlink(missing_ok=True)
        command = [FRAMEFARM, "serve", "--data", str(self.data), "--listen", "127.0.0.1:0"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def settle(self) -> bool:
        """Direct the runners to the proxy, and the proxy to the server. False if it does not listen yet."""
        endpoint = self.data / "endpoint"
        try:
            address = endpoint.read_text().strip()
        except OSError:
            return False
        if address != self.proxy.address:
            host, _, port = address.removeprefix("http://").rpartition(":")
            self.proxy.target = (host, int(port))
            new_endpoint = endpoint.with_name("endpoint.chaos")
            try:
                new_endpoint.write_text(self.proxy.address)
                new_endpoint.replace(endpoint)
            except OSError:  # the disk is full: the next call repeats it
                new_endpoint.unlink(missing_ok=True)
                return False
        return True

    @property
    def direct(self) -> str | None:
        """The server's own address, which artists use. None before the first start."""
        target = self.proxy.target
        return None if target is None else f"http://{target[0]}:{target[1]}"

    @property
    def up(self) -> bool:
        """Whether the server's process runs."""
        return self.process is not None and self.process.poll() is None

    def ready(self) -> bool:
        """Whether the server answers that it is ready."""
        if not self.settle() or not self.up:
            return False
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.direct}/readyz", timeout=5).status_code == 200
        return False

    def prepare(self) -> None:
        """Start the server for the first time, register a Blender and log in."""
        self.start()
        until(self.ready, "the farm is ready")
        blender = next(b for b in installed() if b.id == "blender-4-2")
        control_socket.run(self.data, "package.register", {**blender.as_dict(), "default": True})
        answer = httpx2.post(f"{self.direct}/api/auth/login", json={"email": EMAIL, "password": PASSWORD})
        self.token = answer.json()["access_token"]

    def stop(self) -> None:
        """Stop the server by SIGTERM, and wait for its end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    # -- its processes

    def runners(self) -> list[psutil.Process]:
        """The farm's live runners, by process id."""
        children = {p.pid: p for p in psutil.Process().children(recursive=True)}
        processes = []
        for record in (self.data / "sessions").glob("*/runner.json"):
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                process = children.get(json.loads(record.read_text())["pid"])
                if process is not None and "framefarm.node.runner" in process.cmdline():
                    processes.append(process)
        return sorted(processes, key=lambda p: p.pid)

    def blenders(self) -> list[psutil.Process]:
        """All processes below the runners: Blenders and image decoders with their sandboxes."""
        processes = []
        for runner in self.runners():
            with contextlib.suppress(psutil.NoSuchProcess):
                processes += runner.children(recursive=True)
        return processes

    def readers(self) -> list[psutil.Process]:
        """The processes of the server that are reading a scene."""
        if not self.up:
            return []
        assert self.process is not None
        processes = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "framefarm.server.files.scene_reader_process" in process.cmdline():
                        processes.append(process)
        return processes


def reap(keep: int | None = None) -> None:
    """Collect the exit statuses of adopted processes that ended, apart from the process `keep`."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.pid != keep and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def descendants() -> list[psutil.Process]:
    """All running processes that this program started, directly or not."""
    reap()
    running = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def make_scene(path: Path) -> bytes:
    """Save the scene that all jobs render at `path`, by Blender. Returns its content."""
    blender = next(b for b in installed() if b.id == "blender-4-2")
    program = path.with_suffix(".py")
    program.write_text(SCENE)
    subprocess.run([blender.path, program, path], check=True, capture_output=True)
    return path.read_bytes()
