"""Inside the sandbox: point the open scene at its files, and tell which are not there.

Blender on Linux finds most by itself, `C:\\a` at `/c/a`, because the inputs lie where it looks. What is left:
places that an input can't have, names that differ in case, and nodes whose paths it hands on as they are.
"""

import glob
import os
import re

import bpy

MAX_MISSING = 100
BLENDERS_OWN = "/datafiles/assets/"  # brushes that 4.3 and later link from the artist's installation
TOKENS = {"<UDIM>": r"1\d{3}", "<UVTILE>": r"u\d+_v\d+"}
AS_THEY_ARE = ("TEX_IES", "SCRIPT")


def remap(table):
    """`table` pairs (artist's path, path inside), which hold for all below them."""
    done = set()
    while True:  # a library that is found brings libraries of its own
        lost = [lib for lib in bpy.data.libraries if lib.name_full not in done]
        if not lost:
            break
        for library in lost:
            done.add(library.name_full)
            found = _found(library.filepath, library.parent, table)
            if found:
                library.filepath = found
                library.reload()
    for block, name in _path_owners():
        path, library = getattr(block, name), getattr(block.id_data, "library", None)
        found = _found(path, library, table, getattr(block, "type", None) in AS_THEY_ARE)
        if found:
            setattr(block, name, found)


def _path_owners():
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
            if node.type in AS_THEY_ARE and node.mode == "EXTERNAL" and node.filepath:
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


def _found(path, library, table, as_it_is=False):
    """Where a file is that Blender doesn't find by itself; None if it does, or if it is nowhere."""
    if not path or path.startswith("<"):
        return None
    looked = _looked(path, library)
    if _there(looked):
        return looked if as_it_is and looked != path else None
    plain = os.path.normpath(looked)
    known = _artists(plain)
    for old, new in table:
        if (known + "/").startswith(old + "/"):
            moved = new + known[len(old) :]
            return moved if _there(moved) else _without_case(moved)
    return plain if _there(plain) else _without_case(plain)


def _there(path):
    return exists(path) or _numbered(path)


def _looked(path, library):
    """Where Blender on Linux looks for a path as it is stored."""
    if re.match(r"[A-Za-z]:[\\/]", path):
        return f"/{path[0].lower()}/" + path[3:].replace("\\", "/")
    if path.startswith("\\\\"):
        return "/\\\\" + path[2:].replace("\\", "/")
    if path.startswith("//"):
        path = "//" + path[2:].replace("\\", "/")
    return bpy.path.abspath(path, library=library)


def _artists(path):
    """`path` as the table knows it: `/\\\\server/…`, where Blender looks for a UNC path, is `//server/…`."""
    path = path[1:] if path.startswith("/\\\\") else path
    return "//" + path[2:] if path.startswith("\\\\") else path


def exists(path):
    if os.path.exists(path):
        return True
    folder, name = os.path.split(path)
    try:
        return any(token in name for token in TOKENS) and name in _fitting(os.listdir(folder), name)
    except OSError:
        return False


def _without_case(path):
    """The only file or folder whose path differs from `path` in case alone; None if there is none."""
    found = "/"
    for part in path.split("/")[1:]:
        if os.path.exists(os.path.join(found, part)):
            found = os.path.join(found, part)
            continue
        try:
            fits = _fitting(os.listdir(found), part)
        except OSError:
            return None
        if len(fits) != 1:
            return None
        found = os.path.join(found, fits[0])
    return found


def _fitting(names, part):
    """The names that are `part` but for case; with a token in it, `part` as it must be for them."""
    token = next((token for token in TOKENS if token in part), None)
    if token is None:
        return [name for name in names if name.lower() == part.lower()]
    before, _, after = part.partition(token)
    pattern = re.compile(f"({re.escape(before)}){TOKENS[token]}({re.escape(after)})", re.IGNORECASE)
    return list({found[1] + token + found[2] for found in map(pattern.fullmatch, names) if found})


def _sequences():
    """Paths that stand for a row of numbered files: any of them will do."""
    for kind in ("images", "movieclips"):
        for block in getattr(bpy.data, kind):
            if block.source == "SEQUENCE":
                yield bpy.path.abspath(block.filepath, library=block.library)
    for kind in ("volumes", "cache_files"):
        for block in getattr(bpy.data, kind):
            if block.is_sequence:
                yield bpy.path.abspath(block.filepath, library=block.library)


def _numbered(path):
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    start = stem.rstrip("0123456789")
    return start != stem and bool(
        glob.glob(os.path.join(glob.escape(folder), glob.escape(start) + "[0-9]*" + glob.escape(extension)))
    )


def note_missing(opened, table):
    stored, absolute = bpy.utils.blend_paths(absolute=False), bpy.utils.blend_paths(absolute=True)
    drives = {whole for path, whole in zip(stored, absolute, strict=False) if re.match(r"[A-Za-z]:", path)}
    rows = {os.path.normpath(path) for path in _sequences()}
    missing = set()
    for whole in absolute:
        path = os.path.normpath(whole)
        if BLENDERS_OWN not in path and not exists(path) and not (path in rows and _numbered(path)):
            missing.add(_known_as(path, table, whole in drives))
    for path in sorted(missing)[:MAX_MISSING]:
        opened.note("missing_file", path, path=path)
    if len(missing) > MAX_MISSING:
        opened.note("missing_file", path=f"{len(missing) - MAX_MISSING} more files")


def _known_as(path, table, on_drive):
    """`path`, where Blender looks, as the artist knows it."""
    path = _artists(path)
    for old, new in table:
        if (path + "/").startswith(new + "/"):
            return old + path[len(new) :]
    for _, new in table:  # beside a moved scene
        tree = new[: new.rindex("/")]
        if tree and path.startswith(tree + "/"):
            return path[len(tree) :]
    return f"{path[1].upper()}:{path[2:]}" if on_drive and len(path) > 2 else path
