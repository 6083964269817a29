"""Whether a job's Blender fits its scene; rules in `core/scene_fitness.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framefarm.core import packages as blenders
from framefarm.core.failure_codes import explain
from framefarm.core.scene_fitness import Offer, SavedScene, advice, findings, stand_in
from framefarm.sandboxing.userland import userland_of
from framefarm.server.catalog.service import Package
from framefarm.server.files.scene_reader import Scene, SceneFacts
from framefarm.server.jobs.failures import Unrenderable
from framefarm.server.jobs.warnings import JobWarning

MOST_WARNINGS = 20
"""Most warnings about other scenes that are rendered for the picture."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """The package that renders the job, the warnings about it, and whether they hold the job."""

    package_id: str | None
    """None: the one asked for."""
    lacks: frozenset[str]
    """Features that this package lacks."""
    warnings: list[JobWarning]
    hold: bool


def offers_of(packages: Sequence[Package], *, bubblewrap: bool = True) -> list[Offer]:
    """The packages that are there. `bubblewrap`: whether those with a userland of their own can be used."""
    usable = (p for p in packages if bubblewrap or userland_of(p.path) is None)
    return [Offer(p.id, p.release, frozenset(p.lacks or ())) for p in usable if p.status == "available"]


def check_age(facts: SceneFacts, asked: Offer, offers: Sequence[Offer]) -> None:
    """Raises Unrenderable for a file of a newer Blender."""
    if blenders.can_open(facts.blender_version, asked.release):
        return
    scene = SavedScene(facts.path, facts.blender_version, "", "")
    fits = " " + advice(offers, scene)
    saved, blender = facts.blender_version, asked.release
    raise Unrenderable("newer_file", file=facts.path, saved=saved, blender=blender, fits=fits)


def check(
    facts: SceneFacts,
    scene: Scene,
    asked: Offer,
    offers: Sequence[Offer],
    *,
    request: str,
    engine_chosen: bool,
    brings_code: bool,
) -> Fitness:
    """Compare the scene with the package asked for; another one of its series stands in where it lacks a
    feature.

    `request`: the Blender as the submission names it; one with an exact release is taken as it is.
    """
    needs = {need.feature: need.what for need in scene.needs}
    saved = SavedScene(facts.path, facts.blender_version, scene.name, scene.engine, needs)
    other = stand_in(offers, asked, saved, request)
    warnings = []
    if other is not None:
        what = ", ".join(what for code, what in needs.items() if code in asked.lacks)
        message = explain("package_switched", {"package": other.id, "asked": asked.id, "what": what})
        warnings.append(JobWarning(code="package_switched", message=message, subject=other.id))
    chosen = other or asked
    found = findings(saved, chosen, offers, engine_chosen=engine_chosen, brings_code=brings_code)
    most = len(found) + MOST_WARNINGS
    for other_scene in scene.renders:
        if len(found) >= most:
            break
        rendered = SavedScene(facts.path, facts.blender_version, other_scene.name, other_scene.engine)
        more = findings(rendered, chosen, offers, engine_chosen=engine_chosen, brings_code=brings_code)
        found += [finding for finding in more if finding not in found]
    for one in found:
        message = " ".join(explain(one.code, one.facts).split())
        warnings.append(JobWarning(code=one.code, message=message, subject=one.subject))
    package_id = None if other is None else other.id
    return Fitness(package_id, chosen.lacks, warnings, any(one.holds for one in found))
