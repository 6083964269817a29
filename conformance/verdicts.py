"""The verdict on a scene: its right outcome beside the one that was seen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import compare
from declarations import Scene
from farm import Farm, Submitted
from plain import Done

Outcome = Literal["equal", "near", "told", "differs", "wrong", "not run"]
IGNORED_WARNINGS = {"uniform_picture", "no_sandbox"}
UNSAFE = re.compile(r'[<>:"|?*\\]|[ .]$')


@dataclass
class Verdict:
    """`equal`: pictures and names; `near`: within its tolerance; `told`: stopped before it costs, rightly;
    `differs`: known and explained; `wrong`: neither; `not run`: this Blender is not there."""

    scene: str
    version: str
    outcome: Outcome
    detail: str = ""
    files: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(farm: Farm, scene: Scene, version: str, one: Submitted, plain: Done, folder: Path) -> Verdict:
    """The verdict on a job that has ended, whose scene plain Blender has rendered below `folder`/out."""
    problems = list(_problems(farm, scene, one, plain, folder))
    right = folder / "out"
    files = len(compare.files_of(right)) if right.exists() else 0
    if problems:
        outcome: Outcome = "differs" if scene.differs else "wrong"
        return Verdict(
            scene.id, version, outcome, "; ".join(" ".join(p.split())[:400] for p in problems), files
        )
    if one.job.get("status") != "success":
        return Verdict(scene.id, version, "told", one.job.get("cause") or "held or refused", 0)
    return Verdict(scene.id, version, "near" if scene.tolerance else "equal", "", files)


def _problems(farm: Farm, scene: Scene, one: Submitted, plain: Done, folder: Path) -> Iterator[str]:
    status = one.job.get("status") or "refused"
    for pattern in scene.says:
        if not re.search(pattern, one.said):
            yield f"/{pattern}/ is not said, but: {one.said.strip()[:200] or 'nothing'}"
    if lost := sorted(set(scene.sent) - one.sent):
        yield f"not sent: {', '.join(lost)}"
    stopped = status != "success" and one.attempts <= scene.starts
    if scene.ends == "stopped" and not stopped:
        yield f"not stopped before a machine starts: {status} after {one.attempts} attempts"
    if stopped and scene.ends in ("stopped", "either"):
        return
    if status != "success":
        yield f"it ends as {status}: {one.job.get('cause') or ''} {one.job.get('message') or one.said}"
        return
    codes = {warning["code"] for warning in one.job.get("warnings") or []} - IGNORED_WARNINGS
    if extra := codes - set(scene.warns) - set(scene.warns_of):
        texts = [w["message"] for w in one.job["warnings"] if w["code"] in extra]
        yield f"false warnings {', '.join(sorted(extra))}: {texts[0][:200]}"
    if silent := set(scene.warns) - codes:
        yield f"no warning {', '.join(sorted(silent))}"
    if plain.error:
        yield f"plain Blender fails, and the farm does not: {plain.error}"
        return
    yield from _pictures(farm, scene, one, folder)


def _pictures(farm: Farm, scene: Scene, one: Submitted, folder: Path) -> Iterator[str]:
    right, got = folder / "out", folder / "farm"
    if error := farm.download(one, got):
        yield f"the download fails: {error}"
        return
    want, have = compare.files_of(right), compare.files_of(got)
    pairs = list(zip(want, have, strict=False))
    if not want:
        yield "plain Blender wrote no file"
    if not scene.dark and (empty := compare.empty(right, want)):
        yield f"plain Blender's own {empty} shows nothing: the scene proves nothing"
    if scene.safe_names or scene.unnamed:
        if len(want) != len(have):
            yield f"{len(have)} files ({', '.join(have)}), not {len(want)} ({', '.join(want)})"
        for name in have:
            if UNSAFE.search(os.path.basename(name)):
                yield f"{name} is no name that every system takes"
    elif want != have:
        lost, more = sorted(set(want) - set(have)), sorted(set(have) - set(want))
        yield "; ".join(
            [f"lacks {', '.join(lost[:8])}"] * bool(lost) + [f"has {', '.join(more[:8])} beside"] * bool(more)
        )
        pairs = [(name, name) for name in want if name in have]
    yield from list(compare.differences(right, got, pairs, scene.tolerance))[:4]
