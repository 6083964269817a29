"""The operator's commands: through the farm's own socket while it runs, else on the opened database.

Nothing of this is on the public API: whoever may open the data directory is the operator.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from framefarm.core.errors import FarmError, InvalidInput
from framefarm.server.bootstrap import open_farm
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.operator.commands import COMMANDS, LONG, prepare
from framefarm.server.settings import Settings

log = structlog.get_logger(__name__)

LOCK = "lock"
LINE = 32
"""Bytes in the lock's file; written at once."""
FARM, COMMAND = "farm", "command"
SOCKET = "control.sock"
PATIENCE_SECONDS = 30.0
"""How long a command waits for a farm that starts or stops, or for other commands."""


class OperatorError(FarmError):
    """An operator's command was refused."""

    title = "Refused"


class NobodyAnswers(OperatorError):
    """The data directory is held, and whoever holds it takes no commands (yet)."""


@contextlib.contextmanager
def lock_data(data: Path, who: str = COMMAND) -> Iterator[None]:
    """Hold the data directory: one at a time. Raises BlockingIOError if another holds it.

    The lock's file says who holds it: `farm PID`, or `command PID` for a moment.
    """
    fd = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(fd, f"{who} {os.getpid()}".ljust(LINE).encode(), 0)
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@contextlib.contextmanager
def serve_data(data: Path) -> Iterator[None]:
    """Hold the data directory for a farm; a command at work on it is waited for. Raises BlockingIOError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock_data(data, FARM))
                break
            except BlockingIOError:
                if running_pid(data) is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield


def running_pid(data: Path) -> int | None:
    """The farm that holds the data directory; None for nobody, or a command."""
    try:
        fd = os.open(data / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        who, _, pid = os.pread(fd, LINE, 0).decode().strip().partition(" ")
        return int(pid) if who == FARM and pid.isdecimal() and _has_open(pid, fd) else None
    finally:
        os.close(fd)
    return None


def _has_open(pid: str, fd: int) -> bool:
    """Whether that process has the same file open: what the file says may be of a farm that was killed."""
    mine = os.fstat(fd)
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), mine):
                    return True
    return False


def run(data: Path, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a command on the farm in `data`, whether it runs or not. Raises FarmError."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with lock_data(data):
                return _run_alone(data, name, arguments)
        except BlockingIOError:
            pass
        try:
            return _ask(data, name, arguments)
        except NobodyAnswers:  # a farm that starts or stops, or another command on a farm that does not run
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _run_alone(data: Path, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    context = open_farm(Settings(data=data))
    try:
        if name in LONG:
            return LONG[name](context, arguments)
        return context.db.write_now(_do, context, name, prepare(name, arguments))
    finally:
        context.db.close()


def _do(tx: Tx, context: AppContext, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    work = COMMANDS.get(name)
    if work is None:
        raise InvalidInput.of(
            "command", f"there is none of this name; there are: {', '.join(sorted(COMMANDS))}", name
        )
    return work(tx, context, arguments)


# ----------------------------------------------------------------- while the farm runs


@contextlib.contextmanager
def _address(data: Path) -> Iterator[str]:
    """The socket's path, short however deep the directory lies (a socket's path holds 107 bytes)."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _ask(data: Path, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    import httpx2

    patience = httpx2.Timeout(60, read=None) if name in LONG else httpx2.Timeout(60)
    with (
        _address(data) as path,
        httpx2.Client(transport=httpx2.HTTPTransport(uds=path), timeout=patience) as client,
    ):
        try:
            answer = client.post("http://farm/command", json={"name": name, "arguments": arguments})
        except httpx2.ConnectError as error:
            text = f"the farm on {data} is starting or stopping, or another command is at work; try again"
            raise NobodyAnswers(f"{text} ({error})") from None
        except httpx2.TransportError as error:
            text = f"the farm on {data} went away during the command; see whether it was done"
            raise OperatorError(f"{text} ({error})") from None
    body: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        raise OperatorError(body["detail"])
    return body


@contextlib.asynccontextmanager
async def serve_control(context: AppContext) -> AsyncIterator[None]:
    """Answer operators' commands on a socket in the data directory, 0600."""
    import asyncio

    async def answer(request: Request) -> Response:
        said = await request.json()
        try:
            if said["name"] in LONG:
                return JSONResponse(await run_in_threadpool(LONG[said["name"]], context, said["arguments"]))
            arguments = await run_in_threadpool(prepare, said["name"], said["arguments"])
            return JSONResponse(await context.db.write(_do, context, said["name"], arguments))
        except FarmError as error:
            return JSONResponse({"detail": error.detail}, 422)
        except Exception:
            log.exception("command_failed", name=said.get("name"))
            return JSONResponse({"detail": "the farm made a mistake; its log says which"}, 500)

    (context.data / SOCKET).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _address(context.data) as path:
        sock.bind(path)
        os.chmod(path, 0o600)
    app = Starlette(routes=[Route("/command", answer, methods=["POST"])])
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        sock.close()
        (context.data / SOCKET).unlink(missing_ok=True)


def dumps(answer: dict[str, Any]) -> str:
    return json.dumps(answer, indent=2, ensure_ascii=False)
