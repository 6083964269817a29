"""Simulations in words, alike for the file's reader and for the program in Blender."""

from __future__ import annotations

import ast
from pathlib import Path

import framefarm
from framefarm.core import simulations


def test_the_program_in_blender_has_the_same_reasons() -> None:
    source = Path(framefarm.__file__).parent / "node" / "in_blender" / "history.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "WHY":
            assert ast.literal_eval(node.value) == simulations.WHY
            return
    raise AssertionError("no WHY in history.py")


def test_a_simulation_is_named_with_object_modifier_and_cache() -> None:
    text = simulations.describe("soft_body", "Jelly", "Soft", 1, 250)
    assert text == "soft body of Jelly (modifier Soft), cache frames 1 to 250"
    assert simulations.describe("rigid_body", "Box", "", -5, 9) == "rigid body of Box, cache frames -5 to 9"
    assert simulations.subject("Box", "") == "Box: rigid bodies"
