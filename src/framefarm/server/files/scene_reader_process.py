"""Process that reads .blend files and colour configurations (`.ocio`) in a sandbox.

`scene_reader.read_scenes` starts it as `python -m framefarm.server.files.scene_reader_process` through
`sandboxing.module_call`. Its order is `{"files": [{"path", "descriptor"}], "file_seconds"}`, with a limit in
seconds of processor time for each file. It answers with one line of JSON per file, in order, in the shape of
`scene_reader.SceneFacts`. It imports little, for a fast start, and reads only the given descriptors: it opens
none of the paths that it finds.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from typing import IO

from blender_asset_tracer import blendfile, cdefs
from blender_asset_tracer.trace import blocks2assets

from framefarm.core import ocio
from framefarm.sandboxing import module_entry
from framefarm.server.files import simulations
from framefarm.server.files.thin_blend import Block, NotReadable, ThinBlend, listbase
from framefarm.server.json_types import Json

MAX_DEPENDENCIES = 100_000
MAX_OCIO_BYTES = 16 << 20
OB_CAMERA = 11

# R_IMF_IMTYPE_… of DNA_scene_types.h → the names in `bpy.types.ImageFormatSettings.file_format`
FORMATS = {
    0: "TARGA",
    1: "IRIS",
    4: "JPEG",
    14: "TARGA_RAW",
    15: "AVI_RAW",
    16: "AVI_JPEG",
    17: "PNG",
    20: "BMP",
    21: "HDR",
    22: "TIFF",
    23: "OPEN_EXR",
    24: "FFMPEG",
    26: "CINEON",
    27: "DPX",
    28: "OPEN_EXR_MULTILAYER",
    29: "DDS",
    30: "JPEG2000",
    31: "FFMPEG",
    32: "FFMPEG",
    33: "FFMPEG",
    34: "PSD",
    35: "WEBP",
    36: "FFMPEG",
}
MOVIES = frozenset(("AVI_RAW", "AVI_JPEG", "FFMPEG"))

KINDS = {
    "CF": "cache",
    "LI": "library",
    "MC": "movie",
    "ME": "cache",
    "SO": "sound",
    "VF": "font",
    "VO": "volume",
    "LA": "light",
    "OB": "cache",
}
MOVIE_CLIP_SEQUENCE = 1
OWNERS = {
    "CF": "cache file",
    "IM": "image",
    "LA": "light",
    "LI": "library",
    "MC": "movie clip",
    "ME": "mesh",
    "OB": "object",
    "SC": "sequencer of scene",
    "SO": "sound",
    "VF": "font",
    "VO": "volume",
}
IMAGE_KINDS = {cdefs.IMA_SRC_SEQUENCE: "sequence", cdefs.IMA_SRC_MOVIE: "movie", cdefs.IMA_SRC_TILED: "tiles"}

# Exceptions of reading a block whose structure blender-asset-tracer does not expect.
ODD_BLOCK = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    blendfile.exceptions.BlendFileError,
    blendfile.exceptions.SegmentationFault,
)


class TooLong(Exception):
    """One file used up its limit of processor time."""


def main() -> None:
    """Read the files of the order, and write one answer for each."""
    order = module_entry.begin()
    signal.signal(signal.SIGVTALRM, _too_long)
    for ordered in order["files"]:
        descriptor = ordered["descriptor"]
        file = None if descriptor is None else os.fdopen(descriptor, "rb", buffering=1 << 16)
        signal.setitimer(signal.ITIMER_VIRTUAL, order["file_seconds"])
        facts = _answer(ordered["path"], file)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        module_entry.answer(json.dumps(facts))
        if file is not None:
            file.close()
    os._exit(0)


def _too_long(*_: object) -> None:
    raise TooLong


def _answer(path: str, file: IO[bytes] | None) -> Json:
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    try:
        if file is None:
            raise NotReadable("is missing")
        if name.lower().endswith(".ocio"):
            return {"path": path, **colours(file)}
        return {"path": path, **read(file, name)}
    except NotReadable as error:
        reason = str(error)
    except TooLong:
        reason = "takes too long to read"
    except MemoryError:
        reason = "needs too much memory to read"
    except (*ODD_BLOCK, RecursionError):
        reason = "is damaged: its data contradicts itself"
    return {"path": path, "cause": "unreadable_scene", "message": f"{name} {reason}."}


def read(file: IO[bytes], name: str) -> Json:
    """All facts of one .blend, as fields of `SceneFacts`. Names of disk caches are derived from `name`.

    Raises NotReadable for an incomplete or other file, and one of `ODD_BLOCK` for contradictory data.
    """
    blend = ThinBlend(file, "/" + name)
    major, minor = divmod(blend.header.version, 100)
    current = _pointer(blend.code_index[b"GLOB"][0], b"curscene") if blend.code_index[b"GLOB"] else None
    scenes = [_scene(block, current) for block in blend.code_index[b"SC"]]
    dependencies, unread = _dependencies(blend)
    return {
        "blender_version": f"{major}.{minor}",
        "scenes": scenes,
        "active_scene": next((s["name"] for s in scenes if s["is_active"]), None),
        "cameras": sorted({_name(o) for o in blend.code_index[b"OB"] if o[b"type"] == OB_CAMERA}),
        "dependencies": dependencies,
        "unread_blocks": unread,
    }


def colours(file: IO[bytes]) -> Json:
    """Search path and file names of an OpenColorIO configuration. Raises NotReadable if it is too large."""
    raw = file.read(MAX_OCIO_BYTES + 1)
    if len(raw) > MAX_OCIO_BYTES:
        raise NotReadable(f"is larger than {MAX_OCIO_BYTES >> 20} MiB")
    search_path, files = ocio.references(raw.decode("utf-8", "replace"))
    return {"search_path": search_path, "luts": files}


# -------------------------------------------------------------------------------------- scenes


def _scene(block: Block, current: Block) -> Json:
    layers = list(listbase(_pointer(block, (b"view_layers", b"first"))))
    if layers:
        bases = [(layer, (b"object_bases", b"first")) for layer in layers]
    else:  # Blender before 2.80
        layers = list(listbase(_pointer(block, (b"r", b"layers", b"first"))))
        bases = [(block, (b"base", b"first"))]
    objects = _objects(bases)
    camera = _pointer(block, b"camera")
    file_format = FORMATS.get(block[b"r", b"im_format", b"imtype"], "unknown")
    return {
        "name": _name(block),
        "is_active": current is not None and block.addr_old == current.addr_old,
        "frame_start": block[b"r", b"sfra"],
        "frame_end": block[b"r", b"efra"],
        "frame_step": max(1, block[b"r", b"frame_step"]),
        "fps": round(block[b"r", b"frs_sec"] / (block[b"r", b"frs_sec_base"] or 1.0), 4),
        "engine": _text(block[b"r", b"engine"]),
        "format": file_format,
        "is_movie": file_format in MOVIES,
        "camera": None if camera is None else _name(camera),
        "cameras": sorted({_name(o) for o in objects if o.code == b"OB" and o[b"type"] == OB_CAMERA}),
        "view_layers": [_text(layer[b"name"]) for layer in layers],
        "resolution_x": block[b"r", b"xsch"],
        "resolution_y": block[b"r", b"ysch"],
        "resolution_percentage": block[b"r", b"size"],
        "samples": _samples(block),
        "unbaked_simulations": simulations.unbaked(block, objects),
    }


def _objects(bases: list[tuple[Block, tuple[bytes, bytes]]]) -> list[Block]:
    objects = {}
    for owner, first in bases:
        for base in listbase(_pointer(owner, first)):
            item = _pointer(base, b"object")
            if item is not None:
                objects[item.addr_old] = item
    return list(objects.values())


def _samples(scene: Block) -> int | None:
    """Samples that the scene sets; None if it sets none: the engine's default is used."""
    if _text(scene[b"r", b"engine"]) != "CYCLES":
        return scene.get((b"eevee", b"taa_render_samples"), None)  # type: ignore[no-any-return]
    # Add-ons keep their settings in the custom properties up to 4.x, and in system properties from 5.0 on.
    for name in (b"system_properties", b"properties"):
        for group in _members(_pointer(scene, (b"id", name))):
            if _text(group[b"name"]) == "cycles":
                for item in _members(group):
                    if _text(item[b"name"]) == "samples" and item[b"type"] == cdefs.IDP_INT:
                        return item[b"data", b"val"]  # type: ignore[no-any-return]
    return None


def _members(group: Block) -> list[Block]:
    return [] if group is None else list(listbase(_pointer(group, (b"data", b"group", b"first"))))


# -------------------------------------------------------------------------------- dependencies


def _dependencies(blend: ThinBlend) -> tuple[list[Json], list[str]]:
    """Files that the .blend names without packing them; and names of data-blocks that could not be read."""
    dependencies: dict[tuple[str, str], Json] = {}
    unread: list[str] = []
    for block in blend.blocks:
        if block.code in (b"DATA", b"ID", b"GLOB", b"DNA1"):
            continue
        try:
            for usage in blocks2assets.iter_assets(block):
                if simulations.is_unwritten(usage.block):
                    continue
                kind = _kind(block, usage)
                stored = _text(_raw(usage))
                if kind is not None and stored and len(dependencies) < MAX_DEPENDENCIES:
                    key = (stored, kind)
                    dependencies.setdefault(key, _dependency(block, usage, kind, stored))
        except ODD_BLOCK:
            if len(unread) < 100:
                unread.append(_name(block))
    return list(dependencies.values()), unread


def _dependency(block: Block, usage: Block, kind: str, stored: str) -> Json:
    tiles = [int(t[b"tile_number"]) for t in _tiles(usage.block)] if kind == "tiles" else []
    return {
        "stored_path": stored,
        "kind": kind,
        "many": bool(usage.is_sequence) or kind == "tiles" or _is_sequence(usage.block),
        "tiles": sorted(set(tiles)),
        "wanted_by": f"{OWNERS.get(block.code.decode(), 'data')} {_name(block)}",
    }


def _raw(usage: Block) -> bytes:
    """Path as stored: blender-asset-tracer turns all slashes forward, and UNC paths into relative ones."""
    path = bytes(usage.asset_path)
    field = usage.path_full_field or usage.path_dir_field
    if path.startswith(b"//") and field is not None:
        raw = usage.block.get(field.name.name_only, b"")
        if raw.startswith(b"\\\\"):
            return b"\\\\" + path[2:]
    return path


def _tiles(image: Block) -> list[Block]:
    return list(listbase(_pointer(image, (b"tiles", b"first")), 10_000))


def _is_sequence(block: Block) -> bool:
    """Whether a cache file or movie clip is a sequence: blender-asset-tracer reports single files."""
    if block.code == b"MC":
        return bool(block.get(b"source", 0) == MOVIE_CLIP_SEQUENCE)
    return block.code == b"CF" and bool(block.get(b"is_sequence", 0))


def _kind(block: Block, usage: Block) -> str | None:
    """`Dependency.kind` of the file; None if it is packed in the .blend."""
    code = block.code.decode()
    if code == "SC":  # a strip of the sequencer
        return "sequence" if usage.is_sequence else "movie"
    if usage.block.code == b"IM":
        if _pointer(usage.block, b"packedfile") or _pointer(usage.block, (b"packedfiles", b"first")):
            return None
        return IMAGE_KINDS.get(usage.block.get(b"source", 1), "image")
    return KINDS.get(code, "file")


# --------------------------------------------------------------------------------------- names


def _pointer(block: Block, path: Block) -> Block:
    """Target of a pointer; None for a null pointer, or if this Blender's structs lack the field."""
    return None if block is None else block.get_pointer(path, None)


def _name(block: Block) -> str:
    """A data-block's name without its two-letter type code; linked data-blocks are bare `ID` structs."""
    raw = block.get(b"name") if block.dna_type_name == "ID" else block.get((b"id", b"name"))
    return _text(raw[2:])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


if __name__ == "__main__":
    main()
