"""Scripts of shader nodes in files, compiled where Blender may write.

Cycles compiles `x.osl` to `x.oso` beside it. The job's files lie in a read-only tree, where it draws another
picture instead, without a message (4.2 to 5.2). A node that holds the compiled script needs no file.
"""

import contextlib
import hashlib
import io
import os
import tempfile

import bpy


def compile_all():
    """Have every script node with an `.osl` file hold that script, compiled; as it is if it cannot be."""
    if not any(scene.render.engine == "CYCLES" and scene.cycles.shading_system for scene in bpy.data.scenes):
        return
    compiled = {}
    for node in _script_nodes():
        source = bpy.path.abspath(node.filepath, library=node.id_data.library)
        if source.lower().endswith(".osl") and os.path.isfile(source):
            if source not in compiled:
                compiled[source] = _compile(source)
            if code := compiled[source]:
                assign(node, "bytecode", code)
                assign(node, "bytecode_hash", hashlib.md5(code.encode(), usedforsecurity=False).hexdigest())


def assign(owner, name, value):
    """Set an attribute. A script node's sockets stay as they are, silently.

    Blender would read them from the script again; from 4.5 on the wheels lack the module for it (`oslquery`).
    """
    quiet = getattr(owner, "bl_idname", "") == "ShaderNodeScript"
    with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
        setattr(owner, name, value)


def _compile(source):
    """The compiled script as text; empty if it cannot be compiled, which Blender has printed."""
    import _cycles

    with tempfile.TemporaryDirectory(prefix="script-") as folder:
        path = os.path.join(folder, "script.oso")
        if not _cycles.osl_compile(source, path):
            return ""
        with open(path, encoding="utf-8") as file:
            return file.read()


def _script_nodes():
    """All script nodes that name a file, in materials, lights, worlds and node groups."""
    owners = (bpy.data.materials, bpy.data.lights, bpy.data.worlds)
    trees = [owner.node_tree for kind in owners for owner in kind]
    for tree in [*trees, *bpy.data.node_groups]:
        for node in tree.nodes if tree is not None else ():
            if node.bl_idname == "ShaderNodeScript" and node.mode == "EXTERNAL" and node.filepath:
                yield node
