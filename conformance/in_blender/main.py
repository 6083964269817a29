"""Builds scenes, or plays and renders them in place: `python main.py build|play PLAN`, with bpy.

PLAN is a JSON file with a list of scenes (`scene_orders` of `conformance/plain.py`). A line
`@conformance {…}` on standard output begins and ends each.
"""

import importlib
import json
import os
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE), os.path.join(os.path.dirname(HERE), "scenes")]

import bpy  # noqa: E402
import kit  # noqa: E402


def tell(**fields):
    sys.stdout.write("\n@conformance " + json.dumps(fields) + "\n")
    sys.stdout.flush()


def build(order):
    """Build the scene of `order`; returns the path of its file."""
    os.makedirs(order["folder"], exist_ok=True)
    kit.start(order)
    function = getattr(importlib.import_module(order["feature"]), order["function"])
    saved = function(order["value"]) if order["variant"] else function()
    return saved or kit.save()


def play(order):
    """Play the scene from its first frame where it lies, then render its frames as it stands."""
    bpy.ops.wm.open_mainfile(filepath=order["path"], load_ui=False, use_scripts=False)
    if os.path.realpath(bpy.data.filepath) != os.path.realpath(order["path"]):
        raise RuntimeError(f"Blender did not open {order['path']}")
    scene = set_by_hand(order["by_hand"])
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    if order["instead"]:
        kit.image_format(scene.render.image_settings, order["instead"])
    frames = order["frames"]
    for frame in range(min(scene.frame_start, frames[0]), frames[-1] + 1):
        scene.frame_set(frame)
    if frames[0] >= 0 and frames == list(range(scene.frame_start, scene.frame_end + 1, scene.frame_step)):
        bpy.ops.render.render(
            animation=True, scene=scene.name
        )  # drivers and stamps see the scene's own range
    else:
        for frame in frames:
            render(scene, frame)
    return order["path"]


def set_by_hand(settings):
    """Make the artist's own settings; returns the scene to render."""
    scene = bpy.data.scenes[settings["scene"]] if "scene" in settings else bpy.context.scene
    if bpy.context.window is not None:
        bpy.context.window.scene = scene
    if "camera" in settings:
        scene.camera = bpy.data.objects[settings["camera"]]
        for marker in scene.timeline_markers:
            marker.camera = None
    if "engine" in settings:
        scene.render.engine = kit.engine_id(settings["engine"])
    if "samples" in settings:
        scene.cycles.samples = settings["samples"]
    if "resolution_percentage" in settings:
        scene.render.resolution_percentage = settings["resolution_percentage"]
    for layer in scene.view_layers if "view_layers" in settings else ():
        layer.use = layer.name in settings["view_layers"]
    return scene


def render(scene, frame):
    if frame >= 0:
        scene.frame_start = scene.frame_end = frame
        scene.frame_step = 1
        bpy.ops.render.render(animation=True, scene=scene.name)
    elif bpy.app.version >= (5, 0):
        bpy.ops.render.render(animation=True, scene=scene.name, frame_start=frame, frame_end=frame)
    else:  # 4.x renders animations from frame 0 on only: a still, under the name that Blender gives the frame
        scene.frame_set(frame)
        pattern = scene.render.filepath
        scene.render.filepath = os.path.splitext(scene.render.frame_path(frame=frame))[0]
        bpy.ops.render.render(write_still=True, scene=scene.name)
        scene.render.filepath = pattern


def main(work, plan):
    with open(plan) as file:
        orders = json.load(file)
    for order in orders:
        tell(begins=order["id"])
        try:
            path = {"build": build, "play": play}[work](order)
        except Exception:
            traceback.print_exc()
            tell(
                ends=order["id"],
                error=traceback.format_exc().strip().splitlines()[-1],
                trace=traceback.format_exc(),
            )
        else:
            tell(ends=order["id"], path=path)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # with what scenes leave behind, Blender may crash at its exit


if __name__ == "__main__":
    main(*sys.argv[1:])
