"""Makes the small scenes of the node's tests. Run by a Python that has bpy: `python make_scenes.py DIR`."""

import os
import sys

import bpy


def base():
    """An animated cube with an external texture, two cameras, 64×36 pixels, 2 samples."""
    bpy.ops.wm.read_factory_settings(use_empty=False)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 2
    scene.cycles.use_denoising = False
    scene.render.resolution_x, scene.render.resolution_y = 64, 36
    scene.frame_end = 10
    cube = bpy.data.objects["Cube"]
    for frame, turn in ((1, 0.0), (10, 1.5)):
        cube.rotation_euler[2] = turn
        cube.keyframe_insert("rotation_euler", frame=frame)
    other = bpy.data.objects.new("Other", bpy.data.cameras.new("Other"))
    other.location = (0, 0, 12)
    scene.collection.objects.link(other)
    return scene


def textured(folder):
    os.makedirs(f"{folder}/textures", exist_ok=True)
    picture = bpy.data.images.new("stripes", 8, 8)
    picture.pixels = [value for i in range(64) for value in ((1, 0, 0, 1) if i % 2 else (1, 1, 0, 1))]
    picture.filepath_raw = f"{folder}/textures/stripes.png"
    picture.file_format = "PNG"
    picture.save()
    material = bpy.data.materials[0]
    material.use_nodes = True
    node = material.node_tree.nodes.new("ShaderNodeTexImage")
    node.image = bpy.data.images.load(picture.filepath_raw)
    node.image.filepath = "//textures/stripes.png"
    shader = next(n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
    material.node_tree.links.new(node.outputs[0], shader.inputs["Base Color"])


def compositor(scene):
    """The scene's compositing nodes, with the render going to the picture."""
    if bpy.app.version < (5, 0):
        scene.use_nodes = True
        return scene.node_tree
    tree = scene.compositing_node_group = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
    tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    layers = tree.nodes.new("CompositorNodeRLayers")
    tree.links.new(layers.outputs[0], tree.nodes.new("NodeGroupOutput").inputs[0])
    return tree


def save(folder, name):
    bpy.ops.wm.save_as_mainfile(filepath=f"{folder}/{name}.blend", relative_remap=False, compress=False)


def main(folder):
    scene = base()
    bpy.ops.wm.save_as_mainfile(filepath=f"{folder}/plain.blend")
    textured(folder)
    save(folder, "plain")

    scene = base()
    bpy.data.objects.remove(bpy.data.objects["Camera"])
    scene.camera = None
    save(folder, "no_camera")

    scene = base()
    scene.render.use_multiview = True
    scene.render.image_settings.views_format = "INDIVIDUAL"
    save(folder, "stereo")

    scene = base()
    if bpy.app.version >= (5, 0):
        scene.render.image_settings.media_type = "VIDEO"
    scene.render.image_settings.file_format = "FFMPEG"
    save(folder, "movie")

    scene = base()
    tree = compositor(scene)
    layers = next(n for n in tree.nodes if n.type == "R_LAYERS")
    for name in ("Beauty/../x", "Depth"):
        node = tree.nodes.new("CompositorNodeOutputFile")
        node.name = name
        if bpy.app.version >= (5, 0):
            node.directory, node.file_name = "/etc", ""
            node.format.media_type = "IMAGE"
            node.format.file_format = "PNG"
            node.file_output_items.new("RGBA", "Image")
        else:
            node.base_path = "/etc"
        tree.links.new(layers.outputs[0], node.inputs[0])
    save(folder, "file_outputs")

    scene = base()
    driver = bpy.data.objects["Cube"].driver_add("location", 0).driver
    driver.expression = "__import__('os').getpid() * 0 + 1"
    save(folder, "scripted")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
