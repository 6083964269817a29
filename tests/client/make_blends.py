"""Run by a Python with bpy: `make_blends.py FOLDER` writes shot.blend, which needs files in every way."""

import os
import sys
from pathlib import Path

import bpy

folder = Path(sys.argv[1])
(folder / "textures").mkdir()
(folder / "libraries").mkdir()


def picture(name):
    path = folder / "textures" / name
    made = bpy.data.images.new(name, 4, 4)
    made.filepath_raw, made.file_format = str(path), "PNG"
    made.save()
    bpy.data.images.remove(made)
    return path


def shown(name, source="FILE", path=None):
    """An object whose material shows the picture."""
    made = bpy.data.images.load(str(path or picture(name)))
    made.source = source
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    material.node_tree.nodes.new("ShaderNodeTexImage").image = made
    mesh = bpy.data.meshes.new(name)
    mesh.materials.append(material)
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    return made


def save(path):
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    bpy.ops.file.make_paths_relative()
    bpy.ops.wm.save_as_mainfile(filepath=str(path))


def link(path, name):
    with bpy.data.libraries.load(str(path), link=True, relative=True) as (_, into):
        into.objects = [name]
    bpy.context.scene.collection.objects.link(into.objects[0])


bpy.context.preferences.filepaths.save_version = 0
bpy.ops.wm.read_factory_settings(use_empty=True)
shown("deep.png")
save(folder / "libraries" / "inner.blend")

bpy.ops.wm.read_factory_settings(use_empty=True)
link(folder / "libraries" / "inner.blend", "deep.png")
shown("middle.png")
bpy.data.objects["middle.png"].parent = bpy.data.objects["deep.png"]
bpy.data.objects["middle.png"].data.materials.append(bpy.data.materials["deep.png"])
save(folder / "libraries" / "outer.blend")

bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.name = "Shot"
scene.frame_start, scene.frame_end, scene.frame_step = 5, 20, 5
bpy.data.scenes.new("Still").frame_end = 1
link(folder / "libraries" / "outer.blend", "middle.png")
shown("plain.png")
shown("packed.png").pack()
for number in (9, 10, 11):
    picture(f"sea_{number:03}.png")
(folder / "textures" / "sea_old.png").write_bytes(b"not of the sequence")
shown("sea", "SEQUENCE", folder / "textures" / "sea_009.png")
for tile in (1001, 1002, 1011):
    picture(f"skin.{tile}.png")
shown("skin", "TILED", folder / "textures" / "skin.1001.png").filepath = str(
    folder / "textures" / "skin.<UDIM>.png"
)
shown("gone.png")
save(folder / "shot.blend")
(folder / "textures" / "gone.png").unlink()
(folder / "textures" / "packed.png").unlink()
sys.stdout.flush()
os._exit(0)
