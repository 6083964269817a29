"""Unbaked simulations of a scene: their pictures depend on the frames played before.

Flags and fields are those of Blender's DNA_*_types.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from framefarm.blend.file import Block, listbase

MODIFIER_RENDER = 1 << 1
PTCACHE_BAKED, PTCACHE_EXTERNAL = 1 << 0, 1 << 9
RBW_MUTED = 1 << 0
RBO_ACTIVE, RBO_KINEMATIC = 0, 1 << 0
PART_EMITTER, PART_HAIR = 0, 2
PART_PHYS_NONE = 0
PSYS_HAIR_DYNAMICS = 1 << 2
FLUID_DOMAIN, FLUID_BAKED_DATA = 1 << 0, 1 << 1
DPAINT_ACTIVE, DPAINT_IMAGE_SEQUENCE = 1 << 0, 2
SIMULATION_NODE = b"GeometryNodeSimulationOutput"


def unbaked(scene: Block, objects: list[Block]) -> list[dict[str, str]]:
    """`{"object", "kind"}` of each unbaked simulation; a rigid body world by its first active body."""
    simulations = [*_rigid_bodies(scene, objects)]
    for block in objects:
        if block.code == b"OB":
            simulations += [
                {"object": _name(block), "kind": kind} for kind in dict.fromkeys(_kinds_of(block))
            ]
    return simulations


def _rigid_bodies(scene: Block, objects: list[Block]) -> Iterator[dict[str, str]]:
    world = scene.get_pointer(b"rigidbody_world", None)
    if world is None or world[b"flag"] & RBW_MUTED:
        return
    shared = world.get_pointer(b"shared", None)
    if _is_baked((shared or world).get_pointer(b"pointcache", None)):
        return
    for block in objects:
        if block.code != b"OB":
            continue
        body = block.get_pointer(b"rigidbody_object", None)
        if body is not None and body[b"type"] == RBO_ACTIVE and not body[b"flag"] & RBO_KINEMATIC:
            yield {"object": _name(block), "kind": "rigid_body"}
            return


def _kinds_of(block: Block) -> Iterator[str]:
    modifier = block.get_pointer((b"modifiers", b"first"), None)
    seen: set[int] = set()
    while modifier is not None and modifier.addr_old not in seen:
        seen.add(modifier.addr_old)
        find_kinds = _MODIFIERS.get(modifier.dna_type_name)
        if find_kinds is not None and modifier[b"modifier", b"mode"] & MODIFIER_RENDER:
            yield from find_kinds(block, modifier)
        modifier = modifier.get_pointer((b"modifier", b"next"), None)


def _cloth(_: Block, modifier: Block) -> Iterator[str]:
    if not _is_baked(modifier.get_pointer(b"point_cache", None)):
        yield "cloth"


def _soft_body(block: Block, _: Block) -> Iterator[str]:
    soft = block.get_pointer(b"soft", None)
    if soft is None:
        return
    shared = soft.get_pointer(b"shared", None)
    if not _is_baked((shared or soft).get_pointer(b"pointcache", None)):
        yield "soft_body"


def _particles(_: Block, modifier: Block) -> Iterator[str]:
    system = modifier.get_pointer(b"psys", None)
    settings = None if system is None else system.get_pointer(b"part", None)
    if settings is None or settings.code != b"PA" or _is_baked(system.get_pointer(b"pointcache", None)):
        return
    kind = settings[b"type"]
    if kind == PART_HAIR:
        cloth = system.get_pointer(b"clmd", None)
        if system[b"flag"] & PSYS_HAIR_DYNAMICS and cloth is not None:
            yield "hair"
    elif kind != PART_EMITTER or settings[b"phystype"] != PART_PHYS_NONE:
        yield "particles"


def _fluid(_: Block, modifier: Block) -> Iterator[str]:
    domain = modifier.get_pointer(b"domain", None)
    if domain is not None and modifier[b"type"] == FLUID_DOMAIN and is_unwritten(domain):
        yield "fluid"


def _dynamic_paint(_: Block, modifier: Block) -> Iterator[str]:
    canvas = modifier.get_pointer(b"canvas", None)
    if canvas is None:
        return
    for surface in listbase(canvas.get_pointer((b"surfaces", b"first"), None)):
        uses_cache = surface[b"flags"] & DPAINT_ACTIVE and surface[b"format"] != DPAINT_IMAGE_SEQUENCE
        if uses_cache and not _is_baked(surface.get_pointer(b"pointcache", None)):
            yield "dynamic_paint"


def _nodes(_: Block, modifier: Block) -> Iterator[str]:
    if not _simulates(modifier.get_pointer(b"node_group", None), set()):
        return
    # A bake to disk sets a folder; only Blender can check whether the bake is complete.
    for name in (b"bake_directory", b"simulation_bake_directory"):
        folder = modifier.get_pointer(name, None)
        if folder is not None and folder.as_bytes_string():
            return
    bake = modifier.get_pointer(b"bakes", None)
    if bake is None or bake.get_pointer(b"packed", None) is None:
        yield "geometry_nodes"


def _simulates(tree: Block, seen: set[int]) -> bool:
    if tree is None or tree.code != b"NT" or tree.addr_old in seen:
        return False
    seen.add(tree.addr_old)
    for node in listbase(tree.get_pointer((b"nodes", b"first"), None)):
        name = node[b"idname"]
        if name == SIMULATION_NODE:
            return True
        if name == b"GeometryNodeGroup" and _simulates(node.get_pointer(b"id", None), seen):
            return True
    return False


def is_unwritten(block: Block) -> bool:
    """Whether the block is an unbaked cache, which has no files: none of them is missing."""
    if block.dna_type_name == "PointCache":
        return not _is_baked(block)
    if block.dna_type_name == "FluidDomainSettings":
        return not block.get(b"cache_flag", 0) & FLUID_BAKED_DATA
    return False


def _is_baked(cache: Block) -> bool:
    return cache is not None and bool(cache[b"flag"] & (PTCACHE_BAKED | PTCACHE_EXTERNAL))


def _name(block: Block) -> str:
    return str(block[b"id", b"name"][2:].decode("utf-8", "replace"))


_MODIFIERS: dict[str, Callable[[Block, Block], Iterator[str]]] = {
    "ClothModifierData": _cloth,
    "SoftbodyModifierData": _soft_body,
    "ParticleSystemModifierData": _particles,
    "FluidModifierData": _fluid,
    "DynamicPaintModifierData": _dynamic_paint,
    "NodesModifierData": _nodes,
}
