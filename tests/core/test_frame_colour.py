"""A frame of one colour is suspicious beside other frames, and only there."""

from __future__ import annotations

import pytest

from framefarm.core.frame_colour import FrameColour, is_outlier

SCENE, BLACK, WHITE = FrameColour(), FrameColour((0.0, 0.0, 0.0)), FrameColour((1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("frame", "neighbours", "expected"),
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
        (BLACK, [FrameColour((0.04, 0.04, 0.04))], False),
        (BLACK, [FrameColour((0.0, 0.0, 0.2))], True),
        (BLACK, [FrameColour((0.0,))], True),
        (FrameColour((0.0,)), [BLACK], True),
        (WHITE, [WHITE], False),
        (BLACK, [FrameColour((0.0, 0.1, 0.0))], True),
        (FrameColour((0.0, 0.1, 0.0)), [BLACK], True),
    ],
)
def test_one_colour_stands_out_beside_another_picture(
    frame: FrameColour | None, neighbours: list[FrameColour | None], expected: bool
) -> None:
    assert is_outlier(frame, neighbours) is expected


@pytest.mark.parametrize("colour", [SCENE, BLACK, FrameColour((0.25, 1e-6, 65504.0)), FrameColour((0.5,))])
def test_a_frame_colour_is_stored_as_text(colour: FrameColour) -> None:
    assert FrameColour.from_text(colour.to_text()) == colour
