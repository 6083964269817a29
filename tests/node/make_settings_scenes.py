"""Makes scenes of which others are rendered, too: `python make_settings_scenes.py DIR`, with bpy."""

import sys

import bpy
from make_scenes import base, save

SAMPLES = 37


def other_scene():
    """A scene of many samples beside the first; it has a camera of its own."""
    other = bpy.data.scenes.new("Shot")
    for name in ("resolution_x", "resolution_y", "resolution_percentage", "engine"):
        setattr(other.render, name, getattr(bpy.context.scene.render, name))
    camera = bpy.data.objects.new("Shot camera", bpy.data.cameras.new("Shot camera"))
    other.collection.objects.link(camera)
    other.camera = camera
    other.cycles.samples = SAMPLES
    return other


def compositor(scene):
    if bpy.app.version >= (5, 0):
        scene.compositing_node_group = bpy.data.node_groups.new("Comp", "CompositorNodeTree")
        return scene.compositing_node_group
    scene.use_nodes = True
    scene.node_tree.nodes.clear()
    return scene.node_tree


def show(tree, node):
    if bpy.app.version >= (5, 0):
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        tree.links.new(node.outputs[0], tree.nodes.new("NodeGroupOutput").inputs[0])
    else:
        tree.links.new(node.outputs[0], tree.nodes.new("CompositorNodeComposite").inputs[0])


def driven_by_range(scene, folder):
    """A cube whose place depends on the scene's range; its pictures, rendered in one go, lie in a folder."""
    scene.frame_start, scene.frame_end = 1, 4
    driver = bpy.data.objects["Cube"].driver_add("location", 0).driver
    for name in ("frame_start", "frame_end"):
        variable = driver.variables.new()
        variable.name = name
        variable.targets[0].id_type = "SCENE"
        variable.targets[0].id = scene
        variable.targets[0].data_path = name
    driver.expression = "(frame - frame_start) / frame_end * 4"
    _save_and_render(scene, folder, "ranged")


def unlike_layers(scene, folder):
    """Two view layers, the first with a light group and more passes; its picture lies in a folder."""
    scene.world, scene.cycles.samples = None, 1
    scene.render.resolution_x = scene.render.resolution_y = 32
    first = scene.view_layers[0]
    for name in ("z", "cryptomatte_object", "normal", "vector"):
        setattr(first, f"use_pass_{name}", True)
    first.aovs.add().name = "own"
    first.lightgroups.add(name="Lamps")
    bpy.data.objects["Light"].lightgroup = "Lamps"
    scene.view_layers.new("Second").use_pass_position = True
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.frame_end = 1
    _save_and_render(scene, folder, "layers")


def simplified(scene, folder):
    """A cube that is subdivided more with each frame, by an animated level of simplifying."""
    scene.frame_end = 3
    scene.render.use_simplify = True
    bpy.data.objects["Cube"].modifiers.new("Round", "SUBSURF").render_levels = 3
    for frame in (1, 3):
        scene.render.simplify_subdivision_render = frame - 1
        scene.render.keyframe_insert("simplify_subdivision_render", frame=frame)
    _save_and_render(scene, folder, "simplified")


def diced(scene, folder):
    """A rough plane of adaptive subdivision, seen from ever nearer."""
    scene.frame_end = 3
    bpy.ops.mesh.primitive_plane_add(size=4)
    item = bpy.context.object
    modifier = item.modifiers.new("Dice", "SUBSURF")
    modifier.subdivision_type = "SIMPLE"
    if hasattr(modifier, "use_adaptive_subdivision"):
        modifier.use_adaptive_subdivision = True
    else:
        scene.cycles.feature_set = "EXPERIMENTAL"
        item.cycles.use_adaptive_subdivision = True
    material = bpy.data.materials.new("Rough")
    material.use_nodes = True
    material.displacement_method = "BOTH"
    nodes, links = material.node_tree.nodes, material.node_tree.links
    noise, height = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeDisplacement")
    noise.inputs["Scale"].default_value = 12
    links.new(noise.outputs[0], height.inputs["Height"])
    links.new(height.outputs[0], nodes["Material Output"].inputs["Displacement"])
    item.data.materials.append(material)
    camera = scene.camera.data
    camera.type = "ORTHO"
    for frame, scale in ((1, 40), (3, 1)):
        camera.ortho_scale = scale
        camera.keyframe_insert("ortho_scale", frame=frame)
    _save_and_render(scene, folder, "diced")


def _save_and_render(scene, folder, name):
    scene.render.use_persistent_data = True  # as an artist may have set; it changes these pictures
    save(folder, name)
    scene.render.use_persistent_data = False
    scene.render.filepath = f"{folder}/{name}/####"
    bpy.ops.render.render(animation=True)


def main(folder):
    scene = base()
    tree = compositor(scene)
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = other_scene()
    show(tree, layers)
    save(folder, "composed")

    scene = base()
    editor = scene.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strips.new_scene("Shot", other_scene(), 1, 1)
    save(folder, "cut")

    scene = base()
    scene.view_layers[0].samples = SAMPLES
    save(folder, "own_layer")

    scene = base()
    scene.cycles.samples = SAMPLES
    scene.cycles.keyframe_insert("samples", frame=1)
    save(folder, "animated")

    scene = base()
    scene.cycles.samples = SAMPLES
    scene.driver_add("cycles.samples").driver.expression = str(SAMPLES)
    save(folder, "driven")

    driven_by_range(base(), folder)
    unlike_layers(base(), folder)
    simplified(base(), folder)
    diced(base(), folder)


main(sys.argv[-1])
