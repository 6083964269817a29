"""Makes scenes that fail, each in its own way: `python make_failing_scenes.py DIR`, with bpy."""

import os
import sys

import bpy
from make_scenes import base, compositor, save

SCRIPTS = {
    "raises": "raise ValueError('the rig is broken')",
    "segfaults": "import ctypes; ctypes.string_at(0)",
    "exits": "import os; print('that was all', flush=True); os._exit(3)",
    "hangs": "import os, time\nos.closerange(3, 256)\nwhile True: time.sleep(60)",
    "other_frame": "def move(scene, *_):\n    scene.frame_set(scene.frame_current + 1)\n"
    "bpy.app.handlers.render_init.append(move)\nbpy.app.handlers.render_pre.append(move)",
    "deletes": "import os\ndef delete(scene, *_):\n"
    "    folder = os.path.dirname(scene.render.filepath)\n"
    "    [os.unlink(os.path.join(folder, n)) for n in os.listdir(folder) if not n.endswith('_L.png')]\n"
    "bpy.app.handlers.render_write.append(delete)",
    "heavy_first": "def fill(scene, *_):\n    scene.frame_current == 1 and bytearray(b'x') * (300 << 20)\n"
    "bpy.app.handlers.render_pre.append(fill)",
    "fails_in_frame_3": "import os\ndef delete(scene, *_):\n"
    "    scene.frame_current == 3 and os.unlink(scene.render.frame_path(frame=3))\n"
    "bpy.app.handlers.render_write.append(delete)",
    "crashes_once_drawn": "import os, signal\ndef crash(*_):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    "bpy.app.handlers.render_post.append(crash)",
    "aborts_compositing": "import os, signal\nsaid = []\ndef crash(*given):\n"
    "    said.extend(a for a in given if 'Compositing' in str(a))\n"
    "    len(said) > 1 and os.kill(os.getpid(), signal.SIGABRT)\n"
    "bpy.app.handlers.render_stats.append(crash)",
    "handler": "def fail(*_):\n    raise KeyError('in a handler')\nbpy.app.handlers.render_pre.append(fail)",
}


def main(folder):
    for name, code in SCRIPTS.items():
        scene = base()
        if name == "crashes_once_drawn":
            scene.render.engine = "BLENDER_EEVEE" if bpy.app.version >= (5, 0) else "BLENDER_EEVEE_NEXT"
            scene.eevee.taa_render_samples = 1
        if name == "aborts_compositing":
            compositor(scene)
        text = bpy.data.texts.new("rig.py")
        text.write("import bpy\n" + code)
        text.use_module = True
        save(folder, name)

    base()
    text = bpy.data.texts.new("rig.py")
    text.write("import bpy\n" + SCRIPTS["deletes"])
    text.use_module = True
    bpy.context.scene.render.use_multiview = True
    bpy.context.scene.render.image_settings.views_format = "INDIVIDUAL"
    save(folder, "deletes_an_eye")

    scene = base()
    scene.render.resolution_x, scene.render.resolution_y = 640, 360
    scene.cycles.samples = 1
    save(folder, "noisy")
    scene.render.image_settings.compression = 0
    save(folder, "large_png")
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.exr_codec = "NONE"
    save(folder, "large_exr")

    scene = base()
    scene.render.resolution_x = scene.render.resolution_y = 8192
    scene.cycles.samples = 1
    scene.cycles.use_auto_tile = False
    save(folder, "huge")

    scene = base()
    scene.render.engine = "BLENDER_EEVEE" if bpy.app.version >= (5, 0) else "BLENDER_EEVEE_NEXT"
    save(folder, "eevee")

    scene = base()
    scene.render.use_border = scene.render.use_crop_to_border = True
    scene.render.border_min_x, scene.render.border_max_x = 0.5, 0.501
    save(folder, "no_pixels")

    scene = base()  # slow until frame 5, quick after it
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.samples = 1_000_000
    scene.cycles.keyframe_insert("samples", frame=5)
    scene.cycles.samples = 1
    scene.cycles.keyframe_insert("samples", frame=6)
    for curve in curves(scene):
        for point in curve.keyframe_points:
            point.interpolation = "CONSTANT"
    save(folder, "slow")


def curves(scene):
    action = scene.animation_data.action
    if hasattr(action, "fcurves"):
        return action.fcurves
    return action.layers[0].strips[0].channelbags[0].fcurves


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
