"""Makes scenes with unbaked simulations, and pictures of plain Blender: `python make_simulations.py DIR`.

Beside `<name>.blend` lies `<name>/<frame>.png` for each frame: Blender has played the file from its first
frame to its last, and rendered then.
"""

import math
import os
import sys

import bpy

FRAMES = 8


def begin(first=1):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    settings(scene)
    scene.frame_start, scene.frame_end = first, FRAMES
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location, camera.rotation_euler = (0, -6, 0), (math.pi / 2, 0, 0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 4
    scene.collection.objects.link(camera)
    scene.camera = camera
    return scene


def settings(scene):
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.cycles.use_denoising = scene.cycles.use_adaptive_sampling = False
    scene.render.resolution_x = scene.render.resolution_y = 64
    scene.view_settings.view_transform = "Raw"
    scene.render.image_settings.file_format = "PNG"


def by_place():
    """A material whose colour is the place in the scene: a picture shows whether anything is elsewhere."""
    material = bpy.data.materials.new("Place")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    place, scaled = nodes.new("ShaderNodeNewGeometry"), nodes.new("ShaderNodeVectorMath")
    shine, out = nodes.new("ShaderNodeEmission"), nodes.new("ShaderNodeOutputMaterial")
    scaled.operation = "MULTIPLY_ADD"
    scaled.inputs[1].default_value, scaled.inputs[2].default_value = (0.25,) * 3, (0.5,) * 3
    links.new(place.outputs["Position"], scaled.inputs[0])
    links.new(scaled.outputs[0], shine.inputs["Color"])
    links.new(shine.outputs[0], out.inputs["Surface"])
    return material


def grid(name, x, z):
    bpy.ops.mesh.primitive_grid_add(
        x_subdivisions=6, y_subdivisions=6, size=0.9, location=(x, 0, z), rotation=(0.9, 0.3, 0)
    )
    item = bpy.context.object
    item.name = name
    item.data.materials.append(by_place())
    return item


def cloth(name, x, z):
    item = grid(name, x, z)
    cache = item.modifiers.new("Cloth", "CLOTH").point_cache
    cache.frame_start, cache.frame_end = 1, FRAMES
    return item


def soft_body(name, x, z):
    item = grid(name, x, z)
    modifier = item.modifiers.new("Soft", "SOFT_BODY")
    modifier.settings.use_goal = False
    modifier.point_cache.frame_end = FRAMES


def rigid_bodies(scene, x, z):
    bpy.ops.mesh.primitive_cube_add(size=0.5, location=(x, 0, z), rotation=(0.3, 0.2, 0.1))
    box = bpy.context.object
    box.name = "Box"
    box.data.materials.append(by_place())
    bpy.ops.rigidbody.world_add()
    world = scene.rigidbody_world
    world.collection = bpy.data.collections.new("Bodies")
    world.collection.objects.link(box)
    world.point_cache.frame_start, world.point_cache.frame_end = 1, FRAMES


def group(name):
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    return tree, tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")


def simulation_zone(name, x, z):
    """A simulation zone in a group in the modifier's group."""
    inner, entry, end = group("Drift")
    first, last = (inner.nodes.new(f"GeometryNodeSimulation{side}") for side in ("Input", "Output"))
    first.pair_with_output(last)
    move = inner.nodes.new("GeometryNodeSetPosition")
    move.inputs["Offset"].default_value = (0.03, 0, -0.06)
    for source, target in (
        (entry.outputs[0], first.inputs[0]), (first.outputs["Geometry"], move.inputs[0]),
        (move.outputs[0], last.inputs["Geometry"]), (last.outputs["Geometry"], end.inputs[0]),
    ):  # fmt: skip
        inner.links.new(source, target)
    outer, entry, end = group("Outer")
    node = outer.nodes.new("GeometryNodeGroup")
    node.node_tree = inner
    outer.links.new(entry.outputs[0], node.inputs[0])
    outer.links.new(node.outputs[0], end.inputs[0])
    item = grid(name, x, z)
    modifier = item.modifiers.new("Nodes", "NODES")
    modifier.node_group = outer
    return item, modifier


def baked_zone(folder):
    """A bake of a simulation zone in a folder."""
    begin()
    item, modifier = simulation_zone("Zone", 0, 0.5)
    save(folder, "zone")
    modifier.bake_directory = "//zone bake"
    if hasattr(modifier, "bake_target"):
        modifier.bake_target = "DISK"
    bpy.context.view_layer.objects.active = item
    bpy.ops.object.simulation_nodes_cache_bake()
    save(folder, "zone")


def hair(name, x, z):
    item = grid(name, x, z)
    system = item.modifiers.new("Hair", "PARTICLE_SYSTEM").particle_system
    system.settings.type, system.settings.count, system.settings.hair_length = "HAIR", 20, 1.0
    system.settings.root_radius = system.settings.tip_radius = 8
    system.use_hair_dynamics = True


def particles(name, x, z):
    item = grid(name, x, z)
    system = item.modifiers.new("Snow", "PARTICLE_SYSTEM").particle_system
    system.settings.frame_end = 4
    system.point_cache.frame_end = FRAMES


def save(folder, name):
    bpy.context.preferences.filepaths.save_version = 0
    path = f"{folder}/{name}.blend"
    bpy.ops.wm.save_as_mainfile(filepath=path, relative_remap=False, compress=False)
    return path


def play(folder, name):
    """The pictures of plain Blender."""
    bpy.ops.wm.open_mainfile(filepath=f"{folder}/{name}.blend")
    scene = bpy.context.scene
    frames = range(scene.frame_start, FRAMES + 1)
    for frame in frames:
        scene.frame_set(frame)
    for frame in frames:
        scene.frame_start = scene.frame_end = frame
        scene.render.filepath = f"{folder}/{name}/####"
        bpy.ops.render.render(animation=True, scene=scene.name)


def linked(folder):
    """Soft cloth in a library: an instance of its collection, which the farm sees only as the file opens."""
    scene = begin()
    asset = bpy.data.collections.new("Asset")
    item = cloth("Flag", -1.2, -0.6)
    scene.collection.objects.unlink(item)
    asset.objects.link(item)
    scene.collection.children.link(asset)
    return save(folder, "flag")


def instance(scene, path):
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.collections = ["Asset"]
    bpy.data.libraries[0].filepath = "//" + os.path.basename(path)
    place = bpy.data.objects.new("Place", None)
    place.instance_type, place.instance_collection = "COLLECTION", bpy.data.collections["Asset"]
    scene.collection.objects.link(place)


def main(folder):
    flag = linked(folder)
    scene = begin()
    cloth("Sheet", -1.2, 1)
    soft_body("Jelly", -0.2, 1)
    rigid_bodies(scene, 0.6, 1)
    simulation_zone("Zone", 1.2, 0)
    save(folder, "played")
    instance(begin(), flag)
    save(folder, "linked")
    scene = begin()
    hair("Fur", 0, 1)
    save(folder, "fur")
    scene = begin()
    cloth("Sheet", 0, 1)
    scene.render.use_motion_blur = True
    save(folder, "blurred")
    for name in ("played", "linked", "fur", "blurred"):
        play(folder, name)
    baked_zone(folder)
    play(folder, "zone")
    begin()
    particles("Cloud", 0, 1)
    save(folder, "particles")
    begin(first=3)
    cloth("Early", 0, 1)
    save(folder, "early")
    begin()
    cloth("Unseen", 0, 1).hide_viewport = True
    save(folder, "hidden")
    shot = begin()
    shot.name = "Shot"
    cloth("Sheet", 0, 1)
    edit = bpy.data.scenes.new("Edit")
    settings(edit)
    editor = edit.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strips.new_scene(name="Shot", scene=shot, channel=1, frame_start=1)
    bpy.context.window.scene = edit
    save(folder, "edit")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
