"""Simulations of a scene, unbaked and baked: unbaked ones depend on the frames played before.

Flags and fields are those of Blender's DNA_*_types.h. `node/in_blender/history.py` finds the same in the
open scene, and those of linked libraries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from framefarm.blend import geometry_bakes, scene_contents
from framefarm.blend.file import ODD_BLOCK, Block, listbase, name_of, pointer, text

Json = dict[str, Any]

MODIFIER_VIEWPORT, MODIFIER_RENDER = 1 << 0, 1 << 1
HIDDEN_IN_VIEWPORT = 1 << 0
PTCACHE_BAKED, PTCACHE_DISK, PTCACHE_EXTERNAL = 1 << 0, 1 << 6, 1 << 9
RBW_MUTED = 1 << 0
RBO_ACTIVE, RBO_KINEMATIC = 0, 1 << 0
PART_EMITTER, PART_HAIR = 0, 2
PART_PHYS_NONE = 0
PSYS_HAIR_DYNAMICS = 1 << 2
FLUID_DOMAIN, FLUID_BAKED_DATA = 1 << 0, 1 << 1
DPAINT_ACTIVE, DPAINT_IMAGE_SEQUENCE = 1 << 0, 2
ALWAYS_BAKED = frozenset(("particles", "dynamic_paint", "fluid"))
"""Kinds that no play gets right; each is its own reason."""


def found_in(scene: Block) -> list[Json]:
    """The simulations that pictures of the scene show.

    Each has `object`, `kind`, `modifier` (empty for rigid bodies, which are named by the first active one),
    `frame_start` and `frame_end` of its cache, `baked`, `why` (a key of `core.simulations.WHY` if it has to
    be baked) and `folders`, the stored paths of bakes on disk.
    """
    shown = scene_contents.background_scenes(scene)
    addresses = {one.addr_old for one in shown}
    found: list[Json] = []
    seen: set[int] = set()
    others = [s for s in scene_contents.other_scenes(scene) if s.addr_old not in addresses]
    for one in [*shown, *others]:
        elsewhere = one.addr_old not in addresses
        objects = scene_contents.with_instances(scene_contents.objects_in(one))
        new = _readable(_rigid_bodies(one, objects))
        for block in objects:
            if block.code == b"OB" and block.addr_old not in seen:
                seen.add(block.addr_old)
                new += _readable(_of_object(block, one))
        first = scene[b"r", b"sfra"]
        found += [{**s, "why": _why(s, first, elsewhere=elsewhere)} for s in new]
    return found


def _readable(simulations: Iterator[Json]) -> list[Json]:
    """The simulations, up to one whose structs are not as expected: Blender finds that when it opens the
    scene."""
    found: list[Json] = []
    with contextlib.suppress(*ODD_BLOCK):
        found.extend(simulations)
    return found


def _why(simulation: Json, first_frame: int, *, elsewhere: bool) -> str:
    if simulation["baked"]:
        return ""
    if elsewhere:
        return "other_scene"
    if simulation["kind"] in ALWAYS_BAKED:
        return str(simulation["kind"])
    if simulation["why"] == "disk":
        return "disk"
    if simulation["kind"] == "geometry_nodes":
        return ""
    if simulation["frame_start"] < first_frame:
        return "early"
    return str(simulation["why"])


def _rigid_bodies(scene: Block, objects: list[Block]) -> Iterator[Json]:
    world = scene.get_pointer(b"rigidbody_world", None)
    if world is None or world[b"flag"] & RBW_MUTED:
        return
    shared = world.get_pointer(b"shared", None)
    cache = (shared or world).get_pointer(b"pointcache", None)
    for block in sorted((o for o in objects if o.code == b"OB"), key=name_of):
        body = block.get_pointer(b"rigidbody_object", None)
        if body is None or body[b"type"] != RBO_ACTIVE:
            continue
        if not body[b"flag"] & RBO_KINEMATIC or pointer(block, b"adt") is not None:
            yield _simulation("rigid_body", block, "", cache)
            return


def _of_object(block: Block, scene: Block) -> Iterator[Json]:
    for modifier in _modifiers_of(block):
        find = _MODIFIERS.get(modifier.dna_type_name)
        mode = modifier[b"modifier", b"mode"]
        if find is None or not mode & MODIFIER_RENDER:
            continue
        hidden = block.get(b"restrictflag", 0) & HIDDEN_IN_VIEWPORT or not mode & MODIFIER_VIEWPORT
        for simulation in find(block, modifier, scene):
            yield {**simulation, "why": simulation["why"] or ("hidden" if hidden else "")}


def _modifiers_of(block: Block) -> Iterator[Block]:
    """The object's modifiers."""
    modifier = block.get_pointer((b"modifiers", b"first"), None)
    seen: set[int] = set()
    while modifier is not None and modifier.addr_old not in seen:
        seen.add(modifier.addr_old)
        yield modifier
        modifier = modifier.get_pointer((b"modifier", b"next"), None)


def _cloth(block: Block, modifier: Block, _: Block) -> Iterator[Json]:
    yield _simulation("cloth", block, _name(modifier), modifier.get_pointer(b"point_cache", None))


def _soft_body(block: Block, modifier: Block, _: Block) -> Iterator[Json]:
    soft = block.get_pointer(b"soft", None)
    if soft is not None:
        shared = soft.get_pointer(b"shared", None)
        cache = (shared or soft).get_pointer(b"pointcache", None)
        yield _simulation("soft_body", block, _name(modifier), cache)


def _particles(block: Block, modifier: Block, _: Block) -> Iterator[Json]:
    system = modifier.get_pointer(b"psys", None)
    settings = None if system is None else system.get_pointer(b"part", None)
    if settings is None or settings.code != b"PA":
        return
    kind, cache = settings[b"type"], system.get_pointer(b"pointcache", None)
    if kind == PART_HAIR:
        if system[b"flag"] & PSYS_HAIR_DYNAMICS and system.get_pointer(b"clmd", None) is not None:
            yield _simulation("hair", block, _name(modifier), cache)
    elif kind != PART_EMITTER or settings[b"phystype"] != PART_PHYS_NONE:
        yield _simulation("particles", block, _name(modifier), cache)


def _fluid(block: Block, modifier: Block, _: Block) -> Iterator[Json]:
    domain = modifier.get_pointer(b"domain", None)
    if domain is None or modifier[b"type"] != FLUID_DOMAIN:
        return
    first, last = domain.get(b"cache_frame_start", 1), domain.get(b"cache_frame_end", 250)
    yield _facts("fluid", block, _name(modifier), first, last, baked=not is_unwritten(domain))


def _dynamic_paint(block: Block, modifier: Block, _: Block) -> Iterator[Json]:
    canvas = modifier.get_pointer(b"canvas", None)
    if canvas is None:
        return
    for surface in listbase(canvas.get_pointer((b"surfaces", b"first"), None)):
        if surface[b"flags"] & DPAINT_ACTIVE and surface[b"format"] != DPAINT_IMAGE_SEQUENCE:
            cache = surface.get_pointer(b"pointcache", None)
            yield _simulation("dynamic_paint", block, _name(modifier), cache)


def _nodes(block: Block, modifier: Block, scene: Block) -> Iterator[Json]:
    bakes = geometry_bakes.simulation_bakes(modifier)
    if bakes is None:
        return
    first, last = scene[b"r", b"sfra"], scene[b"r", b"efra"]
    if bakes.ranges:
        first, last = min(a for a, _ in bakes.ranges), max(b for _, b in bakes.ranges)
    name = _name(modifier)
    facts = _facts("geometry_nodes", block, name, first, last, baked=bakes.complete)
    yield {**facts, "folders": bakes.folders}


def is_unwritten(block: Block) -> bool:
    """Whether the block is an unbaked cache, which has no files: none of them is missing."""
    if block.dna_type_name == "PointCache":
        return not _is_baked(block)
    if block.dna_type_name == "FluidDomainSettings":
        return not block.get(b"cache_flag", 0) & FLUID_BAKED_DATA
    return False


def _is_baked(cache: Block) -> bool:
    return cache is not None and bool(cache[b"flag"] & (PTCACHE_BAKED | PTCACHE_EXTERNAL))


def _simulation(kind: str, block: Block, modifier: str, cache: Block) -> Json:
    if cache is None:
        return _facts(kind, block, modifier, 1, 250, baked=False)
    facts = _facts(kind, block, modifier, cache[b"startframe"], cache[b"endframe"], baked=_is_baked(cache))
    on_disk = not facts["baked"] and cache[b"flag"] & PTCACHE_DISK
    return {**facts, "why": "disk" if on_disk else ""}


def _facts(kind: str, block: Block, modifier: str, first: int, last: int, *, baked: bool) -> Json:
    return {
        "object": name_of(block),
        "kind": kind,
        "modifier": modifier,
        "frame_start": first,
        "frame_end": last,
        "baked": baked,
        "why": "",
        "folders": [],
    }


def _name(modifier: Block) -> str:
    return text(modifier[b"modifier", b"name"])


_MODIFIERS: dict[str, Callable[[Block, Block, Block], Iterator[Json]]] = {
    "ClothModifierData": _cloth,
    "SoftbodyModifierData": _soft_body,
    "ParticleSystemModifierData": _particles,
    "FluidModifierData": _fluid,
    "DynamicPaintModifierData": _dynamic_paint,
    "NodesModifierData": _nodes,
}
