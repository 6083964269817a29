"""A frame of one colour is suspicious beside other frames, and only there."""

from __future__ import annotations

import pytest

from framefarm.core.frame_colour import Look, stands_out

SCENE, BLACK, WHITE = Look(), Look((0.0, 0.0, 0.0)), Look((1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("look", "neighbours", "expected"),
    [
        (BLACK, [SCENE, SCENE], True),
        (BLACK, [SCENE], True),
        (BLACK, [BLACK, SCENE], True),
        (BLACK, [BLACK, BLACK], False),
        (BLACK, [WHITE, BLACK], True),
        (BLACK, [None, BLACK], False),
        (BLACK, [None, None], False),
        (BLACK, [], False),
        (SCENE, [BLACK, BLACK], False),
        (None, [SCENE, SCENE], False),
        (BLACK, [Look((0.04, 0.04, 0.04))], False),
        (BLACK, [Look((0.0, 0.0, 0.2))], True),
        (BLACK, [Look((0.0,))], True),
    ],
)
def test_one_colour_stands_out_beside_another_picture(
    look: Look | None, neighbours: list[Look | None], expected: bool
) -> None:
    assert stands_out(look, neighbours) is expected


@pytest.mark.parametrize("look", [SCENE, BLACK, Look((0.25, 1e-6, 65504.0)), Look((0.5,))])
def test_a_look_is_stored_as_text(look: Look) -> None:
    assert Look.from_text(look.to_text()) == look
