"""The features that a Blender may lack: their codes, and the sentence about each.

A build of Blender may leave a feature out, or have it and break it: the `bpy` packages from 4.2 to 5.2 report
a fluid solver and abort when a fluid is simulated. `framefarm blender install` tries each feature, the
farm keeps those that a package lacks, and a scene that needs one of them is not rendered by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Feature(StrEnum):
    """A feature of Blender that some builds lack. The value is its code in the database and in the API."""

    FLUID_SIMULATION = "fluid_simulation"
    RIGID_BODY = "rigid_body"
    OCEAN = "ocean"
    REMESH = "remesh"
    SUBDIVISION = "subdivision"
    VOLUMES = "volumes"
    ALEMBIC = "alembic"
    USD = "usd"
    CYCLES = "cycles"
    OPEN_SHADING_LANGUAGE = "open_shading_language"
    DENOISING = "denoising"
    PATH_GUIDING = "path_guiding"
    FREESTYLE = "freestyle"
    COMPOSITOR = "compositor"
    MOTION_TRACKING = "motion_tracking"
    COLOR_MANAGEMENT = "color_management"
    MOVIES = "movies"
    SOUND = "sound"
    OPENEXR = "openexr"
    JPEG_2000 = "jpeg_2000"
    WEBP = "webp"
    TIFF = "tiff"
    CINEON = "cineon"


_SENTENCES = {
    Feature.FLUID_SIMULATION: "It can't simulate fluids (smoke, fire, liquid), nor read their caches.",
    Feature.RIGID_BODY: "It can't simulate rigid bodies.",
    Feature.OCEAN: "It can't compute Ocean modifiers.",
    Feature.REMESH: "It can't compute Remesh modifiers.",
    Feature.SUBDIVISION: "It can't subdivide surfaces (Subdivision Surface and Multiresolution).",
    Feature.VOLUMES: "It can't read OpenVDB volumes.",
    Feature.ALEMBIC: "It can't read Alembic files.",
    Feature.USD: "It can't read USD files.",
    Feature.CYCLES: "It has no Cycles.",
    Feature.OPEN_SHADING_LANGUAGE: "Its Cycles can't run scripts in Open Shading Language.",
    Feature.DENOISING: "It can't denoise with OpenImageDenoise.",
    Feature.PATH_GUIDING: "Its Cycles has no path guiding.",
    Feature.FREESTYLE: "It can't draw Freestyle lines.",
    Feature.COMPOSITOR: "It has no compositor.",
    Feature.MOTION_TRACKING: "It can't use motion tracking, such as stabilised or undistorted clips.",
    Feature.COLOR_MANAGEMENT: "It has no OpenColorIO, so its colours are others.",
    Feature.MOVIES: "It can't read or write movies.",
    Feature.SOUND: "It can't read sound, on which drivers or baked curves may depend.",
    Feature.OPENEXR: "It can't read or write OpenEXR pictures.",
    Feature.JPEG_2000: "It can't read or write JPEG 2000 pictures.",
    Feature.WEBP: "It can't read or write WebP pictures.",
    Feature.TIFF: "It can't read or write TIFF pictures.",
    Feature.CINEON: "It can't read or write Cineon and DPX pictures.",
}

LACKED_BY_EVERY_WHEEL = (Feature.FLUID_SIMULATION,)
"""Measured with bpy 4.2.23, 4.5.15, 5.0.1 and 5.2.3: for wheels that were installed before features were
tried."""


def sentence(feature: Feature) -> str:
    """One sentence that tells what a Blender without `feature` can't do."""
    return _SENTENCES[feature]


def known(codes: Iterable[str]) -> tuple[Feature, ...]:
    """The features of `codes`, in the order of the enumeration; unknown codes are left out."""
    wanted = set(codes)
    return tuple(feature for feature in Feature if feature.value in wanted)


def lacking(kind: str, tried: Iterable[str] | None) -> tuple[Feature, ...] | None:
    """The features that a package of `kind` lacks.

    `tried`: the codes that trying them gave; None if they were never tried. The answer is None if nothing is
    known.
    """
    if tried is not None:
        return known(tried)
    return LACKED_BY_EVERY_WHEEL if kind == "bpy" else None
