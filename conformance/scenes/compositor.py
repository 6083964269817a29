"""The compositor: layers of other scenes, masks, clips, and its nodes"""

import bpy
import kit
from declarations import scene
from images import movie


def stage(found):
    """(tree, layers, last): a lit cube, whose picture the caller's nodes pass on."""
    kit.sun()
    kit.cube(kit.principled((0.8, 0.4, 0.2)))
    return kit.compositor(found)


def chain(tree, layers, last, *kinds):
    """Put nodes between the layers and the picture, one after the other; returns the last one."""
    source = layers.outputs["Image"]
    for kind in kinds:
        node = tree.nodes.new(f"CompositorNode{kind}")
        for name, value in {"size_x": 4, "size_y": 4}.items() if kind == "Blur" else ():
            if hasattr(node, name):
                setattr(node, name, value)
        if "Exposure" in node.inputs:
            node.inputs["Exposure"].default_value = 1.0
        tree.links.new(source, node.inputs["Image"] if "Image" in node.inputs else node.inputs[0])
        source = node.outputs[0]
    tree.links.new(source, last)
    return node


@scene(
    each={
        "light": {"value": ["Blur", "Glare", "HueSat", "Exposure", "Posterize"]},
        "denoise": {"value": ["Denoise", "Filter", "Tonemap", "BrightContrast"]},
        "shape": {"value": ["Kuwahara", "Flip", "Lensdist", "Invert", "Despeckle"]},
    }
)
def nodes(kinds):
    """Nodes between the render layers and the picture."""
    found = kit.begin()
    tree, layers, last = stage(found)
    chain(tree, layers, last, *kinds)


@scene(quick=True)
def layers_of_two_scenes():
    """Render layers of another scene, laid over those of its own."""
    found = kit.begin()
    tree, layers, last = stage(found)
    other = kit.another_scene("Over")
    other.render.film_transparent = True
    kit.plane(kit.glow(kit.BLUE), scene=other, size=0.6)
    second = tree.nodes.new("CompositorNodeRLayers")
    second.scene = other
    over = tree.nodes.new("CompositorNodeAlphaOver")
    sockets = [socket for socket in over.inputs if socket.type == "RGBA"]
    tree.links.new(layers.outputs["Image"], sockets[0])
    tree.links.new(second.outputs["Image"], sockets[1])
    tree.links.new(over.outputs[0], last)


@scene(frames="1-2", sent=["back.png"])
def picture_node():
    """An Image node with a file."""
    found = kit.begin(camera=False)
    tree, layers, last = kit.compositor(found)
    tree.nodes.remove(layers)
    found_node = tree.nodes.new("CompositorNodeImage")
    kit.picture("back.png", kit.GREEN, size=32)
    found_node.image = kit.image("back.png")
    tree.links.new(found_node.outputs[0], last)
    kit.look(found)


@scene(frames="1-3", sent=["walk_001.png", "walk_003.png"])
def sequence_node():
    """An Image node with a sequence."""
    found = kit.begin()
    tree, layers, last = kit.compositor(found)
    tree.nodes.remove(layers)
    for number in (1, 2, 3):
        kit.picture(f"frames/walk_{number:03d}.png", kit.COLOURS[number], size=32)
    image = kit.image("frames/walk_001.png")
    image.source = "SEQUENCE"
    found_node = tree.nodes.new("CompositorNodeImage")
    found_node.image, found_node.frame_duration = image, 3
    tree.links.new(found_node.outputs[0], last)


@scene(frames="1-3", sent=["walk.mkv"])
def movie_clip():
    """A movie clip with its file."""
    found = kit.begin()
    tree, layers, last = kit.compositor(found)
    tree.nodes.remove(layers)
    clip = bpy.data.movieclips.load(movie("clips/walk.mkv"))
    clip.filepath = "//clips/walk.mkv"
    found_node = tree.nodes.new("CompositorNodeMovieClip")
    found_node.clip = clip
    tree.links.new(found_node.outputs["Image"], last)


@scene(frames="1-2")
def mask():
    """A mask, animated."""
    found = kit.begin()
    tree, layers, last = kit.compositor(found)
    tree.nodes.remove(layers)
    made = bpy.data.masks.new("Mask")
    spline = made.layers.new().splines.new()
    spline.points.add(2)
    for point, at in zip(spline.points, ((0.2, 0.2), (0.8, 0.2), (0.5, 0.9)), strict=True):
        point.co = at
        point.handle_type = "VECTOR"
    spline.use_cyclic = True
    found_node = tree.nodes.new("CompositorNodeMask")
    found_node.mask = made
    tree.links.new(found_node.outputs[0], last)


@scene()
def cryptomatte():
    """A cryptomatte of objects."""
    found = kit.begin()
    found.view_layers[0].use_pass_cryptomatte_object = True
    tree, layers, last = stage(found)
    node = tree.nodes.new("CompositorNodeCryptomatteV2")
    node.scene = found
    tree.links.new(layers.outputs["Image"], node.inputs["Image"])
    node.matte_id = "Cube"
    tree.links.new(node.outputs["Matte"], last)


@scene()
def passes():
    """Depth, normal and mist passes in the picture."""
    found = kit.begin()
    layer = found.view_layers[0]
    layer.use_pass_normal = layer.use_pass_z = layer.use_pass_mist = True
    tree, layers, last = stage(found)
    tree.links.new(layers.outputs["Normal"], last)


@scene(frames="1-3")
def animated_node():
    """A node's value that is animated."""
    found = kit.begin()
    tree, layers, last = stage(found)
    made = chain(tree, layers, last, "Exposure")
    kit.key(made.inputs["Exposure"], "default_value", {1: 0.0, 3: 2.0})
