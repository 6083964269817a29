"""Inside the sandbox: open the scene, find its files, make it what the job asks for, check it."""

import errno
import gzip
import os
import re
import sys

import bpy
from in_blender import addons, files
from in_blender.failure import Failure

GPU_KINDS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")
PROBE_BYTES = 64 << 10


class OpenedScene:
    """The open scene, what it is to be rendered with, and what the artist should know."""

    def __init__(self, request):
        self.request = request
        self.notes = []
        self.scene = None
        self.play_history = request["play_history"]
        self.first_frame = 0
        self.played_until = None

    def note(self, code, subject="", **facts):
        self.notes.append((code, subject, {name: str(fact)[:1500] for name, fact in facts.items()}))


class ErrorEar:
    """Standard error, listened to: Blender prints what a scene's scripts raise, and goes on."""

    def __init__(self, under):
        self._under = under
        self._heard = ""

    def write(self, text):
        self._heard = (self._heard + text)[-20000:]
        return self._under.write(text)

    def __getattr__(self, name):
        return getattr(self._under, name)

    def take(self):
        """The last lines of the tracebacks since the last call, each once."""
        lines, self._heard = self._heard.splitlines(), ""
        found, inside = {}, False
        for line in lines:
            if line.startswith("Traceback (most recent call last)"):
                inside = True
            elif inside and line and not line.startswith(" "):
                found[line[:300]] = None
                inside = False
        return list(found)[:10]


ear = ErrorEar(sys.stderr)


def listen():
    if sys.stderr is not ear:
        sys.stderr = ear


def version():
    return bpy.app.version_string.replace(" LTS", "")


def open_scene(request):
    """Open and prepare the scene. Raises Failure."""
    opened = OpenedScene(request)
    check_output(request["output"])
    listen()
    addons.enable(request["addons"])
    _load(opened, request["scene"], request["allow_scripts"])
    files.remap(request["remap"])
    _choose_scene(opened, request["render"]["scene"])
    _override(opened, request["render"])
    _processors(opened.scene, request["threads"])
    _graphics(opened.scene, request["gpus"])
    _picture_format(opened)
    _check_camera(opened.scene)
    files.note_missing(opened, request["remap"])
    opened.notes += script_notes()
    opened.first_frame = opened.scene.frame_start
    return opened


def script_notes():
    return [("script_error", what, {"what": what}) for what in ear.take()]


def check_output(folder):
    """A full disk is no error to Blender: it writes half a PNG or EXR and says FINISHED (4.2)."""
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
        bpy.ops.wm.open_mainfile(filepath=path, load_ui=False, use_scripts=allow_scripts)
    except RuntimeError as error:
        why = " ".join(str(error).replace("Error:", " ").split())
        raise Failure("cannot_open", blender=version(), file=name, what=why.rstrip(".")) from None
    # After a failed open Blender still holds its default scene, and would render it.
    if not bpy.data.filepath or os.path.realpath(bpy.data.filepath) != os.path.realpath(path):
        raise Failure("cannot_open", blender=version(), file=name, what="it went on without it")
    _check_version(name, bpy.data.version[:2])
    if bpy.app.autoexec_fail and not allow_scripts:
        opened.note("blocked_scripts", bpy.app.autoexec_fail_message)


def saved_by(path):
    """The (major, minor) of the Blender that saved `path`, from its first bytes; None if they don't tell."""
    with open(path, "rb") as file:
        start = file.read(20)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path) as file:
            start = file.read(20)
    found = re.match(rb"BLENDER[-_][vV](\d)(\d\d)", start) or re.match(
        rb"BLENDER\d\d-\d\dv(\d\d)(\d\d)", start
    )
    return (int(found[1]), int(found[2])) if found else None


def _check_version(name, saved):
    """4.2 opens a file of 4.5 and drops what it does not know, which is a wrong picture."""
    if saved is not None and tuple(saved) > bpy.app.version[:2]:
        raise Failure("newer_file", file=name, saved=f"{saved[0]}.{saved[1]}", blender=version())


# ----------------------------------------------------------------------------- what is rendered


def _names(things):
    return ", ".join(thing.name for thing in sorted(things, key=lambda thing: thing.name)[:50]) or "none"


def _choose_scene(opened, name):
    if name is not None and name not in bpy.data.scenes:
        raise Failure("unknown_scene", name=repr(name), has=_names(bpy.data.scenes))
    window = bpy.context.window
    opened.scene = bpy.data.scenes[name] if name is not None else bpy.context.scene
    if window is not None:
        window.scene = opened.scene


def _override(opened, wanted):
    scene = opened.scene
    if wanted["engine"]:
        _engine(scene, wanted["engine"])
    if wanted["camera"] is not None:
        cameras = [o for o in scene.objects if o.type == "CAMERA"]
        camera = next((o for o in cameras if o.name == wanted["camera"]), None)
        if camera is None:
            raise Failure("unknown_camera", name=repr(wanted["camera"]), has=_names(cameras))
        scene.camera = camera
        for marker in scene.timeline_markers:
            marker.camera = None  # a marker would switch the camera back
    if wanted["view_layers"]:
        for name in wanted["view_layers"]:
            if name not in scene.view_layers:
                raise Failure("unknown_view_layer", name=repr(name), has=_names(scene.view_layers))
        for layer in scene.view_layers:
            layer.use = layer.name in wanted["view_layers"]
    if wanted["resolution_percentage"] is not None:
        scene.render.resolution_percentage = wanted["resolution_percentage"]
    if wanted["samples"] is not None:
        _samples(opened, wanted["samples"])


def _engine(scene, name):
    eevee = "BLENDER_EEVEE_NEXT" if (4, 2) <= bpy.app.version < (5, 0) else "BLENDER_EEVEE"
    identifier = {"cycles": "CYCLES", "eevee": eevee, "workbench": "BLENDER_WORKBENCH"}.get(name, name)
    try:
        scene.render.engine = identifier
    except TypeError:
        raise Failure("unknown_engine", blender=version(), name=repr(name)) from None


def _samples(opened, count):
    scene = opened.scene
    if scene.render.engine == "CYCLES":
        scene.cycles.samples = count
    elif scene.render.engine.startswith("BLENDER_EEVEE"):
        scene.eevee.taa_render_samples = count
    else:
        opened.note("samples_ignored")


def _processors(scene, threads):
    scene.render.threads_mode = "FIXED"
    scene.render.threads = threads
    if scene.render.engine == "CYCLES":
        scene.cycles.device = "CPU"
        # Keeps what did not change between frames. Measured with 4.2 on a car of 300,000 faces, one thread,
        # few samples: 0.2 s a frame after the first instead of 1.2 s, the same pixels.
        scene.render.use_persistent_data = True


def _graphics(scene, wanted):
    """Cycles asked for a GPU that is not there renders on the processor, and says nothing."""
    if not wanted or scene.render.engine != "CYCLES":
        return
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPU_KINDS:
        try:
            preferences.compute_device_type = kind
        except TypeError:
            continue  # not of this build
        preferences.refresh_devices()
        devices = preferences.get_devices_for_type(kind)
        if any(device.type == kind for device in devices):
            for device in devices:
                device.use = device.type == kind
            scene.cycles.device = "GPU"
            return
    raise Failure("gpu_absent")


def _picture_format(opened):
    render = opened.scene.render
    settings = render.image_settings
    if render.is_movie_format:
        movie = settings.file_format
        if hasattr(settings, "media_type"):
            settings.media_type = "IMAGE"
        settings.file_format = "PNG"
        opened.note("movie_as_frames", format=movie)
    render.use_file_extension = True
    render.use_overwrite = True
    render.use_placeholder = False


def _check_camera(scene):
    if scene.camera is not None or any(marker.camera for marker in scene.timeline_markers):
        return
    editor = scene.sequence_editor
    strips = getattr(editor, "strips_all", getattr(editor, "sequences_all", ())) if editor else ()
    if scene.render.use_sequencer and len(strips):
        return
    raise Failure("no_camera", scene=repr(scene.name), where="")
