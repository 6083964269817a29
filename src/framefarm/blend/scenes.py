"""Scenes of a .blend: frames, engine, cameras, layers, and what else a job may ask for."""

from __future__ import annotations

from typing import Any

from framefarm.blend import linked_needs, scene_contents, scene_features, simulations
from framefarm.blend.file import Blend, Block, listbase, name_of, pointer, text

Json = Any

OB_CAMERA = 11
R_DOSEQ, R_DOCOMP = 1 << 0, 1 << 6
IDP_INT, IDP_BOOLEAN = 1, 10

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


def scenes(blend: Blend) -> list[Json]:
    """The scenes, in the shape of `scene_reader.Scene`."""
    globals_ = blend.code_index[b"GLOB"]
    current = pointer(globals_[0], b"curscene") if globals_ else None
    version = divmod(blend.version, 100)
    return [_scene(block, current, version) for block in blend.code_index[b"SC"]]


def cameras(blend: Blend) -> list[str]:
    """Names of the cameras of all scenes, and of those in collections that no view layer shows."""
    return sorted({name_of(o) for o in blend.code_index[b"OB"] if o[b"type"] == OB_CAMERA})


def _scene(block: Block, current: Block | None, version: tuple[int, int]) -> Json:
    layers = list(listbase(pointer(block, (b"view_layers", b"first"))))
    if not layers:  # Blender before 2.80
        layers = list(listbase(pointer(block, (b"r", b"layers", b"first"))))
    objects = scene_contents.objects_in(block)
    camera = pointer(block, b"camera")
    found = simulations.found_in(block)
    image_type = block.get((b"r", b"im_format", b"imtype"), None)
    if image_type is None:  # Blender before 2.62
        image_type = block.get((b"r", b"imtype"), None)
    file_format = FORMATS.get(image_type, "unknown")
    return {
        "name": name_of(block),
        "is_active": current is not None and block.addr_old == current.addr_old,
        "frame_start": block[b"r", b"sfra"],
        "frame_current": block[b"r", b"cfra"],
        "frame_end": block[b"r", b"efra"],
        "frame_step": max(1, block.get((b"r", b"frame_step"), 1)),
        "fps": round(block[b"r", b"frs_sec"] / (block.get((b"r", b"frs_sec_base"), 1.0) or 1.0), 4),
        "engine": _engine(block),
        "format": file_format,
        "is_movie": file_format in MOVIES,
        "camera": None if camera is None else name_of(camera),
        "cameras": sorted({name_of(o) for o in objects if o.code == b"OB" and o[b"type"] == OB_CAMERA}),
        "view_layers": [text(layer[b"name"]) for layer in layers],
        "resolution_x": block[b"r", b"xsch"],
        "resolution_y": block[b"r", b"ysch"],
        "resolution_percentage": block[b"r", b"size"],
        "samples": _samples(block, version),
        "unbaked_simulations": [s for s in found if not s["baked"]],
        "baked_simulations": [s for s in found if s["baked"]],
        "needs": scene_features.needed(block),
        "links": linked_needs.links_of(block),
        "renders": [{"name": name_of(s), "engine": _engine(s)} for s in scene_contents.other_scenes(block)],
        "lacks_camera": camera is None and not _may_do_without_camera(block),
    }


def _engine(scene: Block) -> str:
    """Identifier of the scene's engine. Before 2.50 there was only Blender Internal, without a name."""
    return text(scene.get((b"r", b"engine"), b"BLENDER_RENDER"))


def _may_do_without_camera(scene: Block) -> bool:
    """Whether markers, strips or the compositor may give the scene its picture, though it has no camera."""
    flags = scene.get((b"r", b"scemode"), 0)
    editing = pointer(scene, b"ed") if flags & R_DOSEQ else None
    if editing is not None and pointer(editing, (b"seqbase", b"first")) is not None:
        return True
    tree = pointer(scene, b"compositing_node_group") or pointer(scene, b"nodetree")
    if flags & R_DOCOMP and tree is not None:
        return True
    return any(pointer(m, b"camera") is not None for m in listbase(pointer(scene, (b"markers", b"first"))))


def _samples(scene: Block, version: tuple[int, int]) -> int | None:
    """Samples that the scene sets; None if it sets none: the engine's default is used."""
    if _engine(scene) != "CYCLES":
        return scene.get((b"eevee", b"taa_render_samples"), None)  # type: ignore[no-any-return]
    # Add-ons keep their settings in the custom properties up to 4.x, and in system properties from 5.0 on.
    for name in (b"system_properties", b"properties"):
        for group in _members(pointer(scene, (b"id", name))):
            if text(group[b"name"]) == "cycles":
                numbers = {
                    text(item[b"name"]): item[b"data", b"val"]
                    for item in _members(group)
                    if item[b"type"] in (IDP_INT, IDP_BOOLEAN)
                }
                samples: int | None = numbers.get("samples")
                # As the add-on's version_update.py does up to 3.0.25. Of 3.0 the file's header has no more
                # digits; the setting is gone, or 0, where 3.0.26 or later has saved the file.
                squared = samples is not None and version <= (3, 0) and numbers.get("use_square_samples")
                return samples * samples if squared else samples  # type: ignore[operator]
    return None


def _members(group: Block) -> list[Block]:
    return [] if group is None else list(listbase(pointer(group, (b"data", b"group", b"first"))))
