"""Files that a .blend names: textures, caches, fonts, sounds, libraries."""

from __future__ import annotations

from typing import Any

from blender_asset_tracer import cdefs
from blender_asset_tracer.trace import blocks2assets

from framefarm.blend import simulations
from framefarm.blend.file import ODD_BLOCK, Block, ThinBlend, listbase, name_of, pointer, text

Json = Any

MAX_DEPENDENCIES = 100_000
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


def path_references(blend: ThinBlend) -> tuple[list[Json], list[str]]:
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
                stored = text(_raw(usage))
                if kind is not None and stored and len(dependencies) < MAX_DEPENDENCIES:
                    key = (stored, kind)
                    dependencies.setdefault(key, _dependency(block, usage, kind, stored))
        except ODD_BLOCK:
            if len(unread) < 100:
                unread.append(name_of(block))
    return list(dependencies.values()), unread


def _dependency(block: Block, usage: Block, kind: str, stored: str) -> Json:
    tiles = [int(t[b"tile_number"]) for t in _tiles(usage.block)] if kind == "tiles" else []
    return {
        "stored_path": stored,
        "kind": kind,
        "many": bool(usage.is_sequence) or kind == "tiles" or _is_sequence(usage.block),
        "tiles": sorted(set(tiles)),
        "wanted_by": f"{OWNERS.get(block.code.decode(), 'data')} {name_of(block)}",
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
    return list(listbase(pointer(image, (b"tiles", b"first")), 10_000))


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
        if pointer(usage.block, b"packedfile") or pointer(usage.block, (b"packedfiles", b"first")):
            return None
        return IMAGE_KINDS.get(usage.block.get(b"source", 1), "image")
    return KINDS.get(code, "file")
