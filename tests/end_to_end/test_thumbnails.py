"""A rendered frame's thumbnail, through the API."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from running_farm import RunningFarm

pytestmark = pytest.mark.blender


def test_every_frame_has_a_thumbnail_that_shows_it(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-3", resolution_percentage=1000, output_path="gs://renders/thumbnails")
    farm.wait(job["id"], "success")

    def drawn() -> list[dict[str, Any]] | None:
        frames = farm.all(f"/api/jobs/{job['id']}/frames")
        return frames if all(f["thumbnail"] for f in frames) else None

    for frame in farm.until(drawn, "every frame has a thumbnail"):
        assert frame["warnings"] == []
        answer = farm.client.get(frame["thumbnail"], headers={"Authorization": ""})
        assert answer.headers["content-type"] == "image/webp"
        small = Image.open(io.BytesIO(answer.content))
        assert (small.format, small.size) == ("WEBP", (320, 180))
        (file,) = frame["files"]
        whole = Image.open(io.BytesIO(farm.client.get(file["url"], headers={"Authorization": ""}).content))
        assert whole.size == (640, 360)
        pairs = zip(
            whole.convert("L").resize((16, 9)).tobytes(),
            small.convert("L").resize((16, 9)).tobytes(),
            strict=True,
        )
        assert max(abs(a - b) for a, b in pairs) < 24, "the same picture"
