"""Loops of the server that continue after a failed pass: the failure is logged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from framefarm.server.context import Listener

log = structlog.get_logger(__name__)


async def repeat(run_pass: Callable[[], Awaitable[object]], *, seconds: float, failure: str) -> None:
    """Call `run_pass` for ever, with a pause after each. `failure`: log event of a pass that raised."""
    while True:
        try:
            await run_pass()
        except Exception:
            log.exception(failure)
        await asyncio.sleep(seconds)


async def repeat_when_woken(
    woken: Listener, run_pass: Callable[[], Awaitable[float]], *, seconds: float, failure: str
) -> None:
    """Call `run_pass` for ever: again when `woken`, at the latest after the seconds that it returned.

    `failure`: log event of a pass that raised; the next one comes after `seconds` at the latest.
    """
    while True:
        pause = seconds
        try:
            pause = await run_pass()
        except Exception:
            log.exception(failure)
        await woken.wait(pause)
