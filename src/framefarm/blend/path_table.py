"""Table of the structs that hold paths, from Blender's own description of its files (DNA), 4.2 to 5.3.

docs/traced-paths.md has the same rows, and tests/docs_sync/test_traced_paths.py compares both with each other
and with the structs of real files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from framefarm.blend.file import Block, listbase, name_of, pointer, text
from framefarm.blend.references import Reference, as_tiles

IMAGE_SEQUENCE, IMAGE_MOVIE, IMAGE_TILED = 2, 3, 6
IMAGE_KINDS = {1: "image", IMAGE_SEQUENCE: "sequence", IMAGE_MOVIE: "movie", IMAGE_TILED: "tiles"}
MOVIE_CLIP_SEQUENCE = 1
PTCACHE_BAKED, PTCACHE_DISK, PTCACHE_EXTERNAL = 1 << 0, 1 << 6, 1 << 9
FLUID_BAKED_DATA = 1 << 1
BAKE_CUSTOM_PATH = 1 << 1
BAKE_TO_FILE = 1
STRIP_KINDS = {0: "image", 3: "movie", 4: "sound", 5: "sound"}
LAYER_HIDDEN = 1 << 0
IDP_STRING = 0
CUSTOM_SHADER_EXTERNAL = 1
IMPORTED = (b".stl", b".obj", b".ply", b".csv", b".vdb", b".txt", b".usd", b".usda", b".usdc", b".abc")
"""Ends of names that import nodes take."""

OWNERS = {
    "CA": "camera", "CF": "cache file", "IM": "image", "LA": "light", "LI": "library", "MA": "material",
    "MC": "movie clip", "ME": "mesh", "NT": "node group", "OB": "object", "SC": "scene", "SO": "sound",
    "TE": "texture", "VF": "font", "VO": "volume", "WO": "world",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a struct lies. `file` is the name of its .blend; `library` the stored path of the library that
    its owner was packed from, or empty; `linked` the data-blocks that are linked from it, if it is a
    library."""

    owner: Block
    file: bytes
    library: bytes
    linked: frozenset[bytes]

    @property
    def wanted_by(self) -> str:
        """The owner, as text for a person."""
        return f"{OWNERS.get(self.owner.code.decode('ascii', 'replace'), 'data')} {name_of(self.owner)}"


Read = Callable[[Block, Place], Iterator[Reference]]


def _image(block: Block, place: Place) -> Iterator[Reference]:
    kind = IMAGE_KINDS.get(block.get(b"source", 1))
    if kind is None or pointer(block, b"packedfile") or pointer(block, (b"packedfiles", b"first")):
        return
    stored = _path(block)
    tiles: tuple[int, ...] = ()
    if kind == "tiles":
        stored = as_tiles(stored)
        tiles = tuple(
            sorted({t[b"tile_number"] for t in listbase(pointer(block, (b"tiles", b"first")), 10_000)})
        )
    many = kind in ("sequence", "tiles")
    yield Reference(stored, kind, place.wanted_by, many, tiles)
    for view in listbase(pointer(block, (b"views", b"first")), 100):
        other = view.get(b"filepath", b"")
        if other and other != stored:
            yield Reference(other, kind, place.wanted_by, many, required=False)


def _clip(block: Block, place: Place) -> Iterator[Reference]:
    sequence = block.get(b"source", 0) == MOVIE_CLIP_SEQUENCE
    yield Reference(_path(block), "sequence" if sequence else "movie", place.wanted_by, sequence)


def _sound(block: Block, place: Place) -> Iterator[Reference]:
    if not pointer(block, b"packedfile"):
        yield Reference(_path(block), "sound", place.wanted_by)


def _font(block: Block, place: Place) -> Iterator[Reference]:
    stored = _path(block)
    if stored != b"<builtin>" and not pointer(block, b"packedfile"):
        yield Reference(stored, "font", place.wanted_by)


def _library(block: Block, place: Place) -> Iterator[Reference]:
    # A library that nothing is linked from, or that data was packed from (5.0), is never opened.
    if place.linked and not pointer(block, b"packedfile"):
        # Up to 4.x `filepath` is, besides, where the library lay on the machine that saved the file.
        stored = block.get(b"name", b"") or block.get(b"filepath", b"")
        yield Reference(stored, "library", place.wanted_by, names=place.linked)


def _volume(block: Block, place: Place) -> Iterator[Reference]:
    if not pointer(block, b"packedfile"):
        yield Reference(_path(block), "volume", place.wanted_by, bool(block.get(b"is_sequence", 0)))


def _cache_file(block: Block, place: Place) -> Iterator[Reference]:
    yield Reference(_path(block), "cache", place.wanted_by, bool(block.get(b"is_sequence", 0)))


def _cache_layer(block: Block, place: Place) -> Iterator[Reference]:
    hidden = bool(block.get(b"flag", 0) & LAYER_HIDDEN)
    yield Reference(_path(block), "cache", f"layer of {place.wanted_by}", required=not hidden)


def _mesh_cache(block: Block, place: Place) -> Iterator[Reference]:
    yield Reference(_path(block), "cache", _modifier(block, place))


def _mesh_external(block: Block, place: Place) -> Iterator[Reference]:
    yield Reference(block.get(b"filename", b"") or block.get(b"filepath", b""), "cache", place.wanted_by)


def _ocean(block: Block, place: Place) -> Iterator[Reference]:
    folder = block.get(b"cachepath", b"")
    if block.get(b"cached", 0) and folder:
        for part in (b"disp", b"normal", b"foam", b"spray", b"spray_inverse"):
            stored = _join(folder, part + b"_*.exr")
            yield Reference(stored, "cache", _modifier(block, place), True, required=part == b"disp")


def _fluid(block: Block, place: Place) -> Iterator[Reference]:
    folder = block.get(b"cache_directory", b"")
    if not folder:
        return
    baked = bool(block.get(b"cache_flag", 0) & FLUID_BAKED_DATA)
    wanted_by = f"fluid of {place.wanted_by}"
    if folder.strip(b"/.\\"):
        yield Reference(folder, "cache", wanted_by, True, required=baked)
        return
    for part in (b"config", b"data", b"noise", b"mesh", b"particles", b"guiding"):  # the folder of the scene
        required = baked and part == b"data"
        yield Reference(_join(folder, part), "cache", wanted_by, True, required=required)


def _point_cache(block: Block, place: Place) -> Iterator[Reference]:
    """Files as BKE_ptcache (`ptcache_path`, `ptcache_filename`) names them."""
    flag, name = block.get(b"flag", 0), block.get(b"name", b"")
    wanted_by = f"point cache {text(name)} of {place.wanted_by}".replace("cache  of", "cache of")
    if flag & PTCACHE_EXTERNAL:
        folder = block.get(b"path", b"")
        if folder:
            yield Reference(_join(folder, name + b"_*.bphys"), "cache", wanted_by, True)
    elif flag & PTCACHE_DISK:
        folder = b"//blendcache_" + _stem(place.file)
        if not name:
            name = name_of(place.owner).encode().hex().upper().encode() if place.owner.code == b"OB" else b"*"
        baked = bool(flag & PTCACHE_BAKED)
        yield Reference(_join(folder, name + b"_*.bphys"), "cache", wanted_by, True, required=baked)


def _node_bakes(block: Block, place: Place) -> Iterator[Reference]:
    bakes = block.get_pointer(b"bakes", None)
    if bakes is None or bakes.dna_type_name != "NodesModifierBake":
        return  # without bakes there is an address, but no block
    shared = _string(block, b"bake_directory") or _string(block, b"simulation_bake_directory")
    for number in range(min(block.get(b"bakes_num", bakes.count), bakes.count)):
        bake = bakes.item(number)
        if pointer(bake, b"packed") is not None:
            continue
        target = bake.get(b"bake_target", 0) or block.get(b"bake_target", 2)
        own = _string(bake, b"directory") if bake.get(b"flag", 0) & BAKE_CUSTOM_PATH else b""
        if own:
            yield Reference(
                own, "cache", f"bake of {_modifier(block, place)}", True, required=target != BAKE_TO_FILE
            )
        elif shared:
            folder = _join(shared, str(bake.get(b"id", 0)).encode())
            required = target != BAKE_TO_FILE
            yield Reference(folder, "cache", f"bake of {_modifier(block, place)}", True, required=required)


def _node(block: Block, place: Place) -> Iterator[Reference]:
    kind = block.get(b"idname", b"")
    if kind in (b"ShaderNodeScript", b"ShaderNodeTexIES"):
        storage = block.get_pointer(b"storage", None)
        if storage is not None and storage.get(b"mode", 0) == CUSTOM_SHADER_EXTERNAL:
            what = "light" if kind == b"ShaderNodeTexIES" else "script"
            yield Reference(_path(storage), what, _named_node(block, place))
    elif kind.startswith(b"GeometryNodeImport"):
        linked = _linked_sockets(block)
        for socket in listbase(pointer(block, (b"inputs", b"first")), 100):
            value = pointer(socket, b"default_value")
            if value is not None and value.dna_type_name == "bNodeSocketValueString":
                required = socket.addr_old not in linked
                yield Reference(
                    value.get(b"value", b""), "file", _named_node(block, place), required=required
                )


def _linked_sockets(node: Block) -> set[int]:
    """Addresses of the sockets of its tree that take their value from another node."""
    blend, found = node.bfile, set()
    for index in blend.group(blend.group_number(node.index)):
        if blend.struct_name(index) == "bNodeLink":
            found.add(Block(blend, index).get(b"tosock", 0))
    return found


def _socket_text(block: Block, place: Place) -> Iterator[Reference]:
    yield from _imported(block.get(b"value", b""), place)


def _input_text(block: Block, place: Place) -> Iterator[Reference]:
    yield from _imported(_string(block, b"string"), place)


def _property(block: Block, place: Place) -> Iterator[Reference]:
    # The inputs of a Geometry Nodes modifier are custom properties.
    if block.get(b"type") == IDP_STRING and place.owner.code == b"OB":
        held = block.get_pointer((b"data", b"pointer"), None)
        if held is not None and held.size <= 4096:
            yield from _imported(held.as_bytes_string(), place)


def _imported(stored: bytes, place: Place) -> Iterator[Reference]:
    """A text that may reach an import node: it is sent if it is the path of a file."""
    if stored.lower().endswith(IMPORTED):
        yield Reference(stored, "file", place.wanted_by, required=False)


def _camera(block: Block, place: Place) -> Iterator[Reference]:
    stored = block.get(b"custom_filepath", b"")
    if stored and block.get(b"custom_mode", 0) == CUSTOM_SHADER_EXTERNAL:
        yield Reference(stored, "script", place.wanted_by)


def _strip(block: Block, place: Place) -> Iterator[Reference]:
    """Strips of the sequencer, also within meta strips. DNA's name of a strip is Sequence, of its files
    Strip."""
    kind = STRIP_KINDS.get(block.get(b"type"))
    files = block.get_pointer(b"strip", None)
    names = pointer(files, b"stripdata")
    if kind is None or names is None or names.dna_type_name != "StripElem":
        return
    if kind == "sound" and pointer(block, b"sound") is not None:
        return  # the sound data-block names the file
    folder = files.get(b"dir", b"")
    wanted_by = f"strip {text(block.get(b'name')[2:])} of {place.wanted_by}"
    suffixes = _view_suffixes(place.owner)
    for number in range(names.count if kind == "image" else 1):
        name = names.item(number).get(b"name", b"")
        if name:
            yield Reference(_join(folder, name), kind, wanted_by)
            stem, dot, extension = name.rpartition(b".")
            for suffix in suffixes:
                if stem.endswith(suffix):  # of a strip of several views
                    for other in suffixes - {suffix}:
                        view = stem.removesuffix(suffix) + other + dot + extension
                        yield Reference(_join(folder, view), kind, wanted_by, required=False)


def _view_suffixes(scene: Block) -> set[bytes]:
    views = listbase(pointer(scene, (b"r", b"views", b"first")), 100)
    return {view.get(b"suffix", b"") for view in views} - {b""}


def _path(block: Block) -> bytes:
    """Path of a struct: DNA keeps the old name `name` for some members that Blender's code calls
    `filepath`."""
    stored: bytes = block.get(b"filepath", None)
    if stored is None:
        stored = block.get(b"name", b"")
    return stored


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + name if folder.endswith((b"/", b"\\")) else folder + b"/" + name


def _stem(file: bytes) -> bytes:
    head, dot, _ = file.rpartition(b".")
    return head if dot and head else file


def _string(block: Block, member: bytes) -> bytes:
    held: Any = block.get_pointer(member, None)
    return b"" if held is None else bytes(held.as_bytes_string())


def _modifier(block: Block, place: Place) -> str:
    return f"modifier {text(block.get((b'modifier', b'name'), b''))} of {place.wanted_by}"


def _named_node(block: Block, place: Place) -> str:
    return f"node {text(block.get(b'name', b''))} of {place.wanted_by}"


READERS: dict[str, Read] = {
    "Image": _image,
    "MovieClip": _clip,
    "bSound": _sound,
    "VFont": _font,
    "Library": _library,
    "Volume": _volume,
    "CacheFile": _cache_file,
    "CacheFileLayer": _cache_layer,
    "MeshCacheModifierData": _mesh_cache,
    "CustomDataExternal": _mesh_external,
    "OceanModifierData": _ocean,
    "FluidDomainSettings": _fluid,
    "PointCache": _point_cache,
    "NodesModifierData": _node_bakes,
    "bNode": _node,
    "bNodeSocketValueString": _socket_text,
    "NodeInputString": _input_text,
    "IDProperty": _property,
    "Camera": _camera,
    "Sequence": _strip,
}
"""Struct → its reader. A struct that another one leads to (`StripElem`, `NodeShaderTexIES`) is read there."""

READ_THERE = {
    "ImageView": "Image", "ImagePackedFile": "Image", "Strip": "Sequence", "StripElem": "Sequence",
    "NodeShaderScript": "bNode", "NodeShaderTexIES": "bNode", "NodesModifierBake": "NodesModifierData",
}  # fmt: skip
"""Struct → the struct whose reader reads it."""

NO_INPUTS = {
    "AnimOverride": "names a property",
    "AssetCatalogPathLink": "a catalog",
    "AssetMetaData": "a catalog",
    "AssetShelfSettings": "a catalog",
    "BakeData": "an output: the textures that Cycles bakes",
    "Brush": "an icon of the user interface",
    "CacheObjectPath": "a path within a cache",
    "DynamicPaintSurface": "an output: the pictures that dynamic paint bakes",
    "Editing": "proxies and the folders last used: a render reads the originals",
    "FileGlobal": "where the .blend was saved",
    "FileSelectParams": "the file browser",
    "FluidsimSettings": "a fluid of Blender 2.81 and before, which no later one computes",
    "LibraryWeakReference": "where appended data came from",
    "Library_Runtime": "made when the file is opened",
    "MeshSeqCacheModifierData": "a path within a cache",
    "MovieClipProxy": "proxies: a render reads the original",
    "NodeImageFile": "an output",
    "NodeImageMultiFile": "an output",
    "NodeImageMultiFileSocket": "an output",
    "RenderData": "an output",
    "Script": "an editor of the user interface",
    "StripProxy": "proxies: a render reads the originals",
    "Text": "its text is in the .blend",
    "UserDef": "preferences",
    "View3DShading": "a name among Blender's own lights",
    "XrComponentPath": "names of devices",
    "XrUserPath": "names of devices",
    "bPathCompare": "preferences",
    "bTheme": "preferences",
    "bTransformCacheConstraint": "a path within a cache",
    "bUserAssetLibrary": "preferences: what is used of an asset library is linked or appended",
    "bUserExtensionRepo": "preferences",
    "bUserMenuItem_Prop": "preferences",
    "bUserScriptDirectory": "preferences",
}
"""Structs with path-like members that name no file which a render reads, and the reason."""
