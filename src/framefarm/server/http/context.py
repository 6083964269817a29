"""The farm's context, of the application that serves a request."""

from __future__ import annotations

from fastapi import Request

from framefarm.server.context import AppContext


def context_of(request: Request) -> AppContext:
    """The context that `create_app` stored in the application's state."""
    context: AppContext = request.app.state.context
    return context
