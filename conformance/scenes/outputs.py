"""Pictures and File Outputs: formats, names, layers, views"""

import bpy
import kit
from declarations import scene


def ball():
    """Something with shades and an edge."""
    kit.sun()
    return kit.cube(kit.principled((0.8, 0.4, 0.2)))


@scene(
    each={
        "png 16": {"value": ("PNG", {"color_depth": "16", "color_mode": "RGB"})},
        "jpeg": {"value": ("JPEG", {"quality": 80})},
        "tiff 16": {"value": ("TIFF", {"color_depth": "16"})},
        "exr half": {"value": ("OPEN_EXR", {"color_depth": "16", "exr_codec": "ZIP"})},
        "exr layers": {"value": ("OPEN_EXR_MULTILAYER", {"color_depth": "32"})},
        "webp": {"value": ("WEBP", {"quality": 100})},
        "targa": {"value": ("TARGA", {"color_mode": "RGBA"})},
        "hdr": {"value": ("HDR", {})},
        "dpx": {"value": ("DPX", {"color_depth": "10"})},
        "jpeg 2000": {"value": ("JPEG2000", {"color_depth": "8"})},
    }
)
def still(given):
    """Each file format of pictures, with its depths."""
    kind, more = given
    found = kit.begin()
    ball()
    kit.image_format(found.render.image_settings, kind, **more)


@scene(frames="1-2", instead="PNG", warns=["movie_as_frames"])
def movie_as_frames():
    """A scene that asks for a movie gives PNG frames."""
    found = kit.begin()
    kit.key(ball(), "location", {1: (-0.4, 0, 0), 2: (0.4, 0, 0)})
    kit.image_format(found.render.image_settings, "FFMPEG")


@scene()
def cropped_border():
    """A render border that crops the picture."""
    found = kit.begin()
    ball()
    found.render.use_border = found.render.use_crop_to_border = True
    found.render.border_min_x, found.render.border_max_x = 0.2, 0.7
    found.render.border_min_y, found.render.border_max_y = 0.1, 0.9


@scene()
def border_without_a_crop():
    """A render border that leaves the rest black."""
    found = kit.begin()
    ball()
    found.render.use_border = True
    found.render.border_min_x, found.render.border_max_x = 0.2, 0.7


@scene()
def percentage_and_aspect():
    """An odd resolution percentage, and pixels that are not square."""
    found = kit.begin()
    ball()
    found.render.resolution_x, found.render.resolution_y = 41, 23
    found.render.resolution_percentage, found.render.pixel_aspect_x = 77, 1.5


@scene(frames="1-2")
def view_layers_and_passes():
    """A multilayer picture of two view layers with passes."""
    found = kit.begin()
    ball()
    kit.image_format(found.render.image_settings, "OPEN_EXR_MULTILAYER")
    found.view_layers[0].use_pass_z = found.view_layers[0].use_pass_normal = True
    found.view_layers.new("Second").use_pass_object_index = True


@scene(frames="1-2", chunk=2)
def view_layers_with_light_groups():
    """View layers with unlike passes: the first has light groups, and values of its own."""
    found = kit.begin()
    kit.sun(2).lightgroup = "Lamps"
    kit.cube(kit.principled((0.5, 0.3, 0.2)))
    kit.image_format(found.render.image_settings, "OPEN_EXR_MULTILAYER")
    first = found.view_layers[0]
    for name in ("z", "normal", "vector", "cryptomatte_object"):
        setattr(first, f"use_pass_{name}", True)
    first.aovs.add().name = "own"
    first.lightgroups.add(name="Lamps")
    found.view_layers.new("Second").use_pass_position = True


@scene(frames="1-2", quick=True)
def file_output():
    """A File Output node beside the picture."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    tree.links.new(layers.outputs["Image"], last)
    kit.file_output(tree, layers.outputs["Image"], "Beauty", ("beauty_",))


@scene(frames="1-2")
def file_output_of_several_slots():
    """Slots with subfolders, numbers within the name, an unlinked slot."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    tree.links.new(layers.outputs["Image"], last)
    slots = ("a/b/deep_", "x_###_y", "plain", "unlinked")
    kit.file_output(tree, layers.outputs["Image"], "Passes", slots, links=(0, 1, 2))


@scene(
    frames="1-2",
    each={"hash": {"value": "objects_####"}, "plain": {"value": "objects"}, "dot": {"value": "v1.0_"}},
)
def file_output_of_layers(stem):
    """A multilayer File Output, whose name may hold the frame's number."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    tree.links.new(layers.outputs["Image"], last)
    kit.file_output(
        tree, layers.outputs["Image"], "Layers", ("Beauty", "Again"), kind="OPEN_EXR_MULTILAYER", stem=stem
    )


@scene()
def file_outputs_of_each_format():
    """File Output nodes, each with a file format and depth of its own."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    source = layers.outputs["Image"]
    tree.links.new(source, last)
    for kind in ("JPEG", "OPEN_EXR", "TIFF", "WEBP", "BMP", "TARGA", "TARGA_RAW", "IRIS", "HDR", "CINEON"):
        kit.file_output(tree, source, kind.title(), ("it_",), kind=kind)
    kit.file_output(tree, source, "Grey", ("it_",), color_mode="BW", color_depth="16")
    kit.file_output(tree, source, "Float", ("it_",), kind="OPEN_EXR", color_mode="RGBA", color_depth="32")


@scene(
    since="4.5",
    each={"names": {"value": ["scene_name", "camera_name"]}, "numbers": {"value": ["fps", "resolution_x"]}},
)
def file_output_templates(names):
    """File Outputs' names with templates of Blender's."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    tree.links.new(layers.outputs["Image"], last)
    for name in names:
        kit.file_output(tree, layers.outputs["Image"], name.title(), ("{blend_name}_{" + name + "}_",))


@scene()
def file_output_in_a_group():
    """A File Output node within a node group, and a muted one."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    tree.links.new(layers.outputs["Image"], last)
    group = bpy.data.node_groups.new("Save", "CompositorNodeTree")
    group.interface.new_socket("Image", in_out="INPUT", socket_type="NodeSocketColor")
    kit.file_output(group, group.nodes.new("NodeGroupInput").outputs[0], "Inside", ("inside_",))
    node = tree.nodes.new("CompositorNodeGroup")
    node.node_tree = group
    tree.links.new(layers.outputs["Image"], node.inputs[0])
    kit.file_output(tree, layers.outputs["Image"], "Muted", ("muted_",)).mute = True


@scene()
def file_outputs_alone():
    """A scene whose only outputs are File Output nodes."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    tree.nodes.remove(last.node)
    kit.file_output(tree, layers.outputs["Image"], "Only", ("only_",))


@scene()
def file_outputs_of_other_scenes():
    """A composing scene without a camera, whose File Outputs write the layers of two other scenes."""
    comp = kit.begin(camera=False)
    tree, layers, last = kit.compositor(comp)
    tree.nodes.remove(last.node)
    tree.nodes.remove(layers)
    for name, colour in (("Sky", kit.RED), ("Sea", kit.BLUE)):
        other = kit.another_scene(name)
        kit.plane(kit.glow(colour, name=name), scene=other)
        layers = tree.nodes.new("CompositorNodeRLayers")
        layers.scene = other
        kit.file_output(tree, layers.outputs["Image"], name, (name.lower() + "_",))


@scene()
def compositing_switched_off():
    """File Output nodes of a scene that does not use its compositor write nothing."""
    found = kit.begin()
    ball()
    tree, layers, last = kit.compositor(found)
    tree.links.new(layers.outputs["Image"], last)
    kit.file_output(tree, layers.outputs["Image"], "Beauty", ("beauty_",))
    found.render.use_compositing = False


@scene(
    each={
        "two files": {"value": ("PNG", "INDIVIDUAL")},
        "side by side": {"value": ("PNG", "STEREO_3D")},
        "one exr": {"value": ("OPEN_EXR_MULTILAYER", "MULTIVIEW")},
    }
)
def stereo(given):
    """Stereo pictures: a file for each eye, side by side, or views of one file."""
    kind, views = given
    found = kit.begin()
    ball()
    found.camera.data.type = "PERSP"
    found.render.use_multiview = True
    kit.image_format(found.render.image_settings, kind, views_format=views)
    if views == "STEREO_3D":
        found.render.image_settings.stereo_3d_format.display_mode = "SIDEBYSIDE"


@scene()
def views_of_three_cameras():
    """Multi-view by suffixes of cameras."""
    found = kit.begin()
    ball()
    found.render.use_multiview, found.render.views_format = True, "MULTIVIEW"
    found.render.image_settings.views_format = "INDIVIDUAL"
    for view in found.render.views:
        view.use = False
    for number, name in enumerate(("east", "west", "top")):
        view = found.render.views.new(name)
        view.camera_suffix = view.file_suffix = f"_{name}"
        kit.look(found, name=f"Rig_{name}", at=(number * 0.2 - 0.2, 0, 5))
    found.camera = bpy.data.objects["Rig_east"]


@scene()
def file_output_of_both_eyes():
    """A File Output node of a stereo scene."""
    found = kit.begin()
    ball()
    found.render.use_multiview = True
    found.render.image_settings.views_format = "INDIVIDUAL"
    tree, layers, last = kit.compositor(found)
    tree.links.new(layers.outputs["Image"], last)
    kit.file_output(tree, layers.outputs["Image"], "Depth", ("depth_",)).format.views_format = "INDIVIDUAL"


@scene(range="1-10", frames="1-10x4")
def frame_step():
    """Frames with a step, asked for by `--frames`."""
    kit.begin()
    kit.key(ball(), "location", {1: (-0.5, 0, 0), 10: (0.5, 0, 0)})


@scene(range="0-3", frames="-2-1", submit="--frames=-2-1")
def negative_frames():
    """Frames before zero."""
    kit.begin()
    kit.key(ball(), "location", {-2: (-0.5, 0, 0), 1: (0.5, 0, 0)})


@scene(range="100000-100001", frames="100000-100001")
def large_frame_numbers():
    """Frames beyond four digits."""
    kit.begin()
    ball()
