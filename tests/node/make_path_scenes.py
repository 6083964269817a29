"""Scenes that show one flat colour, found by a path: `python make_path_scenes.py DIR`, with bpy.

Red, green and blue textures fill the picture, so that its pixels tell which file was found; magenta is
Blender's sign for none. The scenes are made as if their folder were `C:\\proj`, `\\\\server\\share\\proj` or
`/etc/proj`.
"""

import os
import sys

import bpy

COLOURS = {"red": (1, 0, 0, 1), "green": (0, 1, 0, 1), "blue": (0, 0, 1, 1)}
PLACES = {"drive": "C:\\proj\\", "unc": "\\\\server\\share\\proj\\", "moved": "/etc/proj/"}


def picture(path, colour):
    image = bpy.data.images.new("x", 4, 4)
    image.pixels = list(COLOURS[colour]) * 16
    image.filepath_raw, image.file_format = path, "PNG"
    image.save()
    bpy.data.images.remove(image)


def fresh():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.cycles.use_denoising = False
    scene.render.dither_intensity = 0
    scene.render.resolution_x = scene.render.resolution_y = 16
    scene.view_settings.view_transform = "Standard"
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location = (0, 0, 5)
    scene.collection.objects.link(camera)
    scene.camera = camera
    return scene


def wall(stored, real, source="FILE"):
    """A plane that fills the picture with an image whose stored path is `stored`."""
    mesh = bpy.data.meshes.new("Wall")
    mesh.from_pydata([(-9, -9, 0), (9, -9, 0), (9, 9, 0), (-9, 9, 0)], [], [(0, 1, 2, 3)])
    layer = mesh.uv_layers.new()
    for corner, uv in zip(layer.data, ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)), strict=True):
        corner.uv = uv
    material = bpy.data.materials.new("Wall")
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    texture = tree.nodes.new("ShaderNodeTexImage")
    emission = tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    texture.image = bpy.data.images.load(real)
    texture.image.source = source
    texture.image.filepath = stored
    if source == "SEQUENCE":
        texture.image_user.frame_duration = 3
        texture.image_user.use_auto_refresh = True
    tree.links.new(texture.outputs[0], emission.inputs[0])
    tree.links.new(emission.outputs[0], output.inputs[0])
    mesh.materials.append(material)
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("Wall", mesh))


def link(real, stored, name="Wall"):
    """Link an object from a library whose stored path is `stored`."""
    with bpy.data.libraries.load(real, link=True) as (_, into):
        into.objects = [name]
    bpy.context.scene.collection.objects.link(into.objects[0])
    library = next(
        lib for lib in bpy.data.libraries if os.path.samefile(bpy.path.abspath(lib.filepath), real)
    )
    library.filepath = stored


def save(path):
    bpy.ops.wm.save_as_mainfile(filepath=path, relative_remap=False, compress=False)


def nested(folder, name, inner, outer, texture):
    """`<name>_nested.blend` links the wall of `<name>_outer.blend`, whose mesh is of `<name>_inner.blend`."""
    fresh()
    wall(texture, f"{folder}/tex/green.png")
    save(f"{folder}/lib/{name}_inner.blend")
    fresh()
    with bpy.data.libraries.load(f"{folder}/lib/{name}_inner.blend", link=True) as (_, into):
        into.meshes = ["Wall"]
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("Wall", into.meshes[0]))
    save(f"{folder}/lib/{name}_outer.blend")
    fresh()
    link(f"{folder}/lib/{name}_outer.blend", outer)
    save(f"{folder}/{name}_nested.blend")
    bpy.ops.wm.open_mainfile(filepath=f"{folder}/lib/{name}_outer.blend")
    bpy.data.libraries[0].filepath = inner
    save(f"{folder}/lib/{name}_outer.blend")


def main(folder):
    bpy.context.preferences.filepaths.save_version = 0
    for name in ("tex", "lib", "row", "tiles"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
    for colour in COLOURS:
        picture(f"{folder}/tex/{colour}.png", colour)
    for number, colour in enumerate(COLOURS, 1):
        picture(f"{folder}/row/row_{number:04}.png", colour)
    picture(f"{folder}/tiles/skin.1001.png", "blue")

    for name, place in PLACES.items():
        fresh()
        wall(place + ("tex/red.png" if name == "moved" else "tex\\red.png"), f"{folder}/tex/red.png")
        save(f"{folder}/{name}_absolute.blend")
        libraries = place + ("lib/" if name == "moved" else "lib\\")
        nested(
            folder, name, f"{libraries}{name}_inner.blend", f"{libraries}{name}_outer.blend",
            place + ("tex/green.png" if name == "moved" else "tex\\green.png"),
        )  # fmt: skip

    fresh()
    wall("//..\\proj\\tex\\blue.png", f"{folder}/tex/blue.png")
    save(f"{folder}/relative.blend")
    fresh()
    wall("//TEX/Blue.PNG", f"{folder}/tex/blue.png")
    save(f"{folder}/case.blend")
    nested(folder, "cased", "//CASED_inner.blend", "//LIB\\Cased_Outer.blend", "//..\\Tex\\green.png")
    fresh()
    wall("//row\\row_0001.png", f"{folder}/row/row_0001.png", "SEQUENCE")
    save(f"{folder}/row.blend")
    fresh()
    wall("//Tiles\\skin.<UDIM>.png", f"{folder}/tiles/skin.1001.png", "TILED")
    save(f"{folder}/tiles.blend")


main(os.path.abspath(sys.argv[1]))
sys.stdout.flush()
os._exit(0)
