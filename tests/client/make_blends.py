"""Script for a Python with bpy: `make_blends.py FOLDER` writes shot.blend and the files it refers to."""

import os
import sys
from pathlib import Path

import bpy

folder = Path(sys.argv[1])
(folder / "textures").mkdir()
(folder / "libraries").mkdir()


def write_picture(name):
    path = folder / "textures" / name
    image = bpy.data.images.new(name, 4, 4)
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()
    bpy.data.images.remove(image)
    return path


def add_textured_object(name, source="FILE", path=None):
    """Add an object whose material shows the picture; returns the image."""
    image = bpy.data.images.load(str(path or write_picture(name)))
    image.source = source
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    material.node_tree.nodes.new("ShaderNodeTexImage").image = image
    mesh = bpy.data.meshes.new(name)
    mesh.materials.append(material)
    textured = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(textured)
    return image


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
add_textured_object("deep.png")
save(folder / "libraries" / "inner.blend")

bpy.ops.wm.read_factory_settings(use_empty=True)
link(folder / "libraries" / "inner.blend", "deep.png")
add_textured_object("middle.png")
bpy.data.objects["middle.png"].parent = bpy.data.objects["deep.png"]
bpy.data.objects["middle.png"].data.materials.append(bpy.data.materials["deep.png"])
save(folder / "libraries" / "outer.blend")

bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.name = "Shot"
scene.frame_start, scene.frame_end, scene.frame_step = 5, 20, 5
scene.frame_current = 7
bpy.data.scenes.new("Still").frame_end = 1
link(folder / "libraries" / "outer.blend", "middle.png")
add_textured_object("plain.png")
add_textured_object("packed.png").pack()
for number in (9, 10, 11):
    write_picture(f"sea_{number:03}.png")
(folder / "textures" / "sea_old.png").write_bytes(b"not of the sequence")
add_textured_object("sea", "SEQUENCE", folder / "textures" / "sea_009.png")
for tile in (1001, 1002, 1011):
    write_picture(f"skin.{tile}.png")
add_textured_object("skin", "TILED", folder / "textures" / "skin.1001.png").filepath = str(
    folder / "textures" / "skin.<UDIM>.png"
)
add_textured_object("gone.png")
save(folder / "shot.blend")
for library in list(bpy.data.libraries):
    bpy.data.libraries.remove(library)
camera = bpy.data.objects.new("Über: cam", bpy.data.cameras.new("Cam"))
bpy.data.scenes["Still"].collection.objects.link(camera)
save(folder / "no_libraries.blend")
(folder / "textures" / "gone.png").unlink()
(folder / "textures" / "packed.png").unlink()
sys.stdout.flush()
os._exit(0)
