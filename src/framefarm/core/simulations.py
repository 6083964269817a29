"""Simulations of a scene in words, and the reasons why one has to be baked before it is rendered.

Which kinds can be played on a node, so that every picture is as in an uninterrupted run, was measured with
Blender 4.2 and 5.0 (docs/decisions/0024-simulations-are-played-or-held.md).
"""

from __future__ import annotations

WHY = {
    "particles": "Blender itself draws unbaked particles differently, by what was rendered before",
    "dynamic_paint": "unbaked paint depends on what was rendered before",
    "fluid": "a fluid writes its cache into a folder, which a job's files do not take",
    "disk": "its cache is set to lie on disk, and the frames there are not baked",
    "early": "its cache begins before the scene's first frame, from which a render plays",
    "hidden": "it is hidden in the viewport, where Blender plays it, and shown in renders",
    "other_scene": "it is in another scene, which Blender does not play with this one",
}
"""Reasons why a simulation has to be baked, as codes and clauses."""


def describe(kind: str, owner: str, modifier: str, first: int, last: int) -> str:
    """A simulation in words, such as `cloth of Flag (modifier Cloth), cache frames 1 to 250`."""
    of = f" (modifier {modifier})" if modifier else ""
    return f"{kind.replace('_', ' ')} of {owner}{of}, cache frames {first} to {last}"


def subject(owner: str, modifier: str) -> str:
    """The subject of warnings about a simulation, alike for those from the file and from Blender."""
    return f"{owner}: {modifier or 'rigid bodies'}"
