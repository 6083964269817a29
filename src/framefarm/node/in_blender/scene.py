"""Open the scene, correct its file paths, apply the job's settings, check it."""

import errno
import gzip
import os
import re
import sys

import bpy
from in_blender import addons, bakes, compositor, engines, files, history, outputs, shader_scripts, used_files
from in_blender.engines import version
from in_blender.failure import Failure

PROBE_BYTES = 64 << 10  # the same number as in node/blender.py


class OpenedScene:
    """The open scene, the request that opened it, and the warnings about it."""

    def __init__(self, request):
        self.request = request
        self.warnings = []
        """(code, subject, facts)"""
        self.users = []
        """(path in the sandbox, user, artist's path)"""
        self.scene = None
        self.outputs = None
        self.history = None

    def warn(self, code, subject="", **facts):
        self.warnings.append((code, subject, {name: str(fact)[:1500] for name, fact in facts.items()}))


class StderrRecorder:
    """Standard error that also records: Blender only prints what a scene's scripts raise, and continues."""

    def __init__(self, stream):
        self._stream = stream
        self._recorded = ""

    def write(self, text):
        self._recorded = (self._recorded + text)[-20000:]
        return self._stream.write(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def take(self):
        """The last lines of the tracebacks since the last call, without repetitions, at most 10."""
        lines, self._recorded = self._recorded.splitlines(), ""
        errors, in_traceback = {}, False
        for line in lines:
            if line.startswith("Traceback (most recent call last)"):
                in_traceback = True
            elif in_traceback and line and not line.startswith(" "):
                errors[line[:300]] = None
                in_traceback = False
        return list(errors)[:10]


recorder = StderrRecorder(sys.stderr)


def record_stderr():
    if sys.stderr is not recorder:
        sys.stderr = recorder


def open_scene(request):
    """Open and prepare the scene; returns an OpenedScene. `request` is OpenScene of node/blender_protocol.py.

    Raises Failure."""
    opened = OpenedScene(request)
    check_output(request["output"])
    record_stderr()
    addons.enable(request["addons"])
    _load(opened, request["scene"], request["allow_scripts"])
    files.remap(request["remap"])
    shader_scripts.compile_all()
    _choose_scene(opened, request["render"]["scene"])
    _apply_settings(opened, request["render"])
    engines.use_processors(request["threads"])
    engines.use_gpus(opened.scene, request["gpus"])
    _set_picture_format(opened)
    _check_camera(opened.scene)
    opened.outputs = outputs.FileOutputs(opened.scene, bpy.data.scenes)
    for path in opened.outputs.without_picture():
        opened.warn("output_without_picture", path, path=path)
    used_files.warn_missing(opened, request["remap"])
    history.prepare(opened)
    opened.warnings += script_warnings()
    return opened


def script_warnings():
    """A warning for each error of the scene's scripts since the last call."""
    return [("script_error", what, {"what": what}) for what in recorder.take()]


def check_output(folder):
    """Check that 64 KiB can be written. Raises Failure.

    Blender does not report a full disk: it writes half a PNG or EXR and returns FINISHED (4.2).
    """
    probe = os.path.join(folder, ".probe")
    try:
        with open(probe, "wb", buffering=0) as file:
            if file.write(bytes(PROBE_BYTES)) < PROBE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failure("disk_full" if full else "output_unwritable", what=error.strerror) from None
    finally:
        if os.path.lexists(probe):
            os.unlink(probe)


def _load(opened, path, allow_scripts):
    name = os.path.basename(path)
    _check_version(name, saved_by(path))
    try:
        with bakes.readable():
            bpy.ops.wm.open_mainfile(filepath=path, load_ui=False, use_scripts=allow_scripts)
    except RuntimeError as error:
        why = " ".join(str(error).replace("Error:", " ").split())
        raise Failure("cannot_open", blender=version(), file=name, what=why.rstrip(".")) from None
    # After a failed open Blender still holds its default scene, and would render it.
    if not bpy.data.filepath or os.path.realpath(bpy.data.filepath) != os.path.realpath(path):
        raise Failure("cannot_open", blender=version(), file=name, what="it went on without it")
    _check_version(name, bpy.data.version[:2])
    if bpy.app.autoexec_fail and not allow_scripts:
        opened.warn("blocked_scripts", bpy.app.autoexec_fail_message)


def saved_by(path):
    """The (major, minor) of the Blender that saved `path`, from its first bytes; None if not found."""
    with open(path, "rb") as file:
        start = file.read(20)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path) as file:
            start = file.read(20)
    match = re.match(rb"BLENDER[-_][vV](\d)(\d\d)", start) or re.match(
        rb"BLENDER\d\d-\d\dv(\d\d)(\d\d)", start
    )
    return (int(match[1]), int(match[2])) if match else None


def _check_version(name, saved):
    """Refuse files of newer Blenders. 4.2 opens a file of 4.5, drops data, and renders a wrong picture."""
    if saved is not None and tuple(saved) > bpy.app.version[:2]:
        raise Failure("newer_file", file=name, saved=f"{saved[0]}.{saved[1]}", blender=version())


# ------------------------------------------------------------------------------ the job's settings


def _names(things):
    return ", ".join(thing.name for thing in sorted(things, key=lambda thing: thing.name)[:50]) or "none"


def _choose_scene(opened, name):
    if name is not None and name not in bpy.data.scenes:
        raise Failure("unknown_scene", name=repr(name), has=_names(bpy.data.scenes))
    window = bpy.context.window
    opened.scene = bpy.data.scenes[name] if name is not None else bpy.context.scene
    if window is not None:
        window.scene = opened.scene


def _apply_settings(opened, settings):
    scene = opened.scene
    if settings["engine"]:
        engines.set_engine(scene, settings["engine"])
    if settings["camera"] is not None:
        camera = _camera(scene, settings["camera"])
        scene.camera = camera
        for marker in scene.timeline_markers:
            marker.camera = None  # a marker would switch the camera back
    if settings["view_layers"]:
        for name in settings["view_layers"]:
            if name not in scene.view_layers:
                raise Failure("unknown_view_layer", name=repr(name), has=_names(scene.view_layers))
        for layer in scene.view_layers:
            layer.use = layer.name in settings["view_layers"]
    if settings["resolution_percentage"] is not None:
        scene.render.resolution_percentage = settings["resolution_percentage"]
    if settings["samples"] is not None:
        engines.set_samples(opened, settings["samples"])


def _camera(scene, name):
    """The camera object `name`: of the scene, else of the file, since Blender looks through any."""
    cameras = [item for item in bpy.data.objects if item.type == "CAMERA"]
    named = [item for item in cameras if item.name == name]
    if not named:
        raise Failure("unknown_camera", name=repr(name), has=_names(cameras))
    return next((item for item in named if scene.objects.get(item.name) == item), named[0])


def _set_picture_format(opened):
    render = opened.scene.render
    settings = render.image_settings
    if render.is_movie_format:
        movie = settings.file_format
        if hasattr(settings, "media_type"):
            settings.media_type = "IMAGE"
        settings.file_format = "PNG"
        opened.warn("movie_as_frames", format=movie)
    render.use_file_extension = True
    render.use_overwrite = True
    render.use_placeholder = False


def _check_camera(scene):
    lacking = compositor.scene_without_camera(scene)
    if lacking is not None:
        raise Failure("no_camera", scene=repr(lacking), where="")
