"""Objects and other scenes that a scene's pictures show, as the file tells.

Fields are those of Blender's DNA_*_types.h, by their oldest names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from framefarm.blend.file import Block, listbase, pointer

STRIP_SCENE = 2
STRIP_MUTED = 1 << 5
USES_SEQUENCER = 1 << 0
"""`R_DOSEQ` of `RenderData.scemode`."""
CMP_NODE_R_LAYERS = 221
"""The type of a Render Layers node; nodes have had an `idname`, too, since Blender 2.67."""
MOST = 100_000


def objects_in(scene: Block) -> list[Block]:
    """Objects in the scene's view layers, linked ones as bare `ID` blocks."""
    layers = list(listbase(pointer(scene, (b"view_layers", b"first"))))
    firsts = [pointer(layer, (b"object_bases", b"first")) for layer in layers]
    if not layers:  # Blender before 2.80
        firsts = [pointer(scene, (b"base", b"first"))]
    objects = {}
    for first in firsts:
        for base in listbase(first):
            item = pointer(base, b"object")
            if item is not None:
                objects[item.addr_old] = item
    return list(objects.values())


def with_instances(objects: Iterable[Block]) -> list[Block]:
    """The objects, and those of the collections that they are instances of, of collections in these, …"""
    found = {item.addr_old: item for item in objects}
    waiting = list(found.values())
    seen_groups: set[int] = set()
    while waiting and len(found) < MOST:
        item = waiting.pop()
        group = pointer(item, b"dup_group") if item.code == b"OB" else None
        for one in _groups_in(group, seen_groups):
            for entry in listbase(pointer(one, (b"gobject", b"first"))):
                inner = pointer(entry, b"ob")
                if inner is not None and inner.addr_old not in found:
                    found[inner.addr_old] = inner
                    waiting.append(inner)
    return list(found.values())


def _groups_in(group: Block | None, seen: set[int]) -> Iterator[Block]:
    """The collection and those in it that are not `seen`, which gets them."""
    waiting = [group]
    while waiting:
        one = waiting.pop()
        if one is not None and one.code == b"GR" and one.addr_old not in seen:
            seen.add(one.addr_old)
            yield one
            waiting += [
                pointer(child, b"collection") for child in listbase(pointer(one, (b"children", b"first")))
            ]


def background_scenes(scene: Block) -> list[Block]:
    """The scene, its background scene, the one of that, …: Blender plays them together."""
    found: list[Block] = []
    while scene is not None and scene.code == b"SC" and scene.addr_old not in {s.addr_old for s in found}:
        found.append(scene)
        scene = pointer(scene, b"set")
    return found


def shown_scenes(scene: Block) -> Iterator[Block]:
    """Scenes that a picture of `scene` shows directly: of its background, its strips and its Render Layers.

    Linked ones are bare `ID` blocks."""
    for other in (pointer(scene, b"set"), *_strip_scenes(scene), *_composited_scenes(scene)):
        if other is not None:
            yield other


def other_scenes(scene: Block) -> list[Block]:
    """Scenes that a picture of `scene` shows, too: by strips and by the compositor's Render Layers."""
    seen, waiting, found = {scene.addr_old}, [scene], []
    while waiting:
        one = waiting.pop()
        for other in (*_strip_scenes(one), *_composited_scenes(one)):
            if other is not None and other.code == b"SC" and other.addr_old not in seen:
                seen.add(other.addr_old)
                found.append(other)
                waiting.append(other)
    return found


def _strip_scenes(scene: Block) -> Iterator[Block]:
    editing = pointer(scene, b"ed")
    if editing is None or not scene[b"r", b"scemode"] & USES_SEQUENCER:
        return
    waiting = [pointer(editing, (b"seqbase", b"first"))]
    while waiting:
        for strip in listbase(waiting.pop()):
            if strip[b"flag"] & STRIP_MUTED:
                continue
            if strip[b"type"] == STRIP_SCENE:
                yield pointer(strip, b"scene")
            waiting.append(pointer(strip, (b"seqbase", b"first")))


def _composited_scenes(scene: Block) -> Iterator[Block]:
    tree = pointer(scene, b"compositing_node_group")
    if tree is None and scene.get(b"use_nodes", 0):
        tree = pointer(scene, b"nodetree")
    if tree is not None and tree.code != b"ID":
        for node in listbase(pointer(tree, (b"nodes", b"first"))):
            if node.get(b"idname", b"") == b"CompositorNodeRLayers" or node[b"type"] == CMP_NODE_R_LAYERS:
                yield pointer(node, b"id")
