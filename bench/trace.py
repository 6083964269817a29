"""Finding the files of a scene before it is sent: one that names 10,000 pictures, and one of 2 GB."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import blender, row

PICTURES = 10_000
MAKE_PICTURES = """
import bpy, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
for number in range(10_000):
    image = bpy.data.images.new(f"{number}.png", 4, 4)
    image.source, image.use_fake_user = "FILE", True
    image.filepath = f"//tex{number % 50}/{number:05d}.png"
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[1], compress=False)
"""
MAKE_LARGE = """
import bpy, numpy, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
points = numpy.random.default_rng(1).random(3 * 300_000, dtype=numpy.float32)
for number in range(560):  # 3.6 MB each
    mesh = bpy.data.meshes.new(f"Mesh {number}")
    mesh.vertices.add(300_000)
    mesh.vertices.foreach_set("co", points)
    bpy.context.scene.collection.objects.link(bpy.data.objects.new(f"Object {number}", mesh))
for number in range(30_000):  # and as many blocks as a city has
    item = bpy.data.objects.new(f"Part {number}", None)
    bpy.context.scene.collection.objects.link(item)
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[1], compress=sys.argv[2] == "compressed")
"""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63600000000200014898c0"
    "d30000000049454e44ae426082"
)


def run(options: argparse.Namespace) -> None:
    turns = options.turns or 5
    python = blender().path
    with tempfile.TemporaryDirectory(prefix="bench-trace-", dir="/var/tmp") as name:
        folder = Path(name)
        _pictures(folder, python, turns)
        for how in ("plain", "compressed"):
            _large(folder / f"{how}.blend", python, how, turns)


def _pictures(folder: Path, python: str, turns: int) -> None:
    scene = folder / "pictures.blend"
    _make(python, MAKE_PICTURES, str(scene))
    for number in range(PICTURES):
        path = folder / f"tex{number % 50}" / f"{number:05d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PNG)
    found, looked = [], []
    for _ in range(turns):
        seconds, _, reply = _run("files", scene)
        assert len(reply["files"]) == PICTURES + 1, len(reply["files"])
        assert not reply["missing"] and not reply["doubts"]
        found.append(seconds)
        begun = time.perf_counter()
        for file in reply["files"]:
            with open(file, "rb") as opened:
                opened.read(64)
        looked.append(time.perf_counter() - begun)
    row("trace 10,000 pictures", found, "s", "goal 3")
    ratios = [f / o for f, o in zip(found, looked, strict=True)]
    row("the same, by the time of opening each once", ratios, "times")


def _large(scene: Path, python: str, how: str, turns: int) -> None:
    _make(python, MAKE_LARGE, str(scene), how)
    size = scene.stat().st_size / 1e9
    for command in ("scene", "files"):
        seconds, peaks = [], []
        for _ in range(turns):
            took, peak, _ = _run(command, scene)
            seconds.append(took)
            peaks.append(peak)
        row(f"read {command} of 2 GB, {how} ({size:.1f} GB on disk)", seconds, "s", "goal 5")
        row(f"its memory, {how}", peaks, "MB", "goal 300")
    scene.unlink()


def _make(python: str, script: str, *arguments: str) -> None:
    subprocess.run([python, "-c", script, *arguments], check=True, capture_output=True)


def _run(command: str, scene: Path) -> tuple[float, float, dict[str, list[str]]]:
    """Seconds, peak memory (MB) and reply of the client's process that reads a scene."""
    arguments = [sys.executable, "-P", "-m", "framefarm.client.scene_process", command, str(scene)]
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(arguments, stdout=output)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        assert child.returncode == 0
        output.seek(0)
        return seconds, usage.ru_maxrss / 1024, json.load(output)
