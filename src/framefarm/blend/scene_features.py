"""Features of Blender that a scene needs and that some builds lack; codes as in `core.blender_features`.

Fields are those of Blender's DNA_*_types.h, by their oldest names. A modifier that is off in renders needs
nothing, nor does one of an object that is hidden in renders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from framefarm.blend import scene_contents
from framefarm.blend.file import ODD_BLOCK, Block, name_of, pointer, text
from framefarm.core.blender_features import Feature

MODIFIER_RENDER = 1 << 1
OB_HIDE_RENDER = 1 << 2
OB_VOLUME = 29
FLUID_DOMAIN = 1 << 0
RBW_MUTED = 1 << 0
FREESTYLE_ON = 1 << 24
"""`R_EDGE_FRS` of `RenderData.mode`."""
MOST_MODIFIERS = 10_000


def needed(scene: Block) -> list[dict[str, str]]:
    """`{"feature", "what"}` of each feature that the pictures of the scene need, once each.

    `what` names the first that needs it, as `fluid Smoke of Cube`. Scenes in its background, its strips and
    its compositor count, and objects in collections that are instanced.
    """
    found: dict[Feature, str] = {}
    for one in [*scene_contents.background_scenes(scene), *scene_contents.other_scenes(scene)]:
        objects = scene_contents.with_instances(scene_contents.objects_in(one))
        with contextlib.suppress(*ODD_BLOCK):  # structs that are not as expected: the scene is read without
            for feature, what in _of_scene(one, objects):
                found.setdefault(feature, what)
    return [{"feature": feature.value, "what": what} for feature, what in found.items()]


def needed_by(item: Block) -> list[dict[str, str]]:
    """The same of one object, wherever it is shown; whether a scene simulates its rigid body is not known."""
    found: dict[Feature, str] = {}
    with contextlib.suppress(*ODD_BLOCK):
        for feature, what in () if is_hidden(item) else _of_object(item):
            found.setdefault(feature, what)
    return [{"feature": feature.value, "what": what} for feature, what in found.items()]


def is_hidden(item: Block) -> bool:
    """Whether an object is hidden in renders."""
    flags = item.get(b"restrictflag", None)
    return bool((item.get(b"visibility_flag", 0) if flags is None else flags) & OB_HIDE_RENDER)


def _of_scene(scene: Block, objects: list[Block]) -> Iterator[tuple[Feature, str]]:
    name = name_of(scene)
    if text(scene.get((b"r", b"engine"), b"")) == "CYCLES":
        yield Feature.CYCLES, f"scene {name}"
    if scene.get((b"r", b"mode"), 0) & FREESTYLE_ON:
        yield Feature.FREESTYLE, f"scene {name}"
    world = pointer(scene, b"rigidbody_world")
    simulates = world is not None and not world[b"flag"] & RBW_MUTED
    for item in objects:
        if item.code != b"OB" or is_hidden(item):
            continue
        if simulates and pointer(item, b"rigidbody_object") is not None:
            yield Feature.RIGID_BODY, f"rigid body {name_of(item)}"
        yield from _of_object(item)


def _of_object(item: Block) -> Iterator[tuple[Feature, str]]:
    if item.get(b"type", None) == OB_VOLUME:
        yield Feature.VOLUMES, f"volume {name_of(item)}"
    yield from _of_modifiers(item)


def _of_modifiers(item: Block) -> Iterator[tuple[Feature, str]]:
    modifier = pointer(item, (b"modifiers", b"first"))
    seen: set[int] = set()
    while modifier is not None and modifier.addr_old not in seen and len(seen) < MOST_MODIFIERS:
        seen.add(modifier.addr_old)
        find = _MODIFIERS.get(modifier.dna_type_name)
        if find is not None and modifier[b"modifier", b"mode"] & MODIFIER_RENDER:
            feature = find(modifier)
            if feature is not None:
                kind = feature.value.removesuffix("_simulation").replace("_", " ")
                yield feature, f"{kind} {text(modifier[b'modifier', b'name'])} of {name_of(item)}"
        modifier = pointer(modifier, (b"modifier", b"next"))


def _fluid(modifier: Block) -> Feature | None:
    return Feature.FLUID_SIMULATION if modifier[b"type"] == FLUID_DOMAIN else None


def _cache(modifier: Block) -> Feature | None:
    file = pointer(modifier, b"cache_file")
    path = text(file[b"filepath"]).lower() if file is not None and file.code == b"CF" else ""
    if path.endswith(".abc"):
        return Feature.ALEMBIC
    return Feature.USD if path.endswith((".usd", ".usda", ".usdc", ".usdz")) else None


_MODIFIERS: dict[str, Callable[[Block], Feature | None]] = {
    "FluidModifierData": _fluid,
    "OceanModifierData": lambda _: Feature.OCEAN,
    "RemeshModifierData": lambda _: Feature.REMESH,
    "SubsurfModifierData": lambda _: Feature.SUBDIVISION,
    "MultiresModifierData": lambda _: Feature.SUBDIVISION,
    "MeshSeqCacheModifierData": _cache,
}
