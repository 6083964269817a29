"""Simulations of a job's scene: those that are played, those that hold the job, and bakes that fall short.

The measurements behind it: docs/decisions/0024-simulations-are-played-or-held.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from framefarm.core import simulations as words
from framefarm.core.failure_codes import explain
from framefarm.core.frame_runs import Run
from framefarm.core.frames import FrameSet
from framefarm.server.files.scene_reader import Scene, Simulation, absolute
from framefarm.server.jobs.warnings import JobWarning

MOST_NAMED = 5
MOST_WARNINGS = 50
_BAKED_FRAME = re.compile(r"(.*)/meta/(-?\d{1,9})_\d+\.json", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Simulated:
    """The scene with its simulations as they are for the job, the warnings about them, and whether they hold
    it."""

    scene: Scene
    warnings: list[JobWarning]
    hold: bool


def check(scene: Scene, frames: FrameSet, scene_path: str, uploaded: Sequence[str]) -> Simulated:
    """Compare the scene's simulations with the job's frames and with the files in bakes' folders.

    `scene_path` is the .blend's, `uploaded` are the paths of all inputs.
    """
    unbaked = list(scene.unbaked_simulations)
    baked: list[Simulation] = []
    spans = _baked_spans(uploaded) if any(s.folders for s in scene.baked_simulations) else {}
    for simulation in scene.baked_simulations:
        found = _with_files(simulation, scene_path, spans)
        (unbaked if found is None else baked).append(found or simulation)
    last = frames.nth(len(frames) - 1) if len(frames) else scene.frame_start
    later = last > scene.frame_start
    warnings: list[JobWarning] = []
    required = [s for s in unbaked if s.why and (later or s.why == "other_scene")]
    for simulation in required[:MOST_WARNINGS]:
        facts = {"what": _describe(simulation), "why": words.WHY.get(simulation.why, simulation.why)}
        warnings.append(_warning("simulation_must_be_baked", _subject(simulation), **facts))
    played = [s for s in unbaked if not s.why]
    if played and later:
        what = "; ".join([_describe(s) for s in played[:MOST_NAMED]])
        more = f"; and {len(played) - MOST_NAMED} more" if len(played) > MOST_NAMED else ""
        count = f" (up to {last - scene.frame_start + 1} frames)"
        warnings.append(_warning("unbaked_simulation", scene_path, what=what + more, frames=count))
    for simulation in baked:
        beyond = frames.difference(_span(simulation))
        if len(beyond) and len(warnings) < 2 * MOST_WARNINGS:
            facts = {"frames": _shown(beyond), "what": _describe(simulation)}
            warnings.append(_warning("bake_too_short", _subject(simulation), **facts))
    changed = msgspec.structs.replace(scene, unbaked_simulations=unbaked, baked_simulations=baked)
    return Simulated(changed, warnings, hold=bool(required))


def without(scene: Scene, kind: str) -> Scene:
    """The scene without its simulations of this kind."""
    unbaked = [s for s in scene.unbaked_simulations if s.kind != kind]
    baked = [s for s in scene.baked_simulations if s.kind != kind]
    return msgspec.structs.replace(scene, unbaked_simulations=unbaked, baked_simulations=baked)


def _baked_spans(uploaded: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Folder of a bake → first and last frame of its files."""
    spans: dict[str, tuple[int, int]] = {}
    for path in uploaded:
        if (found := _BAKED_FRAME.fullmatch(path)) is not None:
            number = int(found[2])
            first, last = spans.get(found[1], (number, number))
            spans[found[1]] = min(first, number), max(last, number)
    return spans


def _with_files(
    simulation: Simulation, scene_path: str, spans: Mapping[str, tuple[int, int]]
) -> Simulation | None:
    """The simulation with the frames that its bakes on disk have; None if a folder has none."""
    first, last = simulation.frame_start, simulation.frame_end
    for stored in simulation.folders:
        span = spans.get(absolute(stored, scene_path))
        if span is None:
            return None
        first, last = max(first, span[0]), min(last, span[1])
    return msgspec.structs.replace(simulation, frame_start=first, frame_end=last)


def _span(simulation: Simulation) -> FrameSet:
    """The frames that the bake covers."""
    first, last = simulation.frame_start, simulation.frame_end
    return FrameSet([Run(first, last, 1)]) if first <= last else FrameSet()


def _shown(frames: FrameSet) -> str:
    text = frames.to_text()
    return text if len(text) < 60 else f"{text[:57]}..."


def _describe(simulation: Simulation) -> str:
    return words.describe(
        simulation.kind,
        simulation.object,
        simulation.modifier,
        simulation.frame_start,
        simulation.frame_end,
    )


def _subject(simulation: Simulation) -> str:
    return words.subject(simulation.object, simulation.modifier)


def _warning(code: str, subject: str, **facts: str) -> JobWarning:
    return JobWarning(code=code, message=explain(code, facts), subject=subject)
