"""Correct the file paths of the open scene.

Blender on Linux finds most files by itself, `C:\\a` at `/c/a`, since the inputs are where it looks. The
paths to correct are those of remapped inputs, those that differ from an input in case, and those of nodes
that hand their path on unchanged.
"""

import os
import re

import bpy
from in_blender import shader_scripts

TOKENS = {"<UDIM>": r"1\d{3}", "<UVTILE>": r"u\d+_v\d+"}
LAST_NUMBER = re.compile(r"\d+(?=\D*$)")
NODES_WITH_RAW_PATHS = ("TEX_IES", "SCRIPT")


def remap(table):
    """Replace each artist's path in the scene with its path in the sandbox.

    `table`: pairs (artist's path, path in the sandbox), each valid for the path and all below it.
    """
    done = set()
    while True:  # a library may bring further libraries
        new_libraries = [lib for lib in bpy.data.libraries if lib.name_full not in done]
        if not new_libraries:
            break
        for library in new_libraries:
            done.add(library.name_full)
            path = _corrected(library.filepath, library.parent, table)
            if path:
                library.filepath = path
                library.reload()
    for block, name in path_owners():
        path, library = getattr(block, name), getattr(block.id_data, "library", None)
        corrected = _corrected(path, library, table, getattr(block, "type", None) in NODES_WITH_RAW_PATHS)
        if corrected:
            shader_scripts.assign(block, name, corrected)


def path_owners():
    """(data block, name of its path attribute) of each path to an external file."""
    kinds = ("images", "fonts", "sounds", "movieclips", "cache_files", "volumes", "texts")
    for kind in kinds:
        for block in getattr(bpy.data, kind):
            if getattr(block, "filepath", "") and not getattr(block, "packed_file", None):
                yield block, "filepath"
    for scene in bpy.data.scenes:
        for strip in strips_of(scene):
            for name in ("filepath", "directory"):
                if getattr(strip, name, ""):
                    yield strip, name
    for _, tree in trees():
        for node in tree.nodes:
            if node.type in NODES_WITH_RAW_PATHS and node.mode == "EXTERNAL" and node.filepath:
                yield node, "filepath"
    for item in bpy.data.objects:
        for modifier in item.modifiers:
            domain = getattr(modifier, "domain_settings", None)
            if modifier.type == "MESH_CACHE" and modifier.filepath:
                yield modifier, "filepath"
            elif domain is not None and getattr(domain, "cache_directory", ""):
                yield domain, "cache_directory"


def strips_of(scene):
    editor = scene.sequence_editor
    return getattr(editor, "strips_all", getattr(editor, "sequences_all", ())) if editor else ()


def trees():
    """(data-block, node tree) of each node tree: a group by itself, or the block that it belongs to."""
    yield from ((group, group) for group in bpy.data.node_groups)
    for kind in ("materials", "lights", "worlds", "textures", "linestyles", "scenes"):
        for block in getattr(bpy.data, kind):
            tree = getattr(block, "node_tree", None)
            if tree is not None:
                yield block, tree


def _corrected(path, library, table, raw=False):
    """The path of a file that Blender does not find by itself; None if it does, or if the file is missing.

    `raw`: the path is used as it is stored, so that it must be the real one."""
    if not path or path.startswith("<"):
        return None
    resolved = resolved_path(path, library)
    if not resolved.startswith("/"):
        return None  # without a folder, it has no place to be looked for
    if exists_or_numbered(resolved):
        return resolved if raw and resolved != path else None
    plain = os.path.normpath(resolved)
    known = artists_path(plain)
    for old, new in table:
        if (known + "/").startswith(old + "/"):
            moved = new + known[len(old) :]
            return moved if exists_or_numbered(moved) else _without_case(moved)
    return plain if exists_or_numbered(plain) else _without_case(plain)


def exists_or_numbered(path):
    return exists(path) or numbered(path)


def numbered(path):
    """Whether any file of the numbered sequence exists. Its number is the last one of the name."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    found = LAST_NUMBER.search(stem)
    if not found:
        return False
    pattern = re.compile(
        re.escape(stem[: found.start()]) + r"\d+" + re.escape(stem[found.end() :] + extension)
    )
    try:
        return any(pattern.fullmatch(other) for other in os.listdir(folder))
    except OSError:
        return False


def resolved_path(path, library):
    """The path where Blender on Linux looks for a stored path."""
    if re.match(r"[A-Za-z]:[\\/]", path):
        return f"/{path[0].lower()}/" + path[3:].replace("\\", "/")
    if path.startswith("\\\\"):
        return "/\\\\" + path[2:].replace("\\", "/")
    if path.startswith("//"):
        path = "//" + path[2:].replace("\\", "/")
    return bpy.path.abspath(path, library=library)


def artists_path(path):
    """`path` as in the table: `//server/…` for `/\\\\server/…`, where Blender looks for a UNC path."""
    path = path[1:] if path.startswith("/\\\\") else path
    return "//" + path[2:] if path.startswith("\\\\") else path


def exists(path):
    """Whether a file or folder exists, or any tile of a path with a token."""
    if os.path.exists(path):
        return True
    folder, name = os.path.split(path)
    try:
        return any(token in name for token in TOKENS) and name in _matching(os.listdir(folder), name)
    except OSError:
        return False


def _without_case(path):
    """The one file or folder whose path differs from `path` in case alone; None if not exactly one."""
    if not path.startswith("/"):
        return None  # a bare name, which Blender looks for nowhere
    found = "/"
    for part in path.split("/")[1:]:
        if os.path.exists(os.path.join(found, part)):
            found = os.path.join(found, part)
            continue
        try:
            matches = _matching(os.listdir(found), part)
        except OSError:
            return None
        if len(matches) != 1:
            return None
        found = os.path.join(found, matches[0])
    return found


def _matching(names, part):
    """The names that equal `part` except for case; if `part` has a token, its spellings that match names."""
    token = next((token for token in TOKENS if token in part), None)
    if token is None:
        return [name for name in names if name.lower() == part.lower()]
    before, _, after = part.partition(token)
    pattern = re.compile(f"({re.escape(before)}){TOKENS[token]}({re.escape(after)})", re.IGNORECASE)
    return list({found[1] + token + found[2] for found in map(pattern.fullmatch, names) if found})
