"""Cost of the watch of lookups: a Blender with it and without, in interleaved pairs.

`--scene` is a scene of many faces; beside it, a scene of many tiny textures is made, the worst case: Blender
asks 14 times for each of them and reads next to nothing. Both sides are driven by the runner's own code on
the same core. The watcher itself needs some 12 microseconds of processor time a call.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness import bench_scene, blender, row

from framefarm.node import blender_launch
from framefarm.node.blender import Blender, BlenderLimits, Event, Exited, Failed, Opened, Saved, SceneOrder
from framefarm.node.inputs import lay_out
from framefarm.protocol.node import Input, Package, RenderSettings

PAIRS = 5
TEXTURES = 3000
MAKE_TEXTURES = """
import os, struct, sys, zlib
import bpy
folder, count = sys.argv[1], int(sys.argv[2])
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples = 'CYCLES', 1
scene.render.resolution_x = scene.render.resolution_y = 64
scene.camera = bpy.data.objects.new('Camera', bpy.data.cameras.new('Camera'))
scene.collection.objects.link(scene.camera)
def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
def png(n):
    rows = zlib.compress(b''.join(b'\\0' + bytes([n & 255, n >> 8 & 255, 99]) * 64 for _ in range(64)))
    head = struct.pack('>IIBBBBB', 64, 64, 8, 2, 0, 0, 0)
    return b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
mesh = bpy.data.meshes.new('Square')
mesh.from_pydata([(-1, -1, 0), (1, -1, 0), (1, 1, 0)], [], [(0, 1, 2)])
for n in range(count):
    path = os.path.join(folder, f'{n:06d}.png')
    with open(path, 'wb') as file:
        file.write(png(n))
    material = bpy.data.materials.new(f'M{n}')
    material.use_nodes = True
    nodes = material.node_tree.nodes
    texture = nodes.new('ShaderNodeTexImage')
    texture.image = bpy.data.images.load(path)
    texture.image.filepath = '//' + os.path.basename(path)
    material.node_tree.links.new(texture.outputs[0], nodes['Principled BSDF'].inputs[0])
    item = bpy.data.objects.new(f'O{n}', mesh.copy())
    item.data.materials.append(material)
    scene.collection.objects.link(item)
bpy.ops.wm.save_as_mainfile(filepath=os.path.join(folder, 'scene.blend'), relative_remap=False)
"""


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="framefarm-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        many = folder / "many"
        many.mkdir()
        command = [blender().path, "-c", MAKE_TEXTURES, str(many), str(TEXTURES)]
        subprocess.run(command, check=True, capture_output=True)
        one = bench_scene(options, folder)
        _compare(options, folder, "the scene", [(f"/bench/{one.name}", one)], one.name)
        files = [(f"/bench/{path.name}", path) for path in sorted(many.iterdir()) if path.suffix != ".blend1"]
        _compare(options, folder, f"{TEXTURES} textures", files, "scene.blend")


def _compare(
    options: argparse.Namespace, folder: Path, name: str, files: list[tuple[str, Path]], scene: str
) -> None:
    times: dict[bool, list[float]] = {True: [], False: []}
    for pair in range((options.turns or PAIRS) + 1):
        for watched in (True, False) if pair % 2 else (False, True):
            with tempfile.TemporaryDirectory(dir=folder) as work:
                os.chmod(work, 0o711)
                seconds = _measure(Path(work), files, f"/bench/{scene}", watched=watched)
            if pair:  # the first pair only warms the disk's cache
                times[watched].append(seconds)
    row(f"{name}: start, open and a frame, watched", times[True], "s")
    row(f"{name}: start, open and a frame, unwatched", times[False], "s")
    differences = [a - b for a, b in zip(times[True], times[False], strict=True)]
    row(f"{name}: watched less unwatched", differences, "s", "goal: 0.2 s")
    ratio = statistics.median(times[True]) / statistics.median(times[False])
    row(f"{name}: watched / unwatched, of medians", [ratio], "x", "goal: 1.01 of the scene")


def _measure(work: Path, files: list[tuple[str, Path]], scene: str, *, watched: bool) -> float:
    inputs = [Input(path=p, source=str(f), size=f.stat().st_size, sha256="") for p, f in files]
    layout = lay_out(inputs, work / "tree")
    folder = work / "blender"
    folder.mkdir(mode=0o755)
    limits = BlenderLimits((min(os.sched_getaffinity(0)),), 70_000)
    install = blender()
    package = Package(id=install.id, kind=install.kind, path=install.path, release=install.release)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    order = SceneOrder(scene, RenderSettings(), {})
    with contextlib.nullcontext() if watched else _without_filter():
        begun = time.perf_counter()
        process = Blender(limits, package, order, layout, folder, events, lambda _: None)
    try:
        process.open_scene()
        _wait_for(events, Opened)
        process.render(1)
        _wait_for(events, Saved)
        return time.perf_counter() - begun
    finally:
        process.kill()


@contextlib.contextmanager
def _without_filter() -> Iterator[None]:
    """Blenders that start meanwhile offer nothing, as where the kernel refuses."""
    program = blender_launch.PROGRAM["lookups.py"]
    blender_launch.PROGRAM["lookups.py"] = b"import os\noffer, mark = os.close, lambda: None\n"
    try:
        yield
    finally:
        blender_launch.PROGRAM["lookups.py"] = program


def _wait_for(events: queue.SimpleQueue[Event], event_type: type[Event]) -> None:
    while not isinstance(event := events.get(timeout=600), event_type):
        if isinstance(event, Failed | Exited):
            raise SystemExit(f"Blender did not render: {event}")
