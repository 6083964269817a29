"""The job's settings of render engines, for each scene of the file, since any of them may be rendered.

A scene strip, a Render Layers node or a script renders other scenes with their own settings.
"""

import bpy
from in_blender.failure import Failure

GPU_APIS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")
SAMPLES = ("cycles.samples", "eevee.taa_render_samples")
"""RNA paths of a scene's samples."""


def version():
    return bpy.app.version_string.replace(" LTS", "")


def rendered_scenes(scene):
    """The scene, and all scenes that its strips and its compositor render, also indirectly."""
    found = [scene]
    for one in found:
        found += [s for s in (*_strip_scenes(one), *_node_scenes(one)) if s not in found]
    return found


def _strip_scenes(scene):
    editor = scene.sequence_editor if scene.render.use_sequencer else None
    strips = getattr(editor, "strips_all", getattr(editor, "sequences_all", ())) if editor else ()
    return {strip.scene for strip in strips if strip.type == "SCENE" and strip.scene and not strip.mute}


def _node_scenes(scene):
    """Scenes of Render Layers nodes. From 5.0 on the compositor's tree is a data-block of its own."""
    tree = getattr(scene, "compositing_node_group", None) or getattr(scene, "node_tree", None)
    if tree is None or not scene.render.use_compositing or not getattr(scene, "use_nodes", True):
        return set()
    found, trees = set(), [tree]
    for one in trees:
        for node in one.nodes:
            if node.bl_idname == "CompositorNodeRLayers" and node.scene and not node.mute:
                found.add(node.scene)
            inner = getattr(node, "node_tree", None)
            if inner is not None and inner not in trees:
                trees.append(inner)
    return found


def set_engine(scene, name):
    """Have the job's scene and those that it renders use one engine. Raises Failure."""
    eevee = "BLENDER_EEVEE_NEXT" if (4, 2) <= bpy.app.version < (5, 0) else "BLENDER_EEVEE"
    identifier = {"cycles": "CYCLES", "eevee": eevee, "workbench": "BLENDER_WORKBENCH"}.get(name, name)
    for one in rendered_scenes(scene):
        try:
            one.render.engine = identifier
        except TypeError:
            raise Failure("unknown_engine", blender=version(), name=repr(name)) from None


def set_samples(opened, count):
    """Set the samples of all scenes, also where a view layer or an animation sets its own."""
    for scene in bpy.data.scenes:
        if hasattr(scene, "cycles"):
            scene.cycles.samples = count
            scene.cycles.use_layer_samples = "IGNORE"
        if hasattr(scene, "eevee"):
            scene.eevee.taa_render_samples = count
        _stop_animation(scene, SAMPLES)
    engines = {scene.render.engine for scene in rendered_scenes(opened.scene)}
    if not any(engine == "CYCLES" or engine.startswith("BLENDER_EEVEE") for engine in engines):
        opened.warn("samples_ignored")


def _stop_animation(scene, paths):
    animation = scene.animation_data
    if animation is None:
        return
    for curve in (*_curves(animation), *animation.drivers):
        if curve.data_path in paths:
            curve.mute = True


def _curves(animation):
    """The curves of an animation's action: in a list, or from 4.4 on in layers with one bag for a slot."""
    action = animation.action
    if action is None:
        return []
    if hasattr(action, "fcurves"):
        return list(action.fcurves)
    bags = [bag for layer in action.layers for strip in layer.strips for bag in strip.channelbags]
    return [curve for bag in bags for curve in bag.fcurves]


def use_processors(threads):
    """Have all scenes render on the processor with this number of threads."""
    for scene in bpy.data.scenes:
        scene.render.threads_mode = "FIXED"
        scene.render.threads = threads
        if scene.render.engine == "CYCLES":
            scene.cycles.device = "CPU"
            # Never switched on: kept data changes too many kinds of pictures. See
            # docs/decisions/0006-persistent-data.md.
            if not _may_keep_data(scene):
                scene.render.use_persistent_data = False


def _may_keep_data(scene):
    """Whether data that Cycles keeps between frames, as the artist may have set, leaves the pictures alone.

    Measured with 4.2: of several view layers, the light groups of one disturb the passes of the next; objects
    keep the level of simplifying, and adaptive subdivision, of the first frame. A scene with animated
    settings renders without kept data, whatever they are.
    """
    animation = scene.animation_data
    if animation is not None and (animation.action or animation.drivers or animation.nla_tracks):
        return False
    return sum(layer.use for layer in scene.view_layers) < 2 and not any(map(_is_diced, bpy.data.objects))


def _is_diced(item):
    """Whether the object has adaptive subdivision, which depends on the camera's place."""
    if getattr(getattr(item, "cycles", None), "use_adaptive_subdivision", False):
        return True
    return any(getattr(modifier, "use_adaptive_subdivision", False) for modifier in item.modifiers)


def use_gpus(scene, gpus):
    """Raises Failure without a GPU: Cycles itself would render on the processor without a message."""
    if not gpus or not any(one.render.engine == "CYCLES" for one in rendered_scenes(scene)):
        return
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for api in GPU_APIS:
        try:
            preferences.compute_device_type = api
        except TypeError:
            continue  # not in this build
        preferences.refresh_devices()
        devices = preferences.get_devices_for_type(api)
        if any(device.type == api for device in devices):
            for device in devices:
                device.use = device.type == api
            for one in bpy.data.scenes:
                if one.render.engine == "CYCLES":
                    one.cycles.device = "GPU"
            return
    raise Failure("gpu_absent")
