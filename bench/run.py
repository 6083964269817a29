"""What the farm itself costs: ratios and medians measured in one run. `script/bench [NAME …] [--scene PATH]`.

overhead   5,000 one-frame tasks on 2 slots with an instant stand-in for Blender, all else real
scene      24 one-frame tasks beside two plain Blenders, and beside one Blender process per frame
huge       a job of 1,000,000 frames beside one of 1,000; submitting 10,000 paths
follow     frame saved to 100 clients of the job's event stream
server     memory and processor of an idle server; growth while a large file arrives
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
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
from follow import CLIENTS, delays_ms

from framefarm.node.runtimes import installed
from framefarm.server import operator

HERE = Path(__file__).resolve().parent
FRAMEFARM = str(Path(sys.executable).with_name("framefarm"))
LOGIN = {"email": "bench@studio.example", "password": "bench-password"}
NAMES = ("overhead", "scene", "huge", "follow", "server")


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
        operator.run(self.data, "package.register", arguments)

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
    spread = f"{min(values):.3g}–{max(values):.3g}" if len(values) > 1 else ""
    print(f"  {name:<44} {statistics.median(values):>9.3g} {unit:<8} {spread:<16} {note}", flush=True)


def a_scene(path: Path) -> None:
    blender = next(b for b in installed() if b.id == "blender-4-2")
    program = "import bpy, sys; bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])"
    subprocess.run([blender.path, "-c", program, path], check=True, capture_output=True)


def overhead(_options: argparse.Namespace) -> None:
    tasks = 5000
    with a_farm() as farm:
        a_scene(farm.data / "scene.blend")
        farm.upload("/bench/scene.blend", (farm.data / "scene.blend").read_bytes())
        farm.register("blender-9-9", "executable", str(HERE / "fake/fake_instant_blender.py"), "9.9.0")
        figures, plain = [], []
        for turn in range(3):
            begun = time.perf_counter()
            subprocess.run(f"seq {tasks} | xargs -P2 -n1 true", shell=True, check=True)
            plain.append((time.perf_counter() - begun) / tasks * 1000)
            job = farm.submit(
                frame_range=f"1-{tasks}", blender_version="blender-9-9", output_path=f"gs://renders/{turn}"
            )
            # Session start apart: the clock runs from the first frame done.
            until(lambda job=job: farm.job(job)["frames"]["done"] > 0)  # type: ignore[misc]
            done, begun = farm.job(job)["frames"]["done"], time.perf_counter()
            until(lambda job=job: farm.finished(job), 0.1)  # type: ignore[misc]
            figures.append((time.perf_counter() - begun) / (tasks - done) * 1000)
    row("a trivial task, all durable", figures, "ms", "goal 1.5")
    row("xargs -P2 running true", plain, "ms")
    row("ratio", [f / p for f, p in zip(figures, plain, strict=True)], "x")
    print(
        "    Batched: up to 16 tasks a hand-out, 64 events a report, reports that meet share one commit, one"
    )
    print(
        "    one folder sync for frames that queue. A crash costs the frame in work of each machine, no more."
    )


def scene(options: argparse.Namespace) -> None:
    path = Path(options.scene)
    if not path.exists():
        print(f"  left out: there is no {path}; give one with --scene")
        return
    blender = next(b for b in installed() if b.id == "blender-4-2")
    ours, plain, each = [], [], []
    with a_farm() as farm:
        farm.register("blender-4-2", "bpy", blender.path, blender.release)
        farm.upload("/bench/scene.blend", path.read_bytes())
        for turn in range(3):
            begun = time.perf_counter()
            job = farm.submit(
                frame_range="1-24", blender_version="blender-4-2", output_path=f"gs://renders/{turn}"
            )
            until(lambda job=job: farm.finished(job), 0.1)  # type: ignore[misc]
            ours.append(time.perf_counter() - begun)
            until(lambda: not list((farm.data / "sessions").iterdir()), 0.2)
            plain.append(_plain(blender.path, path, farm.data, [range(1, 13), range(13, 25)]))
            each.append(_plain(blender.path, path, farm.data, [range(f, f + 1) for f in range(1, 25)]))
    row("24 frames by the farm, submit to success", ours, "s")
    row("two plain Blenders, 12 frames each", plain, "s")
    row("one Blender process a frame", each, "s")
    row("farm / plain", [a / b for a, b in zip(ours, plain, strict=True)], "x", "goal 1.05")


RENDER = """
import bpy, sys
path, out, core, first, last = sys.argv[-5:]
bpy.ops.wm.open_mainfile(filepath=path, use_scripts=False)
render = bpy.context.scene.render
render.threads_mode, render.threads = "FIXED", 1
render.use_persistent_data = True
for frame in range(int(first), int(last)):
    bpy.context.scene.frame_set(frame)
    render.filepath = f"{out}/plain_{frame:04d}.png"
    bpy.ops.render.render(write_still=True)
import os; os._exit(0)
"""


def _plain(python: str, path: Path, out: Path, parts: list[range]) -> float:
    """Seconds that plain Blenders of one pinned thread take, two at a time."""
    begun = time.perf_counter()
    waiting, running = list(parts), {0: None, 1: None}
    while waiting or any(running.values()):
        for core, process in running.items():
            if process is not None and process.poll() is not None:
                running[core] = process = None
            if process is None and waiting:
                part = waiting.pop(0)
                arguments = [str(path), str(out), str(core), str(part.start), str(part.stop)]
                command = ["taskset", "-c", str(core), python, "-c", RENDER, *arguments]
                running[core] = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )  # type: ignore[assignment]
        time.sleep(0.01)
    return time.perf_counter() - begun


def huge(_options: argparse.Namespace) -> None:
    with a_farm() as farm:
        farm.register("blender-9-9", "executable", str(HERE / "fake/fake_instant_blender.py"), "9.9.0")
        for frames in (1000, 1_000_000):
            times: dict[str, list[float]] = {}
            for turn in range(7):
                _actions(farm, frames, turn, times)
            for name, values in times.items():
                row(f"{name}, {frames:,} frames", values, "ms", "goal 50" if frames > 1000 else "")
        paths = ["/bench/scene.blend", *(f"/bench/many/{i:05d}.png" for i in range(9_999))]
        _submits(farm, "submit, 10,000 paths, missing", paths, {})
        _submits(farm, "submit, 10,000 paths, there and pinned", paths, _register(farm, paths))


def _register(farm: Farm, paths: list[str]) -> dict[str, str]:
    """Upload a hundred contents and register every path with one of them; {path: SHA-256}."""
    for i in range(100):
        farm.upload(f"/bench/contents/{i}.png", b"%d" % i)
    contents = [b"%d" % (i % 100) for i in range(len(paths))]
    for start in range(0, len(paths), 1000):
        files = [
            {"path": path, "md5": hashlib.md5(content).hexdigest()}
            for path, content in zip(paths[start : start + 1000], contents[start : start + 1000], strict=True)
        ]
        farm.client.post("/api/uploads/md5", json={"files": files}).raise_for_status()
    return {p: hashlib.sha256(c).hexdigest() for p, c in zip(paths, contents, strict=True)}


def _submits(farm: Farm, name: str, paths: list[str], pins: dict[str, str]) -> None:
    values = []
    for turn in range(5):
        begun = time.perf_counter()
        farm.submit(
            frame_range="1", blender_version="blender-9-9", output_path=f"{len(pins)}/{turn}", hold=True,
            upload_paths=paths, upload_sha256s=pins,
        )  # fmt: skip
        values.append((time.perf_counter() - begun) * 1000)
    row(name, values, "ms", "goal 300")


def _actions(farm: Farm, frames: int, turn: int, times: dict[str, list[float]]) -> None:
    def timed(name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        found = call()
        times.setdefault(name, []).append((time.perf_counter() - begun) * 1000)
        return found

    def patch(action: str) -> None:
        farm.client.patch(f"/api/jobs/{job}", json={"action": action}).raise_for_status()

    job = timed(
        "submit",
        lambda: farm.submit(
            frame_range=f"1-{frames}", blender_version="blender-9-9", output_path=f"h/{frames}/{turn}"
        ),
    )
    timed("hold", lambda: patch("hold"))
    timed("unhold", lambda: patch("unhold"))
    timed("list jobs", lambda: farm.client.get("/api/jobs").raise_for_status())
    timed("list frames", lambda: farm.client.get(f"/api/jobs/{job}/frames").raise_for_status())
    timed("cancel", lambda: patch("cancel"))


def follow(_options: argparse.Namespace) -> None:
    frames = 200
    with a_farm() as farm:
        a_scene(farm.data / "scene.blend")
        farm.upload("/bench/scene.blend", (farm.data / "scene.blend").read_bytes())
        farm.register("blender-9-9", "executable", str(HERE / "fake/fake_instant_blender.py"), "9.9.0")
        median, late, worst, cpu = [], [], [], []
        process = psutil.Process(farm.process.pid)
        for turn in range(3):
            job = farm.submit(
                frame_range=f"1-{frames}", blender_version="blender-9-9", output_path=f"gs://renders/{turn}",
                hold=True, environment_variables={"FAKE_FRAME_SECONDS": "0.1"},
            )  # fmt: skip

            def go(job: str = job) -> None:
                farm.client.patch(f"/api/jobs/{job}", json={"action": "unhold"}).raise_for_status()

            before, begun = process.cpu_times(), time.perf_counter()
            token = farm.client.headers["Authorization"]
            folder = farm.data / "buckets/renders" / str(turn)
            found = delays_ms(str(farm.client.base_url), token, job, frames, folder, go)
            after = process.cpu_times()
            spent = after.user + after.system - before.user - before.system
            cpu.append(spent / (time.perf_counter() - begun) * 100)
            median.append(statistics.median(found))
            late.append(found[int(len(found) * 0.99)])
            worst.append(found[-1])
    row(f"frame saved to client, {CLIENTS} clients, median", median, "ms")
    row("99th percentile", late, "ms", "goal 100")
    row("worst", worst, "ms")
    row("the server's processor meanwhile", cpu, "% core", "20 frames a second in all")


def server(_options: argparse.Namespace) -> None:
    with a_farm() as farm:
        process = psutil.Process(farm.process.pid)
        time.sleep(3)
        before, begun = process.cpu_times(), time.perf_counter()
        time.sleep(20)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        row("idle memory", [process.memory_info().rss / (1 << 20)], "MB", "goal 150")
        row("idle processor", [spent / (time.perf_counter() - begun) * 100], "% core", "goal 1")
        size = 4 << 30
        with open(farm.data / "large.bin", "wb") as file:
            file.truncate(size)
        rss = process.memory_info().rss
        command = [
            "curl", "-sf", "-H", f"Authorization: {farm.client.headers['Authorization']}",
            "-F", f"file=@{farm.data / 'large.bin'}", "-F", "path=/bench/large.bin",
            f"{farm.client.base_url}/api/uploads/file",
        ]  # fmt: skip
        upload = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = rss
        while upload.poll() is None:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.05)
        if upload.returncode:
            raise SystemExit("the upload failed")
        row("growth while 4 GiB arrive", [(peak - rss) / (1 << 20)], "MB", "goal 50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="which; all by default")
    default = HERE.parent.parent / "shared" / "scenes" / "bmw27_light.blend"
    parser.add_argument("--scene", default=str(default), help="the scene of `scene`")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    for name in options.names or NAMES:
        print(name, flush=True)
        globals()[name](options)


if __name__ == "__main__":
    main()
