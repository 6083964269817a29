"""Features that a scene needs for what it links from other .blend files.

A file has bare `ID` blocks for what it links. The library tells the content of one: it gives its objects,
collections and scenes that need a feature, or that hold something which does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from framefarm.blend import path_references, scene_contents, scene_features
from framefarm.blend.file import Blend, Block, listbase, pointer, raw_name, text

Json = Any

KINDS = (b"OB", b"GR", b"SC")
MOST_PARTS = 20_000
"""Most parts told of one file, and most links of one scene; what is more is left to Blender."""


def links_of(scene: Block) -> list[Json]:
    """`{"library", "name"}` of what the scene's pictures show of other files.

    `library` is the path as stored, `name` has its type (`OBCube`).
    """
    found: dict[tuple[str, str], None] = {}
    seen: set[int] = set()
    waiting = [scene]
    while waiting and len(found) < MOST_PARTS:
        block = waiting.pop()
        if block.addr_old in seen:
            continue
        seen.add(block.addr_old)
        link = _link(block)
        if link is not None:
            found[link] = None
        else:
            waiting += _inside(block)
    return [{"library": library, "name": name} for library, name in found]


def parts(blend: Blend) -> dict[str, Json]:
    """Name with type → `{"needs", "inside", "links"}` of each part of the file that needs a feature, by
    itself or by what it holds: names in this file, and links as of `links_of`.
    """
    blocks = {b.addr_old: b for code in (*KINDS, b"ID") for b in blend.code_index[code]}
    holders: dict[int, list[int]] = {}
    needs: dict[int, list[Json]] = {}
    for address, block in blocks.items():
        if block.code == b"OB":
            own = scene_features.needed_by(block)
        else:
            own = scene_features.needed(block) if block.code == b"SC" else []
        if own:
            needs[address] = own
        for inner in _inside(block):
            holders.setdefault(inner.addr_old, []).append(address)
    links = {address: link for address, block in blocks.items() if (link := _link(block)) is not None}
    needing: set[int] = set()
    waiting = [*needs, *links]
    while waiting:
        address = waiting.pop()
        if address not in needing and address in blocks:
            needing.add(address)
            waiting += holders.get(address, ())
    own_parts = [blocks[address] for address in sorted(needing - links.keys())]
    return {
        text(raw_name(block)): _part(block, needs.get(block.addr_old, []), needing, links)
        for block in own_parts[:MOST_PARTS]
    }


def _part(block: Block, needs: list[Json], needing: set[int], links: dict[int, tuple[str, str]]) -> Json:
    held = {inner.addr_old: inner for inner in _inside(block) if inner.addr_old in needing}
    outside = [links[address] for address in held if address in links]
    return {
        "needs": needs,
        "inside": [text(raw_name(inner)) for address, inner in held.items() if address not in links],
        "links": [{"library": library, "name": name} for library, name in outside],
    }


def _link(block: Block) -> tuple[str, str] | None:
    """(stored path of its library, name with type) of a linked data-block."""
    library = pointer(block, b"lib") if block.code == b"ID" else None
    if library is None or library.code != b"LI":
        return None
    return text(path_references.library_path(library)), text(raw_name(block))


def _inside(block: Block) -> Iterator[Block]:
    """Objects, collections and scenes that a picture of this one shows, linked ones as `ID` blocks."""
    found: list[Any] = []
    if block.code == b"OB" and not scene_features.is_hidden(block):
        found.append(pointer(block, b"dup_group"))
    elif block.code == b"GR":
        found += _of_group(block)
    elif block.code == b"SC":
        found += scene_contents.objects_in(block)
        found += _of_group(pointer(block, b"master_collection"))
        found += scene_contents.shown_scenes(block)
    for inner in found:
        if inner is not None and (inner.code == b"ID" or inner.code in KINDS):
            yield inner


def _of_group(group: Block | None) -> Iterator[Block]:
    for entry in listbase(pointer(group, (b"gobject", b"first"))):
        yield pointer(entry, b"ob")
    for child in listbase(pointer(group, (b"children", b"first"))):
        yield pointer(child, b"collection")
