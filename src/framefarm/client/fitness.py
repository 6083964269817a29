"""Which of the farm's Blenders fits a scene, told before a file is sent. The rules: core/scene_fitness.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framefarm.client.errors import LocalProblem
from framefarm.client.scene_facts import SceneFacts
from framefarm.core import packages
from framefarm.core.errors import InvalidInput
from framefarm.core.failure_codes import explain
from framefarm.core.scene_fitness import Offer, SavedScene, advice, findings, stand_in


def offers_of(listed: Iterable[Mapping[str, Any]]) -> list[Offer]:
    """The farm's Blenders from its list of packages; without those whose release is no version."""
    found = []
    for package in listed:
        if package.get("status", "available") != "available":
            continue
        release = str(package.get("release") or package.get("version") or "")
        try:
            packages.release_key(release)
        except ValueError:
            continue
        found.append(Offer(str(package["id"]), release, frozenset(package.get("lacks") or ())))
    return found


def asked_for(name: str, offers: Iterable[Offer]) -> Offer | None:
    """The newest Blender that a name such as blender-4-2, 4.2 or 4.2.23 fits; None if there is none.

    As for the farm, an archive (blender-4-2-archive) only fits where nothing else does.
    """
    newest = sorted(offers, key=lambda offer: packages.release_key(offer.release), reverse=True)
    newest.sort(key=is_archive)
    try:
        wanted = packages.parse_version(name)
    except InvalidInput:
        return next((offer for offer in newest if offer.id == name), None)
    return next((o for o in newest if o.id == name or wanted.accepts(o.release)), None)


def is_archive(offer: Offer) -> bool:
    """Whether the package is one of Blender's own archives, by its id."""
    return offer.id.endswith("-archive")


def check(
    path: Path,
    facts: SceneFacts,
    scene: str | None,
    blender: str,
    offers: list[Offer],
    *,
    engine_chosen: bool,
    brings_code: bool,
) -> list[str]:
    """Warnings, one text each, about the scene's picture by this Blender; the farm says the same later.

    Raises LocalProblem for a file of a newer Blender, which the farm would refuse.
    """
    asked = asked_for(blender, offers)
    if asked is None:
        return []  # the farm refuses it, and names those that it has
    name = scene or facts.active
    engine, needs = facts.needs.get(name, ("", {}))
    version = f"{facts.version[0]}.{facts.version[1]}"
    saved = SavedScene(path.name, version, name, engine, needs)
    if not packages.can_open(version, asked.release):
        said = {"file": path.name, "saved": version, "blender": asked.release}
        raise LocalProblem(explain("newer_file", {**said, "fits": " " + advice(offers, saved)}))
    if not engine:
        return []  # nothing is known of the scene
    chosen = stand_in(offers, asked, saved, blender) or asked
    found = findings(saved, chosen, offers, engine_chosen=engine_chosen, brings_code=brings_code)
    return [" ".join(explain(one.code, one.facts).split()) for one in found]
