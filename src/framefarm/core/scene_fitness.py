"""Whether a Blender can render a scene as it was made: its version, its render engine, the features it needs.
Pure.

Client and farm apply the same rules: the client before it sends a file, the farm once it has read the scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from framefarm.core import blender_features, packages
from framefarm.core.errors import InvalidInput
from framefarm.core.packages import Series

ENGINES = frozenset({"CYCLES", "BLENDER_EEVEE", "BLENDER_EEVEE_NEXT", "BLENDER_WORKBENCH", "HYDRA_STORM"})
"""Engines that Blender 4.2 and later have without an add-on of somebody else."""
GONE = {
    "BLENDER_RENDER": "Blender Internal (BLENDER_RENDER)",
    "BLENDER_GAME": "the Game Engine (BLENDER_GAME)",
    "BLENDER_CLAY": "the Clay engine (BLENDER_CLAY)",
}
"""Engines that no Blender since 2.80 has."""
FIRST_OF_TODAY = Series(2, 80)
"""Blender converts older files as it opens them: layers to collections, materials of Blender Internal."""
FIRST_NEW_EEVEE = Series(4, 2)
"""From here on EEVEE is another engine than before."""


@dataclass(frozen=True)
class Offer:
    """A Blender of the farm. `release` is its exact version, as 4.2.23."""

    id: str
    release: str
    lacks: frozenset[str] = frozenset()
    """Codes of core/blender_features.py."""

    @property
    def series(self) -> Series:
        return packages.series_of(self.release)


@dataclass(frozen=True)
class SavedScene:
    """The scene of a .blend that is to be rendered."""

    file: str
    """As it is named to the artist."""
    saved: str
    """Series of the Blender that saved the file, as 4.2."""
    scene: str
    engine: str
    """Blender's own name of it, as CYCLES."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Code of a feature → what in the scene needs it, as text for a person."""


@dataclass(frozen=True)
class Finding:
    """A reason to warn of the picture: a code of core/failure_codes.py, with its subject and facts."""

    code: str
    subject: str
    facts: dict[str, str]
    holds: bool = False
    """The picture would be another one: the job is held before it starts."""


def fits(offer: Offer, scene: SavedScene) -> bool:
    """Whether the Blender is not older than the file and has every feature that the scene needs."""
    return packages.can_open(scene.saved, offer.release) and not offer.lacks.intersection(scene.needs)


def best(offers: Iterable[Offer], scene: SavedScene) -> Offer | None:
    """The Blender that fits: of the file's own series, else the oldest newer one; None if none fits."""
    fitting = [offer for offer in offers if fits(offer, scene)]
    return min(fitting, key=lambda o: (o.series, [-n for n in packages.release_key(o.release)]), default=None)


def advice(offers: Sequence[Offer], scene: SavedScene) -> str:
    """One sentence: the package of the farm that fits, or what its operator can install."""
    found = best(offers, scene)
    if found is not None:
        return f"Of this farm's Blenders {found.id} fits."
    if any(packages.can_open(scene.saved, offer.release) for offer in offers):
        return "None of this farm's Blenders has all features that the scene needs."
    return f"This farm has none that is new enough: its operator can install Blender {scene.saved}."


def stand_in(offers: Iterable[Offer], asked: Offer, scene: SavedScene, request: str) -> Offer | None:
    """A Blender of the asked one's series that has what the scene needs, where the asked one lacks it.

    `request`: the Blender as the job names it; one with an exact release is taken as it is.
    """
    if fits(asked, scene) or _is_exact(request):
        return None
    return best((offer for offer in offers if offer.series == asked.series), scene)


def _is_exact(request: str) -> bool:
    try:
        return packages.parse_version(request).patch is not None
    except InvalidInput:
        return True  # the id of a certain package


def findings(
    scene: SavedScene, offer: Offer, offers: Sequence[Offer], *, engine_chosen: bool, brings_code: bool
) -> list[Finding]:
    """Reasons to warn of this scene's pictures by this Blender, which is not older than the file.

    `engine_chosen`: the job names its engine, so the scene's own does not count. `brings_code`: add-ons or
    scripts of the job may bring an engine.
    """
    found = [
        Finding(
            "feature_lacking",
            code,
            {
                "blender": offer.id,
                "what": what,
                "lack": blender_features.sentence(blender_features.Feature(code)),
                "fits": advice([offer, *offers], scene),
            },
            holds=True,
        )
        for code, what in scene.needs.items()
        if code in offer.lacks
    ]
    saved = packages.series_of(scene.saved)
    facts = {"scene": repr(scene.scene), "blender": offer.release, "saved": scene.saved, "file": scene.file}
    if not engine_chosen and scene.engine not in ENGINES:
        gone = scene.engine in GONE
        if gone or not brings_code:
            engine = GONE.get(scene.engine, scene.engine or "an engine without a name")
            found.append(Finding("engine_replaced", scene.scene, facts | {"engine": engine}, holds=True))
    if saved < FIRST_OF_TODAY:
        found.append(Finding("old_file", scene.file, facts))
    old_eevee = scene.engine == "BLENDER_EEVEE" and FIRST_OF_TODAY <= saved < FIRST_NEW_EEVEE
    if old_eevee and not engine_chosen and offer.series >= FIRST_NEW_EEVEE:
        found.append(Finding("eevee_changed", scene.scene, facts))
    return found
