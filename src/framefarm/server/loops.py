"""Loops of the server that outlive a failing turn: it is logged, and the next turn comes as usual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from framefarm.server.context import Listener

log = structlog.get_logger(__name__)


async def repeat(turn: Callable[[], Awaitable[object]], *, seconds: float, failure: str) -> None:
    """Run `turn` for ever, with a pause after each. `failure`: log event of a turn that raised."""
    while True:
        try:
            await turn()
        except Exception:
            log.exception(failure)
        await asyncio.sleep(seconds)


async def repeat_when_woken(
    woken: Listener, turn: Callable[[], Awaitable[float]], *, seconds: float, failure: str
) -> None:
    """Run `turn` for ever: again when `woken`, at the latest after the seconds that the turn returned.

    `failure`: log event of a turn that raised; the next one comes after `seconds`.
    """
    while True:
        pause = seconds
        try:
            pause = await turn()
        except Exception:
            log.exception(failure)
        await woken.wait(pause)
