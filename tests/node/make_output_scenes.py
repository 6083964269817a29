"""Makes `outputs.blend`, one scene for each kind of output: `python make_output_scenes.py DIR`, with bpy."""

import os
import sys

import bpy
from make_scenes import base, compositor, save

FIVE = bpy.app.version >= (5, 0)


def stills(settings, kind, **more):
    if FIVE:
        settings.media_type = "MULTI_LAYER_IMAGE" if kind == "OPEN_EXR_MULTILAYER" else "IMAGE"
    settings.file_format = kind
    for name, value in more.items():
        setattr(settings, name, value)


def another(first, name):
    scene = first.copy()
    scene.name = name
    scene.use_fake_user = True  # or it is not saved
    return scene


def output(tree, source, name, slots=("Image",), kind="PNG", link=None):
    node = tree.nodes.new("CompositorNodeOutputFile")
    node.name = name
    stills(node.format, kind)
    if FIVE:
        node.directory, node.file_name = "/etc", ""
        for slot in slots:
            node.file_output_items.new("RGBA", slot)
    else:
        node.base_path = "/etc/passes"
        if kind == "OPEN_EXR_MULTILAYER":
            node.layer_slots.clear()
        else:
            node.file_slots.clear()
        for at, slot in enumerate(slots):
            (node.layer_slots if kind == "OPEN_EXR_MULTILAYER" else node.file_slots).new(slot)
            if kind != "OPEN_EXR_MULTILAYER":
                node.file_slots[at].path = slot  # `new` makes them unlike
    for at in range(len(slots)) if link is None else link:
        tree.links.new(source.outputs[0], node.inputs[at])
    return node


def nodes(scene):
    tree = compositor(scene)
    layers = next(n for n in tree.nodes if n.type == "R_LAYERS")
    layers.scene = scene
    return tree, layers


def group(name):
    """A group that passes its picture on and writes it to a node `In group`; its input."""
    tree = bpy.data.node_groups.new(name, "CompositorNodeTree")
    for way in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Image", in_out=way, socket_type="NodeSocketColor")
    start, end = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    tree.links.new(start.outputs[0], end.inputs[0])
    output(tree, start, "In group", ("grouped",))
    return tree


def use(tree, inner, source=None):
    node = tree.nodes.new("CompositorNodeGroup")
    node.node_tree = inner
    if source is not None:
        tree.links.new(source.outputs[0], node.inputs[0])
    return node


def names(first, picture):
    """Names as artists write them, and outputs that Blender does not write."""
    scene = another(first, "names")
    tree, layers = nodes(scene)
    marks = "day\u202e\u2066" + "night"
    output(tree, layers, "Odd", ("{{lit}}_", "{resolution_x}x", "{blend_name}:", 'a"b?', marks, "end."))
    output(tree, layers, "Twice", ("same", "Same" if FIVE else "same"))
    node = output(tree, layers, "Layers", ("lay",), "OPEN_EXR_MULTILAYER")
    if FIVE:
        node.file_name = "{node_name}_{blend_name}_##"
    else:
        node.base_path = "//passes/{resolution_x}_objects_##"
    node = output(tree, layers, "Climb", ("up",))
    if FIVE:
        node.directory, node.file_name = "//x", "../../../deep/"
    else:
        node.base_path, node.file_slots[0].path = "//x", "../../../deep/up"
    kind = output(tree, layers, "Kinds", ("plain", "own"), "PNG")
    item = (kind.file_output_items if FIVE else kind.file_slots)[1]
    if FIVE:
        item.override_node_format = True
    else:
        item.use_node_format = False
    stills(item.format, "OPEN_EXR")

    shared = group("Shared")
    outer = group("Outer")
    use(outer, shared, next(n for n in outer.nodes if n.bl_idname == "NodeGroupInput"))
    for inner in (shared, outer):
        use(tree, inner, layers)
    use(tree, shared, layers).mute = True
    use(tree, shared)  # not linked

    layer = scene.view_layers[0]
    layer.use_pass_z = True
    node = output(tree, layers, "No pass", ("depth",), link=())
    tree.links.new(layers.outputs["Depth"], node.inputs[0])
    layer.use_pass_z = False
    output(tree, tree.nodes.new("CompositorNodeRGB"), "Colour")
    output(tree, tree.nodes.new("CompositorNodeImage"), "No image")
    ended = tree.nodes.new("CompositorNodeImage")
    ended.image = bpy.data.images.load(picture)
    ended.image.source, ended.frame_duration = "SEQUENCE", 2
    output(tree, ended, "Ended sequence")
    output(tree, tree.nodes.new("CompositorNodeBlur"), "Blur of nothing")
    second = tree.nodes.new("CompositorNodeRLayers")
    second.scene, second.layer = scene, "Second"
    output(tree, second, "Second layer")
    reroute = tree.nodes.new("NodeReroute")
    tree.links.new(layers.outputs[0], reroute.inputs[0])
    output(tree, reroute, "Rerouted")
    return scene


def without_picture(first):
    """A scene that only writes what two others render, and has no camera."""
    scene = bpy.data.scenes.new("only_nodes")
    scene.use_fake_user = True
    scene.render.engine = "CYCLES"
    tree = compositor(scene)
    tree.nodes.clear()
    for name in ("Sky", "Sea"):
        layers = tree.nodes.new("CompositorNodeRLayers")
        layers.scene = another(first, name)
        output(tree, layers, name, (name.lower() + "_",))


def edit(first, shot):
    """A cut whose frame 7 is frame 107 of the shot, which has File Output nodes of its own."""
    scene = another(first, "cut")
    editor = scene.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strip = strips.new_scene("Shot", shot, 1, 1)
    strip.frame_start = 1
    strip.frame_offset_start = 100
    strip.frame_start = -99
    tree, layers = nodes(scene)
    output(tree, layers, "Not run")
    scene = another(scene, "uncut")
    scene.render.use_sequencer = False


def main(folder):
    first = base()
    first.name = "png"
    first.cycles.samples = 1
    layer = first.view_layers.new("Second")
    layer.samples = 1

    stills(another(first, "jpeg").render.image_settings, "JPEG")
    stills(another(first, "webp").render.image_settings, "WEBP")
    stills(another(first, "tiff").render.image_settings, "TIFF")
    for kind in ("BMP", "TARGA", "IRIS", "HDR", "DPX", "CINEON", "JPEG2000"):
        stills(another(first, kind.lower()).render.image_settings, kind)
    stills(another(first, "exr").render.image_settings, "OPEN_EXR")
    stills(another(first, "multilayer").render.image_settings, "OPEN_EXR_MULTILAYER")

    for name, kind, form, views in (
        ("eyes", "JPEG", "INDIVIDUAL", ()),
        ("side_by_side", "PNG", "STEREO_3D", ()),
        ("eyes_in_one_exr", "OPEN_EXR_MULTILAYER", "MULTIVIEW", ()),
        ("three_views", "PNG", "INDIVIDUAL", ("_top",)),
    ):
        scene = another(first, name)
        scene.render.use_multiview = True
        stills(scene.render.image_settings, kind, views_format=form)
        scene.render.image_settings.stereo_3d_format.display_mode = "SIDEBYSIDE"
        if views:
            scene.render.views_format = "MULTIVIEW"
        for suffix in views:
            view = scene.render.views.new("top")
            view.camera_suffix = view.file_suffix = suffix

    scene = another(first, "passes")
    tree, layers = nodes(scene)
    output(tree, layers, "File Output")
    output(tree, layers, "File Output", ("Image", "image", "unlinked"), link=(0, 1))
    output(tree, layers, "../Deep/er", ("sub/x_###_y", "../../out"))
    output(tree, layers, "All", ("Image",), "OPEN_EXR_MULTILAYER")
    output(tree, layers, "Muted").mute = True
    output(tree, layers, "picture_0007", ("Image",), "OPEN_EXR")

    scene = another(scene, "passes_off")
    scene.render.use_compositing = False

    scene = another(first, "passes_of_both_eyes")
    scene.render.use_multiview = True
    stills(scene.render.image_settings, "PNG", views_format="INDIVIDUAL")
    tree, layers = nodes(scene)
    output(tree, layers, "Depth")

    image = bpy.data.images.new("sequence", 8, 8)
    image.filepath_raw, image.file_format = f"{folder}/sequence_0001.png", "PNG"
    image.save()
    names(first, image.filepath_raw)
    without_picture(first)
    shot = another(first, "shot")
    shot.frame_end = 200
    tree, layers = nodes(shot)
    output(tree, layers, "Of the shot", ("beauty", "x_#_y"))
    edit(first, shot)

    scene = another(first, "odd_views")
    scene.render.use_multiview = True
    scene.render.views_format = "MULTIVIEW"
    stills(scene.render.image_settings, "PNG", views_format="INDIVIDUAL")
    for name, suffix in (("up", "/../t:op"), ("twin", "_L"), ("off", "_off"), ("bare", "")):
        view = scene.render.views.new(name)
        view.camera_suffix = view.file_suffix = suffix
        view.use = name != "off"
    tree, layers = nodes(scene)
    output(tree, layers, "Views", ("v",))

    elsewhere = bpy.data.scenes.new("elsewhere")
    elsewhere.use_fake_user = True
    camera = bpy.data.objects.new("Elsewhere", bpy.data.cameras.new("Elsewhere"))
    elsewhere.collection.objects.link(camera)

    scene = another(first, "no_active_camera")
    scene.camera = None
    scene = another(first, "bad_template")
    tree, layers = nodes(scene)
    output(tree, layers, "Unknown", ("{nonsense}",))
    output(tree, layers, "Fine")

    save(folder, "outputs")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
