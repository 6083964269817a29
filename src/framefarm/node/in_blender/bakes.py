"""Bakes of geometry nodes in folders, made readable.

Blender (4.2 to 5.0) opens the small files of a bake, in its folder `meta`, for writing too. The job's files
lie in a read-only tree, where it gets an empty geometry instead, without a message.
"""

import contextlib
import os
import shutil
import tempfile

import bpy

_copies = {}
"""Folder of a bake → its copy, which outlives the scene's reopening."""


@contextlib.contextmanager
def readable():
    """While a file opens: have its bakes readable before Blender looks for them, which it does once."""
    bpy.app.handlers.load_post.append(_make_readable)
    try:
        yield
    finally:
        bpy.app.handlers.load_post.remove(_make_readable)


@bpy.app.handlers.persistent
def _make_readable(*_):
    """Point every bake in a folder that cannot be written at a copy; its large files stay where they are."""
    for item in bpy.data.objects:
        for modifier in item.modifiers:
            if modifier.type == "NODES":
                for bake in getattr(modifier, "bakes", ()):
                    folder = folder_of(modifier, bake)
                    if folder and _is_unwritable(os.path.join(folder, "meta")):
                        bake.directory = _copy_of(folder)
                        bake.use_custom_path = True


def folder_of(modifier, bake):
    """The folder of a bake; empty if it has none."""
    if bake.use_custom_path:
        stored = bake.directory
    elif modifier.bake_directory:
        stored = os.path.join(modifier.bake_directory, str(bake.bake_id))
    else:
        return ""
    return bpy.path.abspath(stored, library=modifier.id_data.library) if stored else ""


def _is_unwritable(meta):
    try:
        names = os.listdir(meta)
    except OSError:
        return False
    return bool(names) and not os.access(os.path.join(meta, names[0]), os.W_OK)


def _copy_of(folder):
    if folder not in _copies:
        copy = tempfile.mkdtemp(prefix="bake-")
        meta = os.path.join(folder, "meta")
        shutil.copytree(meta, os.path.join(copy, "meta"), copy_function=shutil.copyfile)
        blobs = os.path.join(folder, "blobs")
        if os.path.isdir(blobs):
            os.symlink(blobs, os.path.join(copy, "blobs"))
        _copies[folder] = copy
    return _copies[folder]
