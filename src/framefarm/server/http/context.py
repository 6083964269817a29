"""What a request carries beside what its sender said."""

from __future__ import annotations

from fastapi import Request

from framefarm.server.context import Farm


def farm_of(request: Request) -> Farm:
    farm: Farm = request.app.state.farm
    return farm
