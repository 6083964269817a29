"""A script of a shader node in a file colours the picture, although its folder cannot be written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from blender_harness import BlenderHarness
from PIL import Image

from framefarm.protocol.node import Package

MAKE = """
import bpy, os, sys
folder = sys.argv[-1]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.engine = "CYCLES"
scene.cycles.samples, scene.cycles.shading_system, scene.cycles.use_denoising = 1, True, False
scene.render.resolution_x = scene.render.resolution_y = 16
scene.view_settings.view_transform = "Raw"
os.makedirs(folder + "/shaders")
with open(folder + "/shaders/half.h", "w") as file:
    file.write("#define HALF 0.5\\n")
with open(folder + "/shaders/teal.osl", "w") as file:
    file.write('#include "half.h"\\nshader teal(output color Result = 0)')
    file.write('{ Result = color(0, HALF, HALF); }\\n')
material = bpy.data.materials.new("Teal")
material.use_nodes = True
nodes, links = material.node_tree.nodes, material.node_tree.links
nodes.clear()
group = bpy.data.node_groups.new("Script", "ShaderNodeTree")
group.interface.new_socket("Color", in_out="OUTPUT", socket_type="NodeSocketColor")
script = group.nodes.new("ShaderNodeScript")
script.mode, script.filepath = "EXTERNAL", folder + "/shaders/teal.osl"
group.links.new(script.outputs[0], group.nodes.new("NodeGroupOutput").inputs[0])
script.filepath = "//shaders/teal.osl"
shine, out, node = (nodes.new("ShaderNode" + kind) for kind in ("Emission", "OutputMaterial", "Group"))
node.node_tree = group
links.new(node.outputs[0], shine.inputs[0])
links.new(shine.outputs[0], out.inputs["Surface"])
bpy.ops.mesh.primitive_plane_add(size=9)
bpy.context.object.data.materials.append(material)
bpy.ops.object.camera_add(location=(0, 0, 5))
scene.camera = bpy.context.object
bpy.ops.wm.save_as_mainfile(filepath=folder + "/scene.blend", relative_remap=False)
os.remove(folder + "/shaders/teal.oso")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.blender
def test_a_shader_script_is_compiled_although_its_folder_is_read_only(
    tmp_path: Path, package: Package, bpy_python: Path
) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    subprocess.run([bpy_python, "-c", MAKE, scenes], check=True, capture_output=True)
    harness = BlenderHarness(tmp_path, package, scenes)
    try:
        blender = harness.start("scene")
        blender.open_scene()
        assert harness.opened().warnings == ()
        blender.render(1)
        [picture] = harness.saved().directory.glob("*.png")
        with Image.open(picture) as image:
            assert image.convert("RGB").getpixel((8, 8)) == (0, 128, 128)
    finally:
        for blender in harness.blenders:
            blender.kill()
