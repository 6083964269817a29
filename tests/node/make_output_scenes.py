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
        for slot in slots:
            (node.layer_slots if kind == "OPEN_EXR_MULTILAYER" else node.file_slots).new(slot)
    for at in range(len(slots)) if link is None else link:
        tree.links.new(source.outputs[0], node.inputs[at])
    return node


def nodes(scene):
    tree = compositor(scene)
    layers = next(n for n in tree.nodes if n.type == "R_LAYERS")
    layers.scene = scene
    return tree, layers


def main(folder):
    first = base()
    first.name = "png"
    first.cycles.samples = 1
    layer = first.view_layers.new("Second")
    layer.samples = 1

    stills(another(first, "jpeg").render.image_settings, "JPEG")
    stills(another(first, "webp").render.image_settings, "WEBP")
    stills(another(first, "tiff").render.image_settings, "TIFF")
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

    save(folder, "outputs")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
