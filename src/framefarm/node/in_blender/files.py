"""Correct the file paths of the open scene, and warn of missing files.

Blender on Linux finds most files by itself, `C:\\a` at `/c/a`, since the inputs are where it looks. The
paths to correct are those of remapped inputs, those that differ from an input in case, and those of nodes
that hand their path on unchanged.
"""

import glob
import os
import re

import bpy

MAX_MISSING = 100
BLENDERS_OWN = "/datafiles/assets/"  # of brushes that 4.3 and later link from the artist's installation
TOKENS = {"<UDIM>": r"1\d{3}", "<UVTILE>": r"u\d+_v\d+"}
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
    for block, name in _path_owners():
        path, library = getattr(block, name), getattr(block.id_data, "library", None)
        corrected = _corrected(path, library, table, getattr(block, "type", None) in NODES_WITH_RAW_PATHS)
        if corrected:
            setattr(block, name, corrected)


def _path_owners():
    """(data block, name of its path attribute) of each path to an external file."""
    kinds = ("images", "fonts", "sounds", "movieclips", "cache_files", "volumes", "texts")
    for kind in kinds:
        for block in getattr(bpy.data, kind):
            if getattr(block, "filepath", "") and not getattr(block, "packed_file", None):
                yield block, "filepath"
    for scene in bpy.data.scenes:
        editor = scene.sequence_editor
        strips = getattr(editor, "strips_all", getattr(editor, "sequences_all", ())) if editor else ()
        for strip in strips:
            for name in ("filepath", "directory"):
                if getattr(strip, name, ""):
                    yield strip, name
    for tree in _trees():
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


def _trees():
    yield from bpy.data.node_groups
    for kind in (bpy.data.materials, bpy.data.lights, bpy.data.worlds):
        yield from (block.node_tree for block in kind if block.node_tree is not None)


def _corrected(path, library, table, raw=False):
    """The path of a file that Blender does not find by itself; None if it does, or if the file is missing.

    `raw`: the path is used as it is stored, so that it must be the real one."""
    if not path or path.startswith("<"):
        return None
    resolved = _resolved(path, library)
    if _exists_or_numbered(resolved):
        return resolved if raw and resolved != path else None
    plain = os.path.normpath(resolved)
    known = _artists_path(plain)
    for old, new in table:
        if (known + "/").startswith(old + "/"):
            moved = new + known[len(old) :]
            return moved if _exists_or_numbered(moved) else _without_case(moved)
    return plain if _exists_or_numbered(plain) else _without_case(plain)


def _exists_or_numbered(path):
    return exists(path) or _numbered(path)


def _resolved(path, library):
    """The path where Blender on Linux looks for a stored path."""
    if re.match(r"[A-Za-z]:[\\/]", path):
        return f"/{path[0].lower()}/" + path[3:].replace("\\", "/")
    if path.startswith("\\\\"):
        return "/\\\\" + path[2:].replace("\\", "/")
    if path.startswith("//"):
        path = "//" + path[2:].replace("\\", "/")
    return bpy.path.abspath(path, library=library)


def _artists_path(path):
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


def _sequences():
    """Paths of numbered sequences: any of their files is enough."""
    for kind in ("images", "movieclips"):
        for block in getattr(bpy.data, kind):
            if block.source == "SEQUENCE":
                yield bpy.path.abspath(block.filepath, library=block.library)
    for kind in ("volumes", "cache_files"):
        for block in getattr(bpy.data, kind):
            if block.is_sequence:
                yield bpy.path.abspath(block.filepath, library=block.library)


def _numbered(path):
    """Whether any file of the numbered sequence exists."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    start = stem.rstrip("0123456789")
    return start != stem and bool(
        glob.glob(os.path.join(glob.escape(folder), glob.escape(start) + "[0-9]*" + glob.escape(extension)))
    )


def warn_missing(opened, table):
    """Add a warning for each missing file, by the artist's path: at most 100, and one for the others."""
    stored, absolute = bpy.utils.blend_paths(absolute=False), bpy.utils.blend_paths(absolute=True)
    drives = {whole for path, whole in zip(stored, absolute, strict=False) if re.match(r"[A-Za-z]:", path)}
    sequences = {os.path.normpath(path) for path in _sequences()}
    missing = set()
    for whole in absolute:
        path = os.path.normpath(whole)
        if BLENDERS_OWN not in path and not exists(path) and not (path in sequences and _numbered(path)):
            missing.add(_shown_path(path, table, whole in drives))
    for path in sorted(missing)[:MAX_MISSING]:
        opened.warn("missing_file", path, path=path)
    if len(missing) > MAX_MISSING:
        opened.warn("missing_file", path=f"{len(missing) - MAX_MISSING} more files")


def _shown_path(path, table, on_drive):
    """The artist's path for a path in the sandbox."""
    path = _artists_path(path)
    for old, new in table:
        if (path + "/").startswith(new + "/"):
            return old + path[len(new) :]
    for _, new in table:  # a neighbour of a remapped scene
        tree = new[: new.rindex("/")]
        if tree and path.startswith(tree + "/"):
            return path[len(tree) :]
    return f"{path[1].upper()}:{path[2:]}" if on_drive and len(path) > 2 else path
