"""Inside the sandbox: render one frame into a folder of its own."""

import os
import re
import resource

import bpy
from inside_blender import Failure

_state = {"frame": None, "seen": [], "progress": None}


def render(opened, request, progress):
    """Render the frame of `request`; returns its notes. Raises Failure, or what Blender raises."""
    if opened is None:
        raise Failure("not_open", "No scene is open.")
    frame, directory = request["frame"], request["directory"]
    scene = opened.scene
    os.mkdir(directory)
    _point_file_outputs(scene, directory)
    if opened.play_history:
        _play(opened, frame)
    _state.update(frame=frame, seen=[], progress=progress)
    _handlers()
    try:
        result = _render(scene, frame, os.path.join(directory, request["picture"]))
    except RuntimeError as error:
        if "no camera" in str(error).lower():
            raise Failure("no_camera", f"The scene {scene.name!r} has no camera in frame {frame}.") from None
        why = " ".join(str(error).replace("Error:", " ").split())
        raise Failure("render_failed", f"Blender could not render frame {frame}: {why}") from None
    if "FINISHED" not in result:
        raise Failure("render_failed", f"Blender broke off frame {frame}.")
    if any(seen != frame for seen in _state["seen"]):
        seen = _state["seen"]
        raise Failure("wrong_frame", f"Blender rendered frame {seen} when frame {frame} was asked for.")
    if not any(name.startswith(request["picture"]) for name in os.listdir(directory)):
        raise Failure("no_picture", f"Blender wrote no picture of frame {frame}.")
    return []


def peak_memory_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _render(scene, frame, picture):
    # `animation` with one frame, and not `write_still`, so that File Output nodes number their files.
    pattern = re.sub(r"-?\d+$", "####", picture)
    if frame >= 0:
        scene.frame_start = scene.frame_end = frame
        scene.frame_step = 1
        scene.render.filepath = pattern
        return bpy.ops.render.render(animation=True, scene=scene.name)
    if bpy.app.version >= (5, 0):
        scene.render.filepath = pattern
        return bpy.ops.render.render(animation=True, scene=scene.name, frame_start=frame, frame_end=frame)
    scene.frame_set(frame)
    scene.render.filepath = picture
    return bpy.ops.render.render(write_still=True, scene=scene.name)


def _play(opened, frame):
    start = opened.first_frame if opened.played_until is None else opened.played_until + 1
    for earlier in range(start, frame):
        opened.scene.frame_set(earlier)
    opened.played_until = frame


# ------------------------------------------------------------------------------------ handlers


def _handlers():
    _once(bpy.app.handlers.render_pre, _before)
    _once(bpy.app.handlers.render_stats, _stats)


def _once(handlers, function):
    if function not in handlers:  # opening a scene removes them
        handlers.append(function)


def _before(scene, *_):
    _state["seen"].append(scene.frame_current)


def _stats(*arguments):
    text = next((a for a in arguments if isinstance(a, str)), "")
    found = re.search(r"Sample (\d+)/(\d+)", text)
    if found and int(found[2]):
        _state["progress"](_state["frame"], min(1.0, int(found[1]) / int(found[2])))


# --------------------------------------------------------------------------- File Output nodes


def _point_file_outputs(scene, directory):
    taken = set()
    for node in _output_nodes(scene):
        folder = _plain(node.name) or "File Output"
        while folder.casefold() in taken or folder.startswith("picture_"):
            folder += "_"
        taken.add(folder.casefold())
        place = os.path.join(directory, folder)
        if hasattr(node, "directory"):  # 5.0
            node.directory = place
            node.file_name = _plain_path(node.file_name)
            for item in node.file_output_items:
                item.name = _plain_path(item.name) or "image"
            continue
        if node.format.file_format == "OPEN_EXR_MULTILAYER":
            last = _plain(os.path.basename(node.base_path.rstrip("/\\"))) or "image"
            if not node.get("framefarm_name"):
                node["framefarm_name"] = last
            node.base_path = os.path.join(place, node["framefarm_name"])
            continue
        node.base_path = place
        for slot in node.file_slots:
            slot.path = _plain_path(slot.path) or "image"


def _output_nodes(scene):
    tree = getattr(scene, "compositing_node_group", None)  # 5.0
    if tree is None and getattr(scene, "use_nodes", False):
        tree = getattr(scene, "node_tree", None)
    seen = set()

    def walk(group):
        if group is None or group.name_full in seen:
            return
        seen.add(group.name_full)
        for node in group.nodes:
            if node.bl_idname == "CompositorNodeOutputFile":
                yield node
            elif getattr(node, "node_tree", None) is not None:
                yield from walk(node.node_tree)

    yield from walk(tree)


def _plain(name):
    name = "".join(c if c.isprintable() and c not in '/\\{}#<>:"|?*' else "_" for c in name).strip(" .")
    return name.encode()[:200].decode(errors="ignore")


def _plain_path(path):
    """`path` without what would lead out of the frame's folder; `#` stays, it numbers the file."""
    path = path.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    return "/".join(parts) + ("/" if path.endswith("/") and parts else "")
