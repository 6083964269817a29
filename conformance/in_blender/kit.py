"""Parts of which the scenes are made, alike in all Blenders: a small stage seen straight from above.

Colours are 0 to 1, lengths in Blender's units. A square of 2 × 2 fills the picture. Scenes write their
pictures to `out/` beside the file, and each File Output node to `out/<its name>/`, as downloads are laid out.
"""

import os
import struct
import zlib

import bpy

RED, GREEN, BLUE, WHITE, GREY = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.5, 0.5, 0.5)
COLOURS = (RED, GREEN, BLUE, (1, 1, 0), (0, 1, 1), (1, 0, 1))
FIVE = bpy.app.version >= (5, 0)
_order = {}


def start(order):
    """Take the order of the next scene (see `scene_orders` of `conformance/plain.py`)."""
    _order.clear()
    _order.update(order)


def path(*parts):
    """The path of `parts` in the scene's folder, whose folder is made."""
    found = os.path.join(_order["folder"], *parts)
    os.makedirs(os.path.dirname(found), exist_ok=True)
    return found


def begin(camera=True, size=32):
    """An empty file; returns its scene, which has the declared range and engine."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.save_version = 0
    scene = bpy.context.scene
    prepare(scene, size)
    if camera:
        look(scene)
    return scene


def engine_id(name):
    eevee = "BLENDER_EEVEE" if FIVE else "BLENDER_EEVEE_NEXT"
    return {"cycles": "CYCLES", "eevee": eevee, "workbench": "BLENDER_WORKBENCH"}[name]


def prepare(scene, size=32):
    scene.render.engine = engine_id(_order["engine"])
    scene.cycles.samples = 1
    scene.cycles.use_denoising = False
    scene.eevee.taa_render_samples = 1
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.frame_start, scene.frame_end = _order["range"][0], _order["range"][-1]
    scene.view_settings.view_transform = "Raw"
    scene.render.filepath = "//out/scene_####"
    image_format(scene.render.image_settings, "PNG", color_mode="RGB")


def another_scene(name, camera=True, size=32):
    scene = bpy.data.scenes.new(name)
    prepare(scene, size)
    if camera:
        look(scene, name=name + " Camera")
    return scene


def image_format(settings, kind, **more):
    if FIVE:
        movie = kind in ("FFMPEG", "AVI_JPEG", "AVI_RAW")
        layers = kind == "OPEN_EXR_MULTILAYER"
        settings.media_type = "VIDEO" if movie else "MULTI_LAYER_IMAGE" if layers else "IMAGE"
    settings.file_format = kind
    for name, value in more.items():
        setattr(settings, name, value)


def look(scene, width=2, name="Camera", at=(0, 0, 5), turn=(0, 0, 0)):
    camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    camera.location, camera.rotation_euler = at, turn
    camera.data.type, camera.data.ortho_scale = "ORTHO", width
    scene.collection.objects.link(camera)
    scene.camera = scene.camera or camera
    return camera


def sun(strength=3.0, turn=(0.6, 0.3, 0), scene=None):
    return lamp("SUN", strength, turn=turn, scene=scene)


def lamp(kind, energy, at=(0, 0, 3), turn=(0, 0, 0), scene=None):
    item = bpy.data.objects.new(kind.title(), bpy.data.lights.new(kind.title(), kind))
    item.data.energy, item.location, item.rotation_euler = energy, at, turn
    (scene or bpy.context.scene).collection.objects.link(item)
    return item


# ------------------------------------------------------------------------------------------- materials


def glow(colour=WHITE, image=None, name="Glow"):
    """A material that shows a colour, or an image, as it is."""
    material, nodes, links = bare_material(name)
    shine = nodes.new("ShaderNodeEmission")
    shine.inputs["Color"].default_value = (*colour, 1)
    links.new(shine.outputs[0], nodes["Material Output"].inputs["Surface"])
    if image is not None:
        texture = nodes.new("ShaderNodeTexImage")
        texture.image, texture.interpolation = image, "Closest"
        if image.source != "GENERATED" and not image.packed_file:
            image.colorspace_settings.name = "Non-Color"
        links.new(texture.outputs["Color"], shine.inputs["Color"])
    return material


def bare_material(name="Bare"):
    """(material, nodes, links): a material with nothing but its output."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    nodes.new("ShaderNodeOutputMaterial")
    return material, nodes, material.node_tree.links


def textured(node_type, output=0, **settings):
    """A material that shines in what a texture node gives."""
    material, nodes, links = bare_material(node_type)
    texture, shine = nodes.new(node_type), nodes.new("ShaderNodeEmission")
    for name, value in settings.items():
        setattr(texture, name, value)
    links.new(texture.outputs[output], shine.inputs["Color"])
    links.new(shine.outputs[0], nodes["Material Output"].inputs["Surface"])
    return material


def principled(colour=GREY, name="Principled", **inputs):
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = (*colour, 1)
    for key, value in inputs.items():
        shader.inputs[key.replace("_", " ").title().replace("Ior", "IOR")].default_value = value
    return material


# --------------------------------------------------------------------------------------------- objects


def put(data, name=None, at=(0, 0, 0), scene=None, material=None):
    item = bpy.data.objects.new(name or data.name, data)
    item.location = at
    (scene or bpy.context.scene).collection.objects.link(item)
    if material is not None:
        data.materials.append(material)
    return item


def plane(material=None, at=(0, 0, 0), size=2, scene=None, name="Plane", cuts=1):
    """A square in the XY plane with UVs; `cuts` × `cuts` faces."""
    mesh = bpy.data.meshes.new(name)
    step, half, n = size / cuts, size / 2, cuts + 1
    points = [(-half + step * (i % n), -half + step * (i // n), 0) for i in range(n * n)]
    faces = [
        (y * n + x, y * n + x + 1, y * n + x + n + 1, y * n + x + n) for y in range(cuts) for x in range(cuts)
    ]
    mesh.from_pydata(points, [], faces)
    layer = mesh.uv_layers.new()
    for loop in mesh.loops:
        x, y, _ = points[loop.vertex_index]
        layer.data[loop.index].uv = (x / size + 0.5, y / size + 0.5)
    return put(mesh, name, at, scene, material)


def cube(material=None, size=0.8, at=(0, 0, 0), name="Cube", scene=None, turn=(0.5, 0.4, 0.3)):
    half = size / 2
    mesh = bpy.data.meshes.new(name)
    points = [(x, y, z) for x in (-half, half) for y in (-half, half) for z in (-half, half)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh.from_pydata(points, [], faces)
    item = put(mesh, name, at, scene, material)
    item.rotation_euler = turn
    return item


def grease_pencil(kind):
    """Add a grease pencil of Blender's own: `MONKEY`, `STROKE`, …"""
    add = bpy.ops.object.grease_pencil_add if bpy.app.version >= (4, 3) else bpy.ops.object.gpencil_add
    add(type=kind)


def cells(count, per_row=4):
    """Positions of `count` cells of a picture that is 2 wide, and the size of one."""
    size = 2 / per_row
    return [(-1 + size * (i % per_row + 0.5), 1 - size * (i // per_row + 0.5), 0) for i in range(count)], size


def active(item):
    """Make `item` the only selected object, and the active one."""
    for other in bpy.context.view_layer.objects:
        other.select_set(False)
    bpy.context.view_layer.objects.active = item
    item.select_set(True)
    return item


def key(thing, name, values, index=-1):
    """Animate a property: `values` is frame → value."""
    for frame, value in values.items():
        if index < 0:
            setattr(thing, name, value)
        else:
            getattr(thing, name)[index] = value
        thing.keyframe_insert(name, index=index, frame=frame)


# ----------------------------------------------------------------------------------------------- files


def picture(name, colour=RED, size=4, rows=None):
    """Write a PNG of one colour, or of `rows` of colours; returns its path."""
    rows = rows or [[colour] * size] * size
    raw = b"".join(b"\0" + bytes(round(255 * c) for pixel in row for c in pixel) for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    with open(path(name), "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)))
        file.write(chunk(b"IEND", b""))
    return path(name)


def image(name, stored=None, colour=GREEN):
    """The image at `name` in the scene's folder, which is painted if it is not there."""
    full = path(name) if os.path.exists(path(name)) else picture(name, colour)
    found = bpy.data.images.load(full)
    found.filepath = stored or "//" + name
    return found


def sequence(pattern, count=3, source="SEQUENCE", first=1):
    """An image whose pictures are `pattern.format(number)`, one for each frame, in unlike colours."""
    for number in range(first, first + count):
        picture(pattern.format(number), COLOURS[(number - first) % 6])
    found = image(pattern.format(first))
    found.source = source
    return found


def text(name, content):
    with open(path(name), "w") as file:
        file.write(content)
    return path(name)


def save(name="scene.blend", compress=False):
    bpy.ops.wm.save_as_mainfile(filepath=path(name), relative_remap=False, compress=compress)
    return path(name)


def link(library, kind, *names, stored=None, relative=True):
    """Link data-blocks of one kind from `library`, a name in the scene's folder; returns them."""
    with bpy.data.libraries.load(path(library), link=True) as (_, wanted):
        setattr(wanted, kind, list(names))
    for one in bpy.data.libraries if relative else ():
        if os.path.realpath(bpy.path.abspath(one.filepath)) == os.path.realpath(path(library)):
            one.filepath = stored or "//" + library
    return [getattr(bpy.data, kind)[name] for name in names]


def show(items, scene=None):
    for item in items:
        (scene or bpy.context.scene).collection.objects.link(item)


# ------------------------------------------------------------------------------------------- sequencer


def strips(scene):
    editor = scene.sequence_editor or scene.sequence_editor_create()
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def effect(scene, kind, channel, first, last, one=None, other=None):
    """An effect strip from frame `first` up to, and without, `last`."""
    parameters = strips(scene).bl_rna.functions["new_effect"].parameters
    words = {"name": kind.title(), "type": kind, "channel": channel, "frame_start": first}
    words |= {"frame_end": last} if "frame_end" in parameters else {"length": last - first}
    names = ("input1", "input2") if "input1" in parameters else ("seq1", "seq2")
    words |= {name: strip for name, strip in zip(names, (one, other), strict=True) if strip is not None}
    return strips(scene).new_effect(**words)


# ------------------------------------------------------------------------------------------ compositor


def compositor(scene):
    """(tree, render layers node, socket of the picture): the scene's compositing nodes, not yet linked."""
    if FIVE:
        tree = scene.compositing_node_group = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        last = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        last = tree.nodes.new("CompositorNodeComposite")
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = scene
    return tree, layers, last.inputs[0]


def file_output(tree, source, name, slots=("Image",), kind="PNG", stem="", links=None, **settings):
    """A File Output node that writes to `out/<name>/`; each of `slots` gets `source`."""
    node = tree.nodes.new("CompositorNodeOutputFile")
    node.name = name
    image_format(node.format, kind, **settings)
    if FIVE:
        node.directory, node.file_name = f"//out/{name}/", stem
        for slot in slots:
            node.file_output_items.new("RGBA", slot)
    elif kind == "OPEN_EXR_MULTILAYER":
        node.base_path = f"//out/{name}/{stem}"
        node.layer_slots.clear()
        for slot in slots:
            node.layer_slots.new(slot)
    else:
        node.base_path = f"//out/{name}/"
        node.file_slots.clear()
        for slot in slots:
            node.file_slots.new(stem + slot)
    for at in range(len(slots)) if links is None else links:
        tree.links.new(source, node.inputs[at])
    return node


# -------------------------------------------------------------------------------------- geometry nodes


def geometry_nodes(item, name="Nodes"):
    """(modifier, nodes, links, input socket, output socket): an empty geometry-nodes modifier of `item`."""
    group = bpy.data.node_groups.new(name, "GeometryNodeTree")
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    before, after = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
    modifier = item.modifiers.new(name, "NODES")
    modifier.node_group = group
    return modifier, group.nodes, group.links, before.outputs[0], after.inputs[0]


def paint(nodes, links, source, target, material):
    """Put a Set Material node between two sockets."""
    node = nodes.new("GeometryNodeSetMaterial")
    node.inputs["Material"].default_value = material
    links.new(source, node.inputs["Geometry"])
    links.new(node.outputs[0], target)
