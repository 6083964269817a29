"""Bakes of the simulation zones of a geometry nodes modifier: packed in the file, in a folder, or none."""

from __future__ import annotations

from dataclasses import dataclass, field

from framefarm.blend.file import Block, listbase, pointer

SIMULATION_NODE = b"GeometryNodeSimulationOutput"
BAKE_NODE = b"GeometryNodeBake"
GROUP_NODE = b"GeometryNodeGroup"
CUSTOM_RANGE, CUSTOM_PATH = 1 << 0, 1 << 1
MOST_BAKES = 1000
MOST_DEPTH = 50


@dataclass
class SimulationBakes:
    """Bakes of a modifier's simulation zones."""

    complete: bool = True
    """Every zone has a bake; whether the files of those in `folders` exist is not known."""
    folders: list[str] = field(default_factory=list)
    """Stored paths of the bakes that are in folders."""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """First and last frame of the zones with a range of their own."""


def simulation_bakes(modifier: Block) -> SimulationBakes | None:
    """Bakes of the modifier's simulation zones; None if it has no such zone."""
    tree = pointer(modifier, b"node_group")
    if not _has_node(tree, SIMULATION_NODE, set()):
        return None
    found = SimulationBakes()
    entries = pointer(modifier, b"bakes")
    count = min(modifier.get(b"bakes_num", 0), MOST_BAKES) if entries is not None else 0
    zones = 0
    for index in range(count):
        entry = entries.item(index)
        if _node_of(tree, entry.get(b"id"), 0) == BAKE_NODE:
            continue
        zones += 1
        flag = entry.get(b"flag")
        if flag & CUSTOM_RANGE:
            first, last = (entry.get(name) for name in (b"frame_start", b"frame_end"))
            found.ranges.append((first, last))
        if entry.get(b"packed", 0):
            continue
        folder = _folder(modifier, entry, custom=bool(flag & CUSTOM_PATH))
        if folder:
            found.folders.append(folder)
        else:
            found.complete = False
    found.complete = found.complete and zones > 0
    return found


def _folder(modifier: Block, entry: Block, *, custom: bool) -> str:
    """Stored path of a bake's folder; empty if it has none."""
    if custom:
        return _string(pointer(entry, b"directory"))
    for name in (b"simulation_bake_directory", b"bake_directory"):
        parent = _string(pointer(modifier, name))
        if parent:
            number = entry.get(b"id")
            return parent.rstrip("/\\") + f"/{number}"
    return ""


def _string(block: Block | None) -> str:
    if block is None:
        return ""
    return str(block.as_bytes_string().decode("utf-8", "replace"))


def _has_node(tree: Block, wanted: bytes, seen: set[int]) -> bool:
    if tree is None or tree.code != b"NT" or tree.addr_old in seen:
        return False
    seen.add(tree.addr_old)
    for node in listbase(pointer(tree, (b"nodes", b"first"))):
        if node[b"idname"] == wanted:
            return True
        if node[b"idname"] == GROUP_NODE and _has_node(pointer(node, b"id"), wanted, seen):
            return True
    return False


def _node_of(tree: Block, number: int, depth: int) -> bytes:
    """Type of the node that a bake's number stands for, through nested groups; empty if it is not found."""
    references = None if tree is None or tree.code != b"NT" else pointer(tree, b"nested_node_refs")
    if references is None or depth > MOST_DEPTH:
        return b""
    for index in range(min(tree.get(b"nested_node_refs_num", 0), MOST_BAKES)):
        reference = references.item(index)
        if reference.get(b"id") != number:
            continue
        identifier = reference.get((b"path", b"node_id"))
        for node in listbase(pointer(tree, (b"nodes", b"first"))):
            if node[b"identifier"] != identifier:
                continue
            if node[b"idname"] != GROUP_NODE:
                return bytes(node[b"idname"])
            inner = reference.get((b"path", b"id_in_node"))
            return _node_of(pointer(node, b"id"), inner, depth + 1)
    return b""
