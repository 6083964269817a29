"""Files that the open scene uses, with their users: warnings of the missing ones.

Blender's own list of used paths is taken (`bpy.data.file_path_map`, from 4.5 on; `bpy.utils.blend_paths`
before), and beside it our own walk, which knows the node, strip or modifier that holds a path, and caches
that Blender leaves out. Not counted are paths that Blender lists and never reads: texts, images that it makes
itself, default folders of caches that were never baked, libraries whose content is packed, files that
appended data-blocks came from.
"""

import os
import re

import bpy
from in_blender import files

MAX_MISSING = 100
MAX_USERS = 1000
MAX_USERS_TEXT = 300_000
SEQUENCES = {
    "images": "source",
    "movieclips": "source",
    "volumes": "is_sequence",
    "cache_files": "is_sequence",
}
KINDS = {
    "IMAGE": "image", "FONT": "font", "SOUND": "sound", "MOVIECLIP": "movie clip", "CACHEFILE": "cache file",
    "VOLUME": "volume", "LIBRARY": "library", "NODETREE": "node group",
}  # fmt: skip
TYPES = {
    "IMAGE": "Image", "FONT": "VectorFont", "SOUND": "Sound", "MOVIECLIP": "MovieClip",
    "CACHEFILE": "CacheFile", "VOLUME": "Volume", "LIBRARY": "Library", "NODETREE": "NodeTree",
}  # fmt: skip
PATH_SUBTYPES = ("FILE_PATH", "DIR_PATH")


class UsedPath:
    """A path that the scene uses. `path`: absolute, in the sandbox; `many`: a sequence, of which any file is
    enough; `block`: the data-block that holds it, None if not known."""

    def __init__(self, block, stored, user, many=False):
        self.block, self.stored, self.user, self.many = block, stored, user, many
        # A library's own path is relative to the scene, also where another library links it.
        library = getattr(block, "library", None) if block is not None else None
        self.path = os.path.normpath(files.resolved_path(stored, library))

    def is_missing(self):
        if self.path == "." or is_blenders_own(self.path):
            return False
        return not (files.exists(self.path) or (self.many and files.numbered(self.path)))


def warn_missing(opened, table):
    """Add a warning for each missing file, by the artist's path: at most 100, and one for the others.

    Sets `opened.users`, too: (path in the sandbox, user, artist's path) of files that Blender reads later."""
    used = all_used()
    missing = {}
    for item in used:
        if item.is_missing():
            missing.setdefault(shown_path(item, table), item)
    shown = sorted(missing.items())[:MAX_MISSING]
    holders = _holders([item.block for _, item in shown])
    for path, item in shown:
        item.user += holders.get(item.block, "") if item.user else ""
        opened.warn("missing_file", path, path=path, wanted_by=f" ({item.user})" if item.user else "")
    opened.users = _users_of([item for _, item in shown], used, table)
    if len(missing) > MAX_MISSING:
        opened.warn("missing_file", path=f"{len(missing) - MAX_MISSING} more files")


def all_used():
    """All used paths, each once."""
    found, unread = {}, set()
    for item in _own_walk(unread):
        if item.stored and not item.stored.startswith("<"):
            found.setdefault(item.path, item)
    unread -= found.keys()
    listed = [item for item in _blenders_list() if item.path not in unread and item.path not in found]
    if any(item.is_missing() for item in listed):
        unread = _weak_references() - found.keys()
        listed = [item for item in listed if item.path not in unread]
    for item in listed:
        found.setdefault(item.path, item)
    return list(found.values())


# -------------------------------------------------------------------------------- Blender's own list


def _blenders_list():
    if hasattr(bpy.data, "file_path_map"):
        for block, paths in bpy.data.file_path_map(include_libraries=True).items():
            # Scenes keep old paths of sounds in their strips; a linked block has its library's path, too.
            library = getattr(block, "library", None)
            for stored in paths if kind_of(block) != "SCENE" else ():
                if library is None or stored != library.filepath:
                    yield UsedPath(block, stored, name_of(block))
        return
    stored, absolute = bpy.utils.blend_paths(absolute=False), bpy.utils.blend_paths(absolute=True)
    sounds = {os.path.basename(sound.filepath) for sound in bpy.data.sounds}
    if len(stored) == len(absolute):
        for short, whole in zip(stored, absolute):  # noqa: B905
            item = UsedPath(None, whole, "")
            item.stored = short
            if os.path.basename(whole) not in sounds:
                yield item


def _weak_references():
    """Paths of the files that appended data-blocks once came from: Blender lists them, and reads none."""
    paths = set()
    for collection in bpy.data.bl_rna.properties:
        if collection.type == "COLLECTION":
            for block in getattr(bpy.data, collection.identifier):
                origin = getattr(block, "library_weak_reference", None)
                if origin is not None and origin.filepath:
                    paths.add(UsedPath(block, origin.filepath, "").path)
    return paths


# -------------------------------------------------------------------------------- our own walk


def _own_walk(unread):
    """Used paths by all that holds them. `unread` gets the paths that are held and never read."""
    for library in bpy.data.libraries:
        item = UsedPath(library, library.filepath, name_of(library))
        if _is_packed(library):
            unread.add(item.path)
        else:
            yield item
    for kind in ("images", "fonts", "sounds", "movieclips", "cache_files", "volumes"):
        for block in getattr(bpy.data, kind):
            many = getattr(block, SEQUENCES[kind]) in (True, "SEQUENCE") if kind in SEQUENCES else False
            item = UsedPath(block, block.filepath, name_of(block), many)
            if getattr(block, "packed_file", None) or getattr(block, "source", "") in ("GENERATED", "VIEWER"):
                unread.add(item.path)
            else:
                yield item
    unread.update(UsedPath(text, text.filepath, "").path for text in bpy.data.texts if text.filepath)
    for scene in bpy.data.scenes:
        yield from _of_strips(scene)
    for owner, tree in files.trees():
        yield from _of_nodes(owner, tree)
    for item in bpy.data.objects:
        if item.modifiers or item.particle_systems or item.rigid_body:
            yield from _of_caches(item, unread)


def _is_packed(library):
    """Whether nothing of a library is read from its file."""
    if getattr(library, "packed_file", None) or getattr(library, "is_archive", False):
        return True
    # A library whose data was packed stays listed, with nothing that is linked from it.
    return all(getattr(block, "is_linked_packed", False) for block in library.users_id)


def _of_strips(scene):
    for strip in files.strips_of(scene):
        user = f"strip {strip.name} of scene {scene.name}"
        if getattr(strip, "filepath", ""):
            yield UsedPath(scene, strip.filepath, user)
        if strip.type == "IMAGE":
            for element in strip.elements:
                yield UsedPath(scene, os.path.join(strip.directory, element.filename), user)


_path_properties = {}
"""Type of node → the names of its properties that are paths."""


def _of_nodes(owner, tree):
    for node in tree.nodes:
        names = _path_properties.get(node.bl_idname)
        if names is None:
            properties = node.bl_rna.properties
            names = [p.identifier for p in properties if getattr(p, "subtype", "") in PATH_SUBTYPES]
            _path_properties[node.bl_idname] = names
        user = f"node {node.name} of {name_of(owner)}"
        if (
            names
            and getattr(node, "mode", "EXTERNAL") == "EXTERNAL"
            and node.type in files.NODES_WITH_RAW_PATHS
        ):
            for name in names:
                yield UsedPath(owner, getattr(node, name), user)
        for socket in node.inputs if node.bl_idname.startswith("GeometryNodeImport") else ():
            if socket.type == "STRING" and not socket.is_linked and socket.default_value:
                yield UsedPath(owner, socket.default_value, user)


def _of_caches(item, unread):
    for modifier in item.modifiers:
        user = f"modifier {modifier.name} of {name_of(item)}"
        if modifier.type == "MESH_CACHE":
            yield UsedPath(item, modifier.filepath, user)
        elif modifier.type == "OCEAN":
            found = UsedPath(item, modifier.filepath, user)
            if modifier.is_cached:
                yield found
            else:
                unread.add(found.path)
        elif modifier.type == "FLUID" and getattr(modifier, "domain_settings", None) is not None:
            domain = modifier.domain_settings
            found = UsedPath(item, domain.cache_directory, user)
            if domain.has_cache_baked_any:
                yield found
            else:
                unread.add(found.path)
    for cache, user in _point_caches(item):
        if cache.use_external:
            if cache.filepath:
                yield UsedPath(item, cache.filepath, user)
        elif cache.use_disk_cache and cache.is_baked:
            yield UsedPath(item, _cache_folder(item, cache), user)
    # From 5.2 on Blender lists such a folder for each particle system, also where nothing is baked.
    saved_as = item.library.filepath if item.library else bpy.data.filepath
    unread.add(UsedPath(item, "//" + _cache_name(saved_as), "").path)


def _point_caches(item):
    """(point cache, its user) of each of an object's simulations."""
    for modifier in item.modifiers:
        user = f"modifier {modifier.name} of {name_of(item)}"
        if getattr(modifier, "point_cache", None) is not None:
            yield modifier.point_cache, user
        canvas = getattr(modifier, "canvas_settings", None)
        for surface in canvas.canvas_surfaces if canvas is not None else ():
            yield surface.point_cache, user
    for system in item.particle_systems:
        yield system.point_cache, f"particle system {system.name} of {name_of(item)}"


def _cache_folder(item, cache):
    """Folder of a point cache on disk: beside the scene, or beside the library that the object is from."""
    library = item.library if cache.use_library_path else None
    path = files.resolved_path(library.filepath, None) if library is not None else bpy.data.filepath
    return os.path.join(os.path.dirname(path), _cache_name(path))


def _cache_name(saved_as):
    return "blendcache_" + re.split(r"[\\/]", saved_as)[-1][: -len(".blend")]


# ------------------------------------------------------------------------------------- users


def kind_of(block):
    """The type of a data-block, as `IMAGE`; Blender 3 does not tell it."""
    told = getattr(block, "id_type", None)
    if told is not None:
        return told
    names = (kind for kind, name in TYPES.items() if isinstance(block, getattr(bpy.types, name)))
    return next(names, block.bl_rna.identifier.upper())


def name_of(block):
    """A data-block as the artist calls it: `image wood.png`."""
    return f"{KINDS.get(kind_of(block)) or block.bl_rna.name.lower()} {block.name}"


def _holders(blocks):
    """Data-block → `, used by …` with the first of the data-blocks that use it."""
    plain = {block for block in blocks if block is not None and kind_of(block) in KINDS}
    if not plain:
        return {}
    linked = {block: block.users_id for block in plain if kind_of(block) == "LIBRARY"}
    others = plain - linked.keys()
    users = {**linked, **(bpy.data.user_map(subset=others) if others else {})}
    texts = {}
    for block, using in users.items():
        names = sorted(name_of(u) for u in using if u != block and kind_of(u) not in ("LIBRARY", "SCREEN"))
        if names:
            texts[block] = f", {'for' if kind_of(block) == 'LIBRARY' else 'used by'} {names[0]}"
    return texts


def _users_of(missing, used, table):
    """(path, user, artist's path) of what is missing, of what Blender reads frame by frame or hands on, then
    of all else, within bounds. The number of a sequence is `#`."""
    triples, room = {}, MAX_USERS_TEXT
    for item in [*missing, *sorted(used, key=lambda item: not _is_read_late(item))]:
        path, shown = _as_pattern(item.path, item.many), _as_pattern(shown_path(item, table), item.many)
        room -= len(path) + len(item.user) + len(shown)
        if room < 0 or len(triples) == MAX_USERS:
            break
        triples.setdefault(path, (path, item.user, shown))
    return list(triples.values())


def _as_pattern(path, many):
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    return os.path.join(folder, files.LAST_NUMBER.sub("#", stem) + extension) if many else path


def _is_read_late(item):
    kind = kind_of(item.block) if item.block is not None else ""
    return item.many or "<" in item.path or kind not in ("IMAGE", "LIBRARY", "FONT", "SOUND", "")


# ------------------------------------------------------------------------------------- paths


def is_blenders_own(path):
    """Whether a path leads to the assets of any Blender's installation, of which this Blender has its own."""
    inner = re.search(r"/\d+\.\d+/datafiles/assets/(.+)$", path)
    own = bpy.utils.system_resource("DATAFILES", path="assets") if inner else ""
    return bool(own) and os.path.exists(os.path.join(own, inner[1]))


def shown_path(item, table):
    """The artist's path for a used path."""
    path = files.artists_path(item.path)
    for old, new in table:
        if (path + "/").startswith(new + "/"):
            return old + path[len(new) :]
    for _, new in table:  # a neighbour of a remapped scene
        tree = new[: new.rindex("/")]
        if tree and path.startswith(tree + "/"):
            return path[len(tree) :]
    on_drive = re.match(r"[A-Za-z]:[\\/]", item.stored) and len(path) > 2
    return f"{path[1].upper()}:{path[2:]}" if on_drive else path
