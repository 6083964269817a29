"""Files that a .blend names, found by the structs that can hold a path, whatever leads to them.

`path_table` has a row for every such struct. Each block with one of them is read where it lies in the file,
so that no kind of owner (a light, a material, a group within a group) can be forgotten."""

from __future__ import annotations

import dataclasses
import io
from collections import defaultdict
from collections.abc import Collection

from framefarm.blend.file import ODD_BLOCK, Blend, Block, name_of, raw_name
from framefarm.blend.path_table import READERS, Place
from framefarm.blend.references import Reference, rebased
from framefarm.blend.source import NotReadable

MAX_REFERENCES = 200_000
MAX_UNREAD = 100
MAX_DEPTH = 8
"""Libraries packed in packed libraries."""
SCANNED_BYTES = 256 << 10
"""Longest block that is searched for pointers to data-blocks: the longest row of material slots."""
NOT_RENDERED = (b"BR", b"PL", b"PC", b"WS", b"SR")
"""Brushes and the like, which 4.3 and later link from Blender's own files: no picture needs them."""


def path_references(
    blend: Blend, name: str, groups: Collection[int] | None = None, depth: int = 0
) -> tuple[list[Reference], list[str]]:
    """Files that the .blend names without packing them; and names of data-blocks that could not be read.

    Args:
        name: file name of the .blend, from which the names of its disk caches are made.
        groups: numbers of the groups of blocks to look in; None: all.
        depth: how many packed libraries it lies in.
    """
    found: dict[tuple[bytes, str], Reference] = {}
    unread: dict[str, None] = {}
    readers = {n: READERS[s.name] for n, s in enumerate(blend.dna.structs) if s.name in READERS}
    linked = linked_names(blend)
    numbers = range(len(blend.starts)) if groups is None else sorted(groups)
    for number in numbers:
        blocks = blend.group(number)
        owner = Block(blend, blocks[0])
        place = None
        for index in blocks:
            read = readers.get(blend.structs[index])
            if read is None:
                continue
            try:
                if place is None:
                    place = _place(owner, name, linked)
                for reference in read(Block(blend, index), place):
                    _add(found, reference, place.library)
                if owner.code == b"LI" and index == blocks[0]:
                    _add_packed(found, unread, owner, depth)
            except (*ODD_BLOCK, NotReadable):
                unread.setdefault(_any_name(owner))
    return list(found.values()), list(unread)[:MAX_UNREAD]


def _place(owner: Block, name: str, linked: dict[int, frozenset[bytes]]) -> Place:
    """Where a group's paths lie: those of a data-block packed from a library are relative to that."""
    library = owner.get_pointer((b"id", b"lib"), None) if owner.dna_type_name != "ID" else None
    path = b"" if library is None or library.code != b"LI" else library_path(library)
    file = path.replace(b"\\", b"/").rpartition(b"/")[2] or name.encode("utf-8", "surrogateescape")
    return Place(owner, file, path, linked.get(owner.addr_old, frozenset()))


def _add(found: dict[tuple[bytes, str], Reference], reference: Reference, library: bytes) -> None:
    stored = reference.stored
    if stored.strip(b"/.\\") == b"" or b"\n" in stored:
        return  # an image without a file
    if library:
        reference = dataclasses.replace(reference, stored=rebased(stored, library))
    key = (reference.stored, reference.kind)
    known = found.get(key)
    if known is None:
        if len(found) < MAX_REFERENCES:
            found[key] = reference
    elif reference.required and not known.required:
        found[key] = reference
    elif reference.names - known.names:
        found[key] = dataclasses.replace(known, names=known.names | reference.names)


def _add_packed(
    found: dict[tuple[bytes, str], Reference], unread: dict[str, None], library: Block, depth: int
) -> None:
    """Add the files that a library which is packed as a file names."""
    packed = library.get_pointer(b"packedfile", None)
    data = None if packed is None else packed.get_pointer(b"data", None)
    if data is None:
        return
    if depth >= MAX_DEPTH:
        raise NotReadable("is packed too deep")
    path = library_path(library)
    file = path.replace(b"\\", b"/").rpartition(b"/")[2].decode("utf-8", "surrogateescape")
    inner = Blend(io.BytesIO(data.raw_data()))
    references, lost = path_references(inner, file, depth=depth + 1)
    for reference in references:
        _add(found, dataclasses.replace(reference, wanted_by=f"{reference.wanted_by} in {file}"), path)
    unread.update(dict.fromkeys(f"{name} in {file}" for name in lost))


def library_path(library: Block) -> bytes:
    """Path of a library as stored."""
    stored: bytes = library.get(b"name", b"") or library.get(b"filepath", b"")
    return stored


def linked_names(blend: Blend) -> dict[int, frozenset[bytes]]:
    """Address of each library → names of the data-blocks that pictures may need from it."""
    names: defaultdict[int, set[bytes]] = defaultdict(set)
    for block in blend.code_index[b"ID"]:
        try:
            name = raw_name(block)
            if not name.startswith(NOT_RENDERED):
                names[block.get(b"lib")].add(name)
        except ODD_BLOCK:
            continue
    return {address: frozenset(found) for address, found in names.items()}


def reached(blend: Blend, names: Collection[bytes]) -> set[int]:
    """Numbers of the groups of the named data-blocks and of all that these lead to.

    Every pointer to a data-block counts, whichever member holds it.
    """
    group_of = {index: number for number, index in enumerate(blend.starts)}
    waiting = []
    for number, index in enumerate(blend.starts):
        try:
            if raw_name(Block(blend, index)) in names:
                waiting.append(number)
        except ODD_BLOCK:
            continue
    seen = set(waiting)
    targets = blend.by_address
    while waiting:
        for index in blend.group(waiting.pop()):
            block = Block(blend, index)
            if block.size > SCANNED_BYTES:
                continue
            for word in blend.words(block.raw_data()):
                target = targets.get(word)
                if target is not None and (number := group_of[target]) not in seen:
                    seen.add(number)
                    if blend.codes[blend.code_numbers[target]] != b"GLOB":
                        waiting.append(number)
    return seen


def _any_name(block: Block) -> str:
    try:
        return name_of(block)
    except ODD_BLOCK:
        return block.code.decode("ascii", "replace")
