"""Script for a Python with bpy: `make_traced_scenes.py FOLDER` writes a scene for each kind of path, and its
files."""

import os
import sys
from pathlib import Path

import bpy

folder = Path(sys.argv[1])
scene = None


def touch(*names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def begin():
    global scene
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene


def save(name):
    bpy.context.preferences.filepaths.save_version = 0
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / name), relative_remap=False)


def image(stored, source="FILE", name=None):
    found = bpy.data.images.new(name or stored.rpartition("/")[2], 4, 4)
    found.source, found.filepath, found.use_fake_user = source, stored, True
    return found


def item(name="Item"):
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata([(0, 0, 0), (1, 0, 0), (1, 1, 0)], [], [(0, 1, 2)])
    found = bpy.data.objects.new(name, mesh)
    scene.collection.objects.link(found)
    return found


def strips_of(one):
    editor = one.sequence_editor_create()
    return editor.strips if hasattr(editor, "strips") else editor.sequences


# ------------------------------------------------------------------------- images and movies
begin()
touch("tex/plain.png", "seq/frame_0001_left.png", "seq/frame_0002_left.png", "seq/other_left.png")
touch("tiles/skin.1001.png", "tiles/skin.1002.png", "tiles/uv_u1_v1.png", "tex/größe 1.png")
image("//tex/plain.png")
image("//tex/größe 1.png")
image("//seq/frame_0001_left.png", "SEQUENCE")
image("//tiles/skin.<UDIM>.png", "TILED")
image("//tiles/uv_<UVTILE>.png", "TILED")
image("//tex/gone.png")
image("//tex/../tex/gone.png", name="again")
bpy.data.images.new("generated", 4, 4).use_fake_user = True
packed = bpy.data.images.new("packed", 4, 4)
packed.pack()
packed.filepath, packed.use_fake_user = "//tex/packed.png", True
save("images.blend")

begin()
touch("clips/plate.mp4")
for number in (1, 2):  # Blender looks at the content to tell a sequence from a movie
    real = bpy.data.images.new("real", 4, 4)
    real.filepath_raw, real.file_format = str(folder / f"clips/take 7 000{number}.png"), "PNG"
    real.save()
save("clips.blend")  # it looks again when the path changes
for stored in ("clips/plate.mp4", "clips/take 7 0001.png"):
    clip = bpy.data.movieclips.load(str(folder / stored))
    clip.filepath, clip.use_fake_user = "//" + stored, True
save("clips.blend")

begin()
touch("sound/wind.wav", "fonts/Serif Bold.otf")
sound = bpy.data.sounds.load(str(folder / "sound/wind.wav"))
sound.filepath, sound.use_fake_user = "//sound/wind.wav", True
font = next(Path(bpy.utils.resource_path("LOCAL")).glob("datafiles/fonts/*.woff2"), None)
(folder / "fonts/Serif Bold.otf").write_bytes(font.read_bytes())
bold = bpy.data.fonts.load(str(folder / "fonts/Serif Bold.otf"))
bold.filepath, bold.use_fake_user = "//fonts/Serif Bold.otf", True
scene.collection.objects.link(bpy.data.objects.new("Text", bpy.data.curves.new("Text", "FONT")))
bpy.data.texts.new("notes").filepath = "//no longer there.txt"
save("sounds.blend")

# ------------------------------------------------------------------------------- libraries
begin()
touch("lib/deep/wood.png", "lib/unused.png")
textured = item("Chair")
material = bpy.data.materials.new("Wood")
material.use_nodes = True
material.node_tree.nodes.new("ShaderNodeTexImage").image = image("//deep/wood.png")
bpy.data.images["wood.png"].use_fake_user = False
textured.data.materials.append(material)
other = bpy.data.materials.new("Unused")
other.use_nodes, other.use_fake_user = True, True
other.node_tree.nodes.new("ShaderNodeTexImage").image = image("//unused.png")
save("lib/inner.blend")


def link(path, kind, name):
    with bpy.data.libraries.load(str(folder / path), link=True) as (_, into):
        setattr(into, kind, [name])
    return getattr(into, kind)[0]


def relative(start):
    for library in bpy.data.libraries:
        library.filepath = "//" + os.path.relpath(bpy.path.abspath(library.filepath), folder / start)


begin()
group = bpy.data.collections.new("Room")
group.use_fake_user = True
group.objects.link(link("lib/inner.blend", "objects", "Chair"))
relative("lib")
save("lib/outer.blend")

begin()
empty = bpy.data.objects.new("Room", None)
empty.instance_type, empty.instance_collection = "COLLECTION", link("lib/outer.blend", "collections", "Room")
scene.collection.objects.link(empty)
relative(".")
save("libraries.blend")
bpy.ops.file.pack_libraries()
save("packed.blend")

# ----------------------------------------------------------------------- volumes and caches
begin()
touch("vdb/fog_0001.vdb", "vdb/fog_0002.vdb", "vdb/one.vdb", "abc/base.abc", "abc/fix.abc", "abc/hidden.abc")
for stored, sequence in (("//vdb/fog_0001.vdb", True), ("//vdb/one.vdb", False)):
    volume = bpy.data.volumes.new(stored)
    volume.filepath, volume.is_sequence, volume.use_fake_user = stored, sequence, True
(folder / "usd").mkdir()
(folder / "usd/shot.usda").write_text(
    "#usda 1.0\n(\n    subLayers = [@./layout.usda@]\n)\n# @./comment.usda@\n"
    'def "A" (clips = {dictionary default = {string templateAssetPath = "./clips/c.###.usd"}}) {}\n'
)
(folder / "usd/layout.usda").write_text(
    '#usda 1.0\ndef "A" (payload = @./deep/part.usda@</A>) {\n asset t = @../tex/usd.<UDIM>.png@\n}\n'
)
touch(
    "usd/deep/part.usda", "usd/clips/c.001.usd", "usd/clips/c.002.usd", "tex/usd.1001.png", "usd/comment.usda"
)
for stored in ("abc/base.abc", "usd/shot.usda"):
    bpy.ops.cachefile.open(filepath=str(folder / stored))
    cache = bpy.data.cache_files[-1] if len(bpy.data.cache_files) == 1 else bpy.data.cache_files["shot.usda"]
    cache.filepath, cache.use_fake_user = "//" + stored, True
    if stored.endswith(".abc"):
        cache.layers.new("//abc/fix.abc")
        cache.layers.new("//abc/hidden.abc").hide_layer = True
        cache.layers.new("//abc/gone.abc")
save("caches.blend")

# -------------------------------------------------------------------------------- modifiers
begin()
touch("mdd/walk.mdd", "sea/disp_0001.exr", "sea/foam_0001.exr", "sea/notes.txt")
walking = item()
walking.modifiers.new("Walk", "MESH_CACHE").filepath = "//mdd/walk.mdd"
walking.modifiers.new("Lost", "MESH_CACHE").filepath = "//mdd/lost.mdd"
waves = item("Sea").modifiers.new("Waves", "OCEAN")
waves.filepath = "//sea"
item("Dry").modifiers.new("Unbaked", "OCEAN").filepath = "//never"
save("modifiers.blend")

begin()
touch("multires/body.btx")
body = item("Body")
bpy.context.view_layer.objects.active = body
body.select_set(True)
body.modifiers.new("Multires", "MULTIRES")
bpy.ops.object.multires_subdivide(modifier="Multires")
bpy.ops.object.multires_external_save(filepath=str(folder / "multires/body.btx"), modifier="Multires")
body.modifiers["Multires"].filepath = "//multires/body.btx"
save("multires.blend")

begin()
fluid = item("Tank").modifiers.new("Fluid", "FLUID")
fluid.fluid_type = "DOMAIN"
fluid.domain_settings.cache_directory = "//tank cache"
touch("tank cache/config/config_0001.uni", "tank cache/data/fluid_data_0001.vdb")
dry = item("Dry").modifiers.new("Fluid", "FLUID")
dry.fluid_type = "DOMAIN"
dry.domain_settings.cache_directory = "//never"
save("fluid.blend")

# ----------------------------------------------------------------------------- point caches
begin()
scene.frame_end = 2
save("shot 07.blend")  # without a name there is no cache on disk


def cached(cache, name, disk=True):
    cache.name, cache.frame_start, cache.frame_end, cache.use_disk_cache = name, 1, 2, disk


cached(item("Flag").modifiers.new("Cloth", "CLOTH").point_cache, "flag")
cached(item("Jelly").modifiers.new("Soft", "SOFT_BODY").point_cache, "jelly")
cached(item("In memory").modifiers.new("Cloth", "CLOTH").point_cache, "memory", disk=False)
cached(item("Ünnamed").modifiers.new("Cloth", "CLOTH").point_cache, "")
outside = item("Outside").modifiers.new("Cloth", "CLOTH").point_cache
outside.use_external, outside.filepath, outside.name = True, "//elsewhere/", "sail"
emitter = item("Emitter")
emitter.modifiers.new("Dust", "PARTICLE_SYSTEM")
cached(emitter.particle_systems[0].point_cache, "dust")
save("shot 07.blend")
unnamed = "Ünnamed".encode().hex().upper()
for name in ("flag", "jelly", "memory", unnamed, "dust", "stale"):
    touch(f"blendcache_shot 07/{name}_000001_00.bphys")
touch("elsewhere/sail_000001_00.bphys", "elsewhere/other_000001_00.bphys")

# -------------------------------------------------------------------- geometry nodes and shaders
begin()
group = bpy.data.node_groups.new("Sim", "GeometryNodeTree")
group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
first, last = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
before, after = (
    group.nodes.new("GeometryNodeSimulationInput"),
    group.nodes.new("GeometryNodeSimulationOutput"),
)
before.pair_with_output(after)
group.links.new(first.outputs[0], before.inputs["Geometry"])
group.links.new(before.outputs["Geometry"], after.inputs["Geometry"])
group.links.new(after.outputs["Geometry"], last.inputs[0])
for name, shared, own in (("Shared", "//bakes/shared", ""), ("Own", "", "//bakes/own"), ("None", "", "")):
    modifier = item(name).modifiers.new("Sim", "NODES")
    modifier.node_group = group
    bpy.context.view_layer.update()
    modifier.bake_directory = shared
    if hasattr(modifier, "bake_target"):
        modifier.bake_target = "DISK"
    bake = modifier.bakes[0]
    if own:
        bake.use_custom_path, bake.directory = True, own
touch(f"bakes/shared/{bake.bake_id}/meta/0001.json", f"bakes/shared/{bake.bake_id}/blobs/a.blob")
touch("bakes/own/meta/0001.json", "bakes/stale.json")
save("bakes.blend")

begin()
touch("nodes/lamp.ies", "nodes/spot.ies", "nodes/lib/noise.h", "nodes/lib/deeper.h")
(folder / "nodes/stripes.osl").write_text('#include "lib/noise.h.osl"\n#include <stdosl.h>\nshader s() {}\n')
(folder / "nodes/lib/noise.h.osl").write_text('  # include "deeper.h"\n')
material = bpy.data.materials.new("Glow")
material.use_nodes, material.use_fake_user = True, True
world = bpy.data.worlds.new("World")
world.use_nodes, world.use_fake_user = True, True
inner = bpy.data.node_groups.new("Profile", "ShaderNodeTree")
inner.use_fake_user = True
for tree, stored in ((inner, "//nodes/spot.ies"), (world.node_tree, "//nodes/lamp.ies")):
    node = tree.nodes.new("ShaderNodeTexIES")
    node.mode, node.filepath = "EXTERNAL", stored
unused = inner.nodes.new("ShaderNodeTexIES")
unused.mode, unused.filepath = "EXTERNAL", "//nodes/internal.ies"
unused.mode = "INTERNAL"
node = material.node_tree.nodes.new("ShaderNodeScript")
node.name, node.mode, node.filepath = "Stripes", "EXTERNAL", "//nodes/stripes.osl"
node = material.node_tree.nodes.new("ShaderNodeScript")
node.name, node.mode, node.filepath = "Lost", "EXTERNAL", "//nodes/lost.oso"
save("nodes.blend")

if hasattr(bpy.types, "GeometryNodeImportOBJ"):
    begin()
    touch("models/a.stl", "models/linked.ply", "models/input.csv", "models/wall.png")
    (folder / "models/b.obj").write_text("mtllib b.mtl\nv 0 0 0\n")
    (folder / "models/b.mtl").write_text("newmtl x\nmap_Kd -s 1 1 1 wall.png\n")
    group = bpy.data.node_groups.new("Read", "GeometryNodeTree")
    group.interface.new_socket("File", in_out="INPUT", socket_type="NodeSocketString")
    for kind, stored in (("STL", "//models/a.stl"), ("OBJ", "//models/b.obj"), ("STL", "//models/gone.stl")):
        group.nodes.new("GeometryNodeImport" + kind).inputs["Path"].default_value = stored
    text = group.nodes.new("FunctionNodeInputString")
    text.string = "//models/linked.ply"
    node = group.nodes.new("GeometryNodeImportPLY")
    node.inputs["Path"].default_value = "//models/no longer used.ply"
    group.links.new(text.outputs[0], node.inputs["Path"])
    modifier = item().modifiers.new("Read", "NODES")
    modifier.node_group = group
    try:
        modifier[group.interface.items_tree[0].identifier] = "//models/input.csv"
    except TypeError:  # 5.2
        (folder / "models/input.csv").unlink()
    save("imports.blend")

begin()
camera = bpy.data.cameras.new("Fish")
camera.use_fake_user = True
if hasattr(camera, "custom_filepath"):
    camera.type, camera.custom_mode, camera.custom_filepath = "CUSTOM", "EXTERNAL", "//nodes/lens.osl"
    save("camera.blend")

# ----------------------------------------------------------------------------------- strips
begin()
touch("stills/dawn.png", "stills/noon.png", "beside.png", "cut/a.mp4", "stills/eye_L.png", "stills/eye_R.png")
strips = strips_of(scene)
strip = strips.new_image("Stills", str(folder / "stills/dawn.png"), 1, 1)
strip.elements.append("noon.png")
strip.elements.append("gone at last.png")
strip.directory = "//stills/"
strips.new_image("Beside", str(folder / "beside.png"), 2, 1).directory = "//"
strips.new_image("Eyes", str(folder / "stills/eye_L.png"), 3, 1).directory = "//stills"
meta = strips.new_meta("Meta", 4, 1)
within = meta.strips if hasattr(meta, "strips") else meta.sequences
within.new_image("Inside", str(folder / "stills/noon.png"), 1, 1).directory = "//stills/"
cut = bpy.data.scenes.new("Cut")
strips_of(cut).new_image("Title", str(folder / "cut/a.mp4"), 1, 1).directory = "//cut"
save("strips.blend")
sys.stdout.flush()
os._exit(0)
