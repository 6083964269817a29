"""What a request carries beside what its sender said."""

from __future__ import annotations

from fastapi import Request

from framefarm.server.context import AppContext


def context_of(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context
