"""Run by Blender's Python: `python scenes_to_read.py FOLDER` writes scenes for tests of the scene reader."""

import os
import sys

import bpy

folder = os.path.abspath(sys.argv[1])
os.makedirs(os.path.join(folder, "tex"), exist_ok=True)

FORMATS = """
    BMP IRIS PNG JPEG JPEG2000 TARGA TARGA_RAW CINEON DPX OPEN_EXR OPEN_EXR_MULTILAYER HDR TIFF WEBP FFMPEG
"""
UNBAKED = "rigid passive cloth off soft particles still hair moving fluid paint nodes"


def empty():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy.context.scene


def save(name, **options):
    bpy.ops.wm.save_as_mainfile(
        filepath=os.path.join(folder, name), relative_remap=False, **{"compress": False, **options}
    )


def picture(name, pack=False):
    image = bpy.data.images.new(name, 8, 8)
    image.filepath_raw = os.path.join(folder, "tex", name + ".png")
    image.file_format = "PNG"
    image.save()
    bpy.data.images.remove(image)
    image = bpy.data.images.load(os.path.join(folder, "tex", name + ".png"))
    if pack:
        image.pack()
    image.filepath = "//tex/" + name + ".png"
    image.use_fake_user = True
    return image


def camera(scene, name):
    item = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    scene.collection.objects.link(item)
    return item


def cube(name):
    bpy.ops.mesh.primitive_cube_add()
    bpy.context.object.name = name
    return bpy.context.object


def scenes():
    scene = empty()
    scene.name = "Shot"
    scene.frame_start, scene.frame_end, scene.frame_step = 5, 29, 3
    scene.frame_current = 7
    scene.use_nodes = True
    scene.render.fps, scene.render.fps_base = 30, 1.001
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 33
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 320, 180, 50
    scene.render.image_settings.file_format = "OPEN_EXR"
    camera(scene, "Side")
    scene.camera = camera(scene, "Main")
    scene.view_layers.new("Glow")
    shut = bpy.data.collections.new("Shut")
    scene.collection.children.link(shut)
    shut.objects.link(bpy.data.objects.new("Hidden", bpy.data.cameras.new("Hidden")))
    for layer in scene.view_layers:
        layer.layer_collection.children["Shut"].exclude = True
    other = bpy.data.scenes.new("Ämter")
    other.render.engine = "BLENDER_EEVEE_NEXT"
    other.eevee.taa_render_samples = 7
    other.render.image_settings.file_format = "FFMPEG"
    save("scenes.blend")
    save("compressed.blend", compress=True)


def dependencies():
    scene = empty()
    mesh = bpy.data.meshes.new("Shape")
    mesh.use_fake_user = True
    save("library.blend")
    scene = empty()
    with bpy.data.libraries.load(os.path.join(folder, "library.blend"), link=True) as (_, wanted):
        wanted.meshes = ["Shape"]
    scene.collection.objects.link(bpy.data.objects.new("Linked", bpy.data.meshes["Shape"]))
    bpy.data.libraries[0].filepath = "//library.blend"
    picture("wood")
    picture("packed", pack=True)
    sequence = picture("wave_001")
    sequence.source = "SEQUENCE"
    tiles = picture("skin.1001")
    tiles.source = "TILED"
    tiles.filepath = "//tex/skin.<UDIM>.png"
    generated = bpy.data.images.new("generated", 8, 8)
    generated.use_fake_user = True
    windows = bpy.data.images.new("windows", 8, 8)
    windows.source = "FILE"
    windows.filepath = "C:\\textures\\brick.png"
    windows.use_fake_user = True
    volume = bpy.data.volumes.new("Smoke")
    volume.filepath = "//smoke.vdb"
    volume.use_fake_user = True
    scene.sequence_editor_create()
    strips = scene.sequence_editor.sequences
    strips.new_image("Strip", os.path.join(folder, "tex", "wood.png"), channel=1, frame_start=1)
    save("dependencies.blend")


def formats():
    first = empty()
    for name in FORMATS.split():
        scene = bpy.data.scenes.new(name)
        scene.render.image_settings.file_format = name
    bpy.data.scenes.remove(first)
    save("formats.blend")


def new_scene(name):
    scene = bpy.data.scenes.new(name)
    bpy.context.window.scene = scene
    scene.camera = camera(scene, "camera of " + name)
    scene.frame_end = 5
    return scene


def simulated(name, baked):
    scene = new_scene(name)
    if name.startswith("rigid"):
        bpy.ops.rigidbody.world_add()
        item = cube(name)
        bpy.ops.rigidbody.object_add()
        scene.rigidbody_world.point_cache.frame_end = 5
    elif name.startswith("passive"):
        bpy.ops.rigidbody.world_add()
        item = cube(name)
        bpy.ops.rigidbody.object_add()
        item.rigid_body.type = "PASSIVE"
    elif name.startswith(("cloth", "off")):
        item = cube(name)
        modifier = item.modifiers.new("m", "CLOTH")
        modifier.point_cache.frame_end = 5
        modifier.show_render = not name.startswith("off")
    elif name.startswith("soft"):
        item = cube(name)
        item.modifiers.new("m", "SOFT_BODY").point_cache.frame_end = 5
    elif name.startswith(("particles", "still", "hair", "moving")):
        item = cube(name)
        item.modifiers.new("m", "PARTICLE_SYSTEM")
        system = item.particle_systems[0]
        system.point_cache.frame_end = 5
        if name.startswith("still"):
            system.settings.physics_type = "NO"
        if name.startswith(("hair", "moving")):
            system.settings.type = "HAIR"
        system.use_hair_dynamics = name.startswith("moving")
    elif name.startswith("fluid"):
        item = cube(name)
        item.modifiers.new("m", "FLUID").fluid_type = "DOMAIN"
        flow = cube("flow " + name)
        flow.modifiers.new("m", "FLUID").fluid_type = "FLOW"
    elif name.startswith("paint"):
        item = cube(name)
        item.modifiers.new("m", "DYNAMIC_PAINT")
        bpy.ops.dpaint.type_toggle(type="CANVAS")
        item.modifiers["m"].canvas_settings.canvas_surfaces[0].surface_format = "VERTEX"
    elif name.startswith("nodes"):
        item = cube(name)
        inner = bpy.data.node_groups.new("inner", "GeometryNodeTree")
        entry = inner.nodes.new("GeometryNodeSimulationInput")
        entry.pair_with_output(inner.nodes.new("GeometryNodeSimulationOutput"))
        outer = bpy.data.node_groups.new("outer", "GeometryNodeTree")
        outer.nodes.new("GeometryNodeGroup").node_tree = inner
        item.modifiers.new("m", "NODES").node_group = outer
    if baked:
        bpy.ops.ptcache.bake_all(bake=True)


def simulations():
    first = empty()
    for name in UNBAKED.split():
        simulated(name, baked=False)
    for name in ("rigid baked", "cloth baked", "soft baked", "particles baked"):
        simulated(name, baked=True)
    bpy.data.scenes.remove(first)
    save("simulations.blend")


def without_camera():
    """Scenes without a camera: `none` needs one, the others have a picture from elsewhere."""
    first = empty()
    none = bpy.data.scenes.new("none")
    camera(none, "not chosen")
    marked = bpy.data.scenes.new("marked")
    marked.timeline_markers.new("cut", frame=1).camera = camera(marked, "cut to")
    cut = bpy.data.scenes.new("cut")
    cut.sequence_editor_create().sequences.new_scene("none", none, 1, 1)
    composed = bpy.data.scenes.new("composed")
    composed.use_nodes = True
    for scene, engine in ((none, "CYCLES"), (marked, "BLENDER_EEVEE_NEXT"), (cut, "CYCLES")):
        scene.render.engine = engine
    bpy.data.scenes.remove(first)
    save("without_camera.blend")


scenes()
without_camera()
dependencies()
formats()
simulations()
sys.stdout.flush()
os._exit(0)
