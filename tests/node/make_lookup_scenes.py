"""Makes scenes that want files of many kinds, some of which are then taken away. Run with bpy: `FOLDER`."""

import os
import struct
import sys
import zlib

import bpy

OUT = sys.argv[1]


def picture(name):
    path = os.path.join(OUT, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    body = zlib.compress((b"\0" + b"\xff\0\0" * 4) * 4)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def begin():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.render.resolution_x = scene.render.resolution_y = 16
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location = (0, 0, 5)
    scene.collection.objects.link(camera)
    scene.camera = camera
    return scene


def material(name):
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    nodes = made.node_tree.nodes
    nodes.clear()
    shine, out = nodes.new("ShaderNodeEmission"), nodes.new("ShaderNodeOutputMaterial")
    made.node_tree.links.new(shine.outputs[0], out.inputs["Surface"])
    return made, nodes, made.node_tree.links, shine


def square(made, wide=1.0):
    mesh = bpy.data.meshes.new(made.name)
    mesh.from_pydata([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], [], [(0, 1, 2, 3)])
    mesh.uv_layers.new()
    for loop, uv in zip(mesh.uv_layers[0].data, ((0, 0), (wide, 0), (wide, 1), (0, 1)), strict=True):
        loop.uv = uv
    mesh.materials.append(made)
    item = bpy.data.objects.new(made.name, mesh)
    item.location.z = -0.01 * len(bpy.data.objects)
    bpy.context.scene.collection.objects.link(item)
    return item


def textured(name, path, wide=1.0):
    image = bpy.data.images.load(path)
    image.filepath = "//" + os.path.relpath(path, OUT)
    made, nodes, links, shine = material(name)
    texture = nodes.new("ShaderNodeTexImage")
    texture.image = image
    links.new(texture.outputs["Color"], shine.inputs["Color"])
    return image, texture, square(made, wide)


def profile(name, path):
    made, nodes, links, shine = material(name)
    node = nodes.new("ShaderNodeTexIES")
    node.mode, node.filepath = "EXTERNAL", path
    links.new(node.outputs[0], shine.inputs["Strength"])
    square(made)


def save(name):
    bpy.context.preferences.filepaths.save_version = 0
    os.makedirs(os.path.dirname(os.path.join(OUT, name)), exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=os.path.join(OUT, name), relative_remap=False)


begin()
square(material("Appended")[0])
save("origin.blend")
begin()
bpy.ops.wm.append(
    directory=os.path.join(OUT, "origin.blend", "Material", ""), filename="Appended", do_reuse_local_id=True
)
assert bpy.data.materials["Appended"].library_weak_reference is not None
os.remove(os.path.join(OUT, "origin.blend"))
square(bpy.data.materials["Appended"])
textured("Kept", picture("tex/kept.png"))
textured("Wood", picture("tex/wood grain.png"))
for number in (1, 2):
    picture(f"seq/shot_000{number}_beauty.png")
image, texture, _ = textured("Row", os.path.join(OUT, "seq/shot_0001_beauty.png"))
image.source = "SEQUENCE"
texture.image_user.frame_duration, texture.image_user.use_auto_refresh = 2, True
picture("tiles/t.1002.png")
image, _, _ = textured("Tiles", picture("tiles/t.1001.png"), wide=2)
image.source = "TILED"
image.tiles.new(1002)
profile("Lamp", "//ies/lämp one.ies")
profile("Elsewhere", "/elsewhere/spot.ies")
bpy.ops.mesh.primitive_cube_add(size=0.1)
cube = bpy.context.object
for frame in (1, 2):
    cube.location.x = frame
    cube.keyframe_insert("location", frame=frame)
bpy.ops.wm.usd_export(
    filepath=os.path.join(OUT, "inner.usda"), selected_objects_only=True, export_animation=True
)
bpy.data.objects.remove(cube)
with open(os.path.join(OUT, "outer.usda"), "w") as file:
    file.write("#usda 1.0\n(\n  subLayers = [@./inner.usda@, @./gone layer.usda@]\n)\n")
bpy.ops.wm.usd_import(filepath=os.path.join(OUT, "outer.usda"))
for cache in bpy.data.cache_files:
    cache.filepath = "//outer.usda"
# Named and never read, or not of this scene: none of them is missing.
packed = bpy.data.images.load(picture("packed.png"))
packed.pack()
bpy.data.images.new("Made", 4, 4).filepath = "//made.png"
bpy.data.texts.new("Notes").filepath = "//notes.txt"
square(material("Ocean")[0]).modifiers.new("Ocean", "OCEAN")
for name in ("packed.png", "tex/wood grain.png", "seq/shot_0002_beauty.png", "tiles/t.1002.png"):
    os.rename(os.path.join(OUT, name), os.path.join(OUT, name + ".away"))
save("lookups.blend")

begin()
square(material("Prop")[0])
save("4.2/datafiles/assets/shades.blend")
scene = begin()
square(material("Own")[0])
with bpy.data.libraries.load(os.path.join(OUT, "4.2/datafiles/assets/shades.blend"), link=True) as (
    _,
    wanted,
):
    wanted.objects = ["Prop"]
scene.collection.objects.link(bpy.data.objects["Prop"])
editor = scene.sequence_editor_create()
strip = getattr(editor, "strips", getattr(editor, "sequences", None)).new_image(
    "Stills", picture("st/a.png"), 1, 1
)
strip.elements.append("b.png")
scene.render.use_sequencer = False
mesh_cache = bpy.data.objects["Own"].modifiers.new("Points", "MESH_CACHE")
mesh_cache.filepath = "//points.mdd"
save("named.blend")
os.remove(os.path.join(OUT, "4.2/datafiles/assets/shades.blend"))
os.remove(os.path.join(OUT, "st/a.png"))

begin()
square(material("Prop")[0])
save("lib props.blend")
scene = begin()
with bpy.data.libraries.load(os.path.join(OUT, "lib props.blend"), link=True) as (_, wanted):
    wanted.objects = ["Prop"]
scene.collection.objects.link(bpy.data.objects["Prop"])
square(material("Flag")[0]).modifiers.new("Cloth", "CLOTH")
bpy.data.libraries[0].filepath = "//Lib Props.blend"
save("replayed.blend")
