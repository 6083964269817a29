"""A real Blender that passes a limit of its sandbox."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from blender_harness import UID, BlenderHarness, inputs_of

from framefarm.node.blender import Blender, BlenderLimits, Opened, SceneOrder
from framefarm.node.blender_events import Event, Exited
from framefarm.node.inputs import lay_out
from framefarm.protocol.node import RenderSettings

MiB = 1 << 20
HEAVY = """
import bpy, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
bpy.ops.mesh.primitive_cube_add()
bpy.context.object.modifiers.new("fine", "SUBSURF").render_levels = 10
bpy.ops.object.camera_add(location=(0, -6, 0), rotation=(1.5708, 0, 0))
scene.camera = bpy.context.object
scene.render.engine = "CYCLES"
scene.cycles.samples = 1
scene.render.resolution_x, scene.render.resolution_y = 64, 36
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
"""


@pytest.mark.blender
def test_a_scene_that_needs_more_memory_than_the_slot_has_says_peak_and_limit(
    harness: BlenderHarness, tmp_path: Path, bpy_python: Path
) -> None:
    folder = tmp_path / "heavy"
    folder.mkdir()
    subprocess.run([bpy_python, "-c", HEAVY, folder / "heavy.blend"], check=True, capture_output=True)
    layout = lay_out(inputs_of(folder, "/film"), tmp_path / "tree", "bubblewrap")
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    limits = BlenderLimits(tuple(sorted(os.sched_getaffinity(0))), UID, "bubblewrap", 700 * MiB)
    order = SceneOrder("/film/heavy.blend", RenderSettings(), {})
    blender = Blender(limits, harness.package, order, layout, work, harness.events, harness.printed.extend)
    harness.blenders.append(blender)
    blender.open_scene()
    event: Event = harness.events.get(timeout=60)
    while not isinstance(event, Exited):
        if isinstance(event, Opened):
            blender.render(1)
        event = harness.events.get(timeout=60)
    assert event.cause == "out_of_memory", (event, harness.printed.decode()[-2000:])
    assert "Blender used 0.7 GiB, and this machine has 0.7 GiB for it" in event.message
