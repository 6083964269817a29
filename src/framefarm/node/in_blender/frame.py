"""Render one frame into a folder of its own."""

import os
import re
import resource

import bpy
from in_blender.compositor import writes_picture
from in_blender.failure import Failure
from in_blender.outputs import missing_pictures, size
from in_blender.scene import check_output, script_warnings

_state = {"frame": None, "seen": [], "progress": None, "done": 0.0}
"""The frame in work, for the handlers. `seen`: (scene, frame number) rendered; `done`: the finished part."""


def render(opened, request, progress):
    """Render the frame of `request`; returns the fields of the `saved` reply.

    `opened` is the OpenedScene; `progress(frame, fraction)` reports a sign of life. Raises Failure, or any
    exception of Blender's."""
    if opened is None:
        raise Failure("blender_broken", what="no scene is open")
    frame, directory = request["frame"], request["directory"]
    scene, picture = opened.scene, request["picture"]
    output = os.path.dirname(directory)
    check_output(output)
    os.mkdir(directory)
    opened.outputs.point(directory)
    _state.update(frame=frame, seen=[], progress=progress, done=0.0)
    reset = _reset_peak_memory()
    opened.history.play(scene, frame, lambda: progress(frame, 0.0))
    _add_handlers()
    try:
        result = _render(scene, frame, os.path.join(directory, picture))
    except RuntimeError as error:
        check_output(output)
        raise _failure(scene, frame, error) from None
    check_output(output)
    if "FINISHED" not in result:
        raise Failure("render_failed", where=f" frame {frame}", what="it broke off")
    # Scenes that the sequencer shows are rendered at frames of their own.
    wrong = [number for name, number in _state["seen"] if name == scene.name and number != frame]
    if wrong:
        raise Failure("wrong_frame", seen=", ".join(str(number) for number in wrong[:5]), frame=frame)
    notes = _gather(opened, directory, picture, frame)
    width, height = size(scene)
    return {
        "peak_memory_bytes": _peak_memory_bytes(reset),
        "notes": [*notes, *script_warnings()],
        "width": width,
        "height": height,
        "picture": any(name.startswith(picture) for name in os.listdir(directory)),
    }


def _gather(opened, directory, picture, frame):
    """Put the frame's files into their places; returns warnings about them. Raises Failure if one lacks."""
    rendered = {**dict(_state["seen"]), opened.scene.name: frame}
    missing, renamed, perhaps = opened.outputs.gather(directory, rendered)
    missing += missing_pictures(opened.scene, directory, picture)
    if not os.listdir(directory) and (not missing or writes_picture(opened.scene)):
        raise Failure("no_picture", frame=frame)
    if missing:
        raise Failure("file_missing", frame=frame, files=", ".join(sorted(set(missing))[:20]))
    notes = [("output_renamed", wanted, {"path": wanted, "name": written}) for wanted, written in renamed]
    return notes + [("output_without_picture", path, {"path": path}) for path in perhaps]


def _failure(scene, frame, error):
    text = str(error)
    if "no camera" in text.lower():
        return Failure("no_camera", scene=repr(scene.name), where=f" in frame {frame}")
    if "out of memory" in text.lower() or "bad_alloc" in text:
        return Failure("out_of_memory", where=f" in frame {frame}")
    what = " ".join(text.replace("Error:", " ").split()).rstrip(".")
    return Failure("render_failed", where=f" frame {frame}", what=what)


# -------------------------------------------------------------------------------------- memory


def _reset_peak_memory():
    """Reset the kernel's count of peak memory; False where that is not possible."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _peak_memory_bytes(reset):
    """Peak memory of Blender during the frame, plus the peaks of its living child processes, in bytes.

    If the count was not reset: the peak since Blender started.
    """
    if not reset:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _peak_of("self") + sum(_peak_of(child) for child in _children("self"))


def _peak_of(process):
    try:
        with open(f"/proc/{process}/status") as file:
            found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _children(process):
    """Process numbers of all descendants."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children") as file:
                found += file.read().split()
    except OSError:
        return found
    return found + [grandchild for child in found for grandchild in _children(child)]


# -------------------------------------------------------------------------------------- render


def _render(scene, frame, picture):
    # `animation` with one frame, and not `write_still`, so that File Output nodes number their files.
    pattern = re.sub(r"-?\d+$", "####", picture)
    if bpy.app.version >= (5, 0):
        scene.render.filepath = pattern
        return bpy.ops.render.render(animation=True, scene=scene.name, frame_start=frame, frame_end=frame)
    if frame >= 0:
        scene.render.filepath = pattern
        return _render_range(scene, frame)
    scene.frame_set(frame)
    scene.render.filepath = picture
    return bpy.ops.render.render(write_still=True, scene=scene.name)


def _render_range(scene, frame):
    """Render the frame as the scene's range, which Blender has read when it calls `render_init`.

    Then the range is put back: drivers, stamps and simulations of geometry nodes read it while it renders."""
    before = scene.frame_start, scene.frame_end, scene.frame_step

    def put_back(*_):
        scene.frame_start, scene.frame_end, scene.frame_step = before

    bpy.app.handlers.render_init.append(put_back)
    scene.frame_start = scene.frame_end = frame
    scene.frame_step = 1
    try:
        return bpy.ops.render.render(animation=True, scene=scene.name)
    finally:
        if put_back in bpy.app.handlers.render_init:
            bpy.app.handlers.render_init.remove(put_back)
        put_back()


# ------------------------------------------------------------------------------------ handlers


def _add_handlers():
    _add_once(bpy.app.handlers.render_pre, _on_render_pre)
    _add_once(bpy.app.handlers.render_stats, _on_render_stats)


def _add_once(handlers, function):
    if function not in handlers:  # opening a scene removes them
        handlers.append(function)


def _on_render_pre(scene, *_):
    _state["seen"].append((scene.name, scene.frame_current))


def _on_render_stats(*arguments):
    text = next((a for a in arguments if isinstance(a, str)), "")
    found = re.search(r"Sample (\d+)/(\d+)", text)
    if found and int(found[2]):
        _state["done"] = min(1.0, int(found[1]) / int(found[2]))
    # Also without a sample, while Blender prepares the frame: a sign of life.
    _state["progress"](_state["frame"], _state["done"])
