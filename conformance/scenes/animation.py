"""Animation: keys, drivers, NLA, shapes, bones, constraints, time"""

import math

import bpy
import kit
from declarations import scene


@scene(frames="1-3")
def keys_of_materials():
    """Animated values of a material and of a lamp."""
    kit.begin()
    material = kit.principled()
    kit.cube(material)
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    kit.key(shader.inputs["Base Color"], "default_value", {1: (1, 0, 0, 1), 3: (0, 0, 1, 1)})
    kit.key(kit.sun().data, "energy", {1: 1.0, 3: 5.0})


@scene(frames="1-3", quick=True)
def simple_driver():
    """A driver of a simple expression, which needs no script."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.6)
    item.driver_add("location", 0).driver.expression = "frame / 10"


@scene(frames="1-3")
def driver_of_a_property():
    """A driver that follows another object's own property and position."""
    kit.begin()
    lead = bpy.data.objects.new("Lead", None)
    kit.show([lead])
    lead["amount"] = 0.3
    kit.key(lead, "location", {1: (0, 0, 0), 3: (0, 0.6, 0)})
    item = kit.plane(kit.glow(kit.GREEN), size=0.6)
    driver = item.driver_add("location", 1).driver
    driver.type = "SUM"
    for name, data_path in (("way", None), ("amount", '["amount"]')):
        variable = driver.variables.new()
        variable.name = name
        variable.type = "SINGLE_PROP" if data_path else "TRANSFORMS"
        variable.targets[0].id = lead
        if data_path:
            variable.targets[0].data_path = data_path
        else:
            variable.targets[0].transform_type = "LOC_Y"


@scene(frames="1-4", chunk=2)
def driver_of_the_range():
    """A driver that reads the scene's first and last frame; a stamp shows them, too."""
    found = kit.begin(size=96)
    item = kit.plane(kit.glow(kit.GREEN), size=0.3)
    driver = item.driver_add("location", 0).driver
    for name in ("frame_start", "frame_end"):
        variable = driver.variables.new()
        variable.name = name
        variable.targets[0].id_type, variable.targets[0].id = "SCENE", found
        variable.targets[0].data_path = name
    driver.expression = "(frame - frame_start) / frame_end"
    render = found.render
    render.use_stamp, render.stamp_font_size = True, 8
    for name in ("camera", "date", "filename", "hostname", "memory", "render_time", "scene", "time"):
        setattr(render, f"use_stamp_{name}", False)
    render.use_stamp_frame_range = True


@scene(frames="1-4")
def nla():
    """Strips of the NLA, blended."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.6)
    kit.key(item, "location", {1: (-0.5, 0, 0), 4: (0.5, 0, 0)})
    action = item.animation_data.action
    item.animation_data.action = None
    strip = item.animation_data.nla_tracks.new().strips.new("Walk", 1, action)
    strip.scale, strip.repeat = 0.5, 2


@scene(frames="1-3")
def shape_keys():
    """Shape keys with animated values."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.8)
    item.shape_key_add(name="Basis")
    shape = item.shape_key_add(name="Wide")
    shape.data[0].co.x -= 0.5
    kit.key(shape, "value", {1: 0.0, 3: 1.0})


@scene(frames="1-3")
def armature():
    """A mesh bent by bones with an IK constraint."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=1.2, cuts=6)
    rig = kit.put(bpy.data.armatures.new("Rig"))
    kit.active(rig)
    bpy.ops.object.mode_set(mode="EDIT")
    for number in range(2):
        bone = rig.data.edit_bones.new(f"Bone{number}")
        bone.head, bone.tail = (0, number * 0.6 - 0.6, 0), (0, number * 0.6, 0)
        if number:
            bone.parent = rig.data.edit_bones["Bone0"]
    bpy.ops.object.mode_set(mode="OBJECT")
    for number in range(2):
        rows = [i for i, v in enumerate(item.data.vertices) if (v.co.y > 0) == bool(number)]
        item.vertex_groups.new(name=f"Bone{number}").add(rows, 1.0, "REPLACE")
    item.modifiers.new("Rig", "ARMATURE").object = rig
    kit.key(rig.pose.bones["Bone1"], "rotation_quaternion", {1: (1, 0, 0, 0), 3: (0.92, 0, 0, 0.38)})


@scene(frames="1-3")
def constraints():
    """Constraints of objects: copied and limited places, parents, paths, tracks."""
    kit.begin()
    lead = bpy.data.objects.new("Lead", None)
    curve = bpy.data.curves.new("Path", "CURVE")
    curve.dimensions, curve.use_path, curve.path_duration = "3D", True, 4
    spline = curve.splines.new("NURBS")
    spline.points.add(3)
    for point, at in zip(spline.points, ((-0.8, 0), (0, 0.6), (0.4, -0.4), (0.8, 0.2)), strict=True):
        point.co = (*at, 0, 1)
    spline.use_endpoint_u = True
    kit.key(curve, "eval_time", {1: 0.0, 3: 4.0})
    way = bpy.data.objects.new("Way", curve)
    kit.show([lead, way])
    kit.key(lead, "location", {1: (-0.3, 0, 1), 3: (0.5, 0.2, 1)})
    kinds = ("COPY_LOCATION", "TRACK_TO", "FOLLOW_PATH", "CHILD_OF", "LIMIT_LOCATION", "DAMPED_TRACK")
    places, _ = kit.cells(len(kinds), 3)
    for kind, at, colour in zip(kinds, places, kit.COLOURS, strict=True):
        item = kit.plane(kit.glow(colour), size=0.3, at=at)
        made = item.constraints.new(kind)
        if kind == "LIMIT_LOCATION":
            made.use_max_x, made.max_x = True, 0.1
            kit.key(item, "location", {1: (-0.3, 0, 0), 3: (0.5, 0, 0)})
        else:
            made.target = way if kind == "FOLLOW_PATH" else lead
        if kind == "COPY_LOCATION":
            made.use_z = False


@scene(frames="1-4")
def time_remapped():
    """Old and new time of the scene: every picture shows half a frame's step."""
    found = kit.begin()
    kit.key(kit.plane(kit.glow(kit.GREEN), size=0.6), "location", {1: (-0.6, 0, 0), 4: (0.6, 0, 0)})
    found.render.frame_map_old, found.render.frame_map_new = 100, 200


@scene(frames="1-3")
def noise_and_cycles():
    """F-curve modifiers: noise and cycles."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.6)
    kit.key(item, "location", {1: (-0.3, 0, 0), 2: (0.3, 0, 0)})
    action = item.animation_data.action
    curves = (
        action.fcurves if hasattr(action, "fcurves") else action.layers[0].strips[0].channelbags[0].fcurves
    )
    curves[0].modifiers.new("CYCLES")
    noise = curves[1].modifiers.new("NOISE")
    noise.strength, noise.scale = 0.5, 1.3


@scene(frames="2-3", range="1-3")
def motion_blur():
    """Motion blur of moving, bent and growing things, by subframes."""
    found = kit.begin()
    found.render.use_motion_blur, found.render.motion_blur_shutter = True, 0.8
    found.cycles.samples = 4
    item = kit.plane(kit.glow(kit.GREEN), size=0.6)
    kit.key(item, "location", {1: (-0.6, 0, 0), 3: (0.6, 0, 0)})
    kit.key(item, "rotation_euler", {1: (0, 0, 0), 3: (0, 0, math.pi / 2)})


@scene(frames="1-3")
def visibility():
    """An object that is shown and hidden by keys."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.6)
    kit.key(item, "hide_render", {1: False, 2: True, 3: False})


@scene(frames="1-2")
def two_actions_of_slots():
    """An object and its material, both animated."""
    kit.begin()
    material = kit.glow(kit.GREEN)
    item = kit.plane(material, size=0.6)
    kit.key(item, "scale", {1: (1, 1, 1), 2: (2, 1, 1)})
    shine = next(node for node in material.node_tree.nodes if node.type == "EMISSION")
    kit.key(shine.inputs["Strength"], "default_value", {1: 0.5, 2: 1.0})
