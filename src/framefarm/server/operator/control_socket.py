"""Execution of the operator's commands: over the farm's socket while it runs, else on the opened database.

No command is on the public API: the permission to open the data directory makes the operator.
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
from framefarm.server.operator.commands import COMMANDS, LONG, Arguments, Reply, prepare
from framefarm.server.settings import Settings

log = structlog.get_logger(__name__)

LOCK = "lock"
LINE = 32
"""Length of the lock file in bytes, so that one write replaces all of it."""
FARM, COMMAND = "farm", "command"
"""Holders of the lock, as the lock file names them."""
SOCKET = "control.sock"
PATIENCE_SECONDS = 30.0
"""Longest wait of a command for a farm that starts or stops, or for other commands."""


class OperatorError(FarmError):
    """An operator's command was refused."""

    title = "Refused"


class NobodyAnswers(OperatorError):
    """The data directory is locked, and its holder takes no commands (yet)."""


@contextlib.contextmanager
def lock_data(data: Path, who: str = COMMAND) -> Iterator[None]:
    """Lock the data directory for one process. Raises BlockingIOError if another one holds it.

    The lock file names the holder: `farm PID`, or `command PID` while a command runs.
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
    """Lock the data directory for a farm, after the end of a running command. Raises BlockingIOError."""
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
    """Process id of the farm that holds the data directory; None if it is free or a command holds it."""
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
    """Whether that process has the lock file open: the file may still name a farm that was killed."""
    lock_file = os.fstat(fd)
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), lock_file):
                    return True
    return False


def run(data: Path, name: str, arguments: Arguments) -> Reply:
    """Execute a command on the farm in `data`, whether the farm runs or not. Raises FarmError."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{data} cannot be used: {error.strerror or error}"
        raise InvalidInput.of("--data", reason, str(data)) from error
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with lock_data(data):
                return _run_alone(data, name, arguments)
        except BlockingIOError:
            pass
        try:
            return _ask(data, name, arguments)
        except NobodyAnswers:  # a farm starts or stops, or another command holds a stopped farm
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _run_alone(data: Path, name: str, arguments: Arguments) -> Reply:
    context = open_farm(Settings(data=data))
    try:
        if name in LONG:
            return LONG[name](context, arguments)
        return context.db.write_now(execute, context, name, prepare(name, arguments))
    finally:
        context.db.close()


def execute(tx: Tx, context: AppContext, name: str, arguments: Arguments) -> Reply:
    work = COMMANDS.get(name)
    if work is None:
        raise InvalidInput.of(
            "command", f"there is no such command; there are: {', '.join(sorted(COMMANDS))}", name
        )
    return work(tx, context, arguments)


# ----------------------------------------------------------------- while the farm runs


@contextlib.contextmanager
def _address(data: Path) -> Iterator[str]:
    """A short path of the socket, as a socket's path holds at most 107 bytes and the data directory's may be
    longer."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _ask(data: Path, name: str, arguments: Arguments) -> Reply:
    import httpx2

    patience = httpx2.Timeout(60, read=None) if name in LONG else httpx2.Timeout(60)
    with (
        _address(data) as path,
        httpx2.Client(transport=httpx2.HTTPTransport(uds=path), timeout=patience) as client,
    ):
        try:
            response = client.post("http://farm/command", json={"name": name, "arguments": arguments})
        except httpx2.ConnectError as error:
            text = f"the farm on {data} is starting or stopping, or another command is at work; try again"
            raise NobodyAnswers(f"{text} ({error})") from None
        except httpx2.TransportError as error:
            text = f"the connection to the farm on {data} broke during the command; check whether it was done"
            raise OperatorError(f"{text} ({error})") from None
    reply: Reply = response.json()
    if response.status_code != 200:
        raise OperatorError(reply["detail"])
    return reply


@contextlib.asynccontextmanager
async def serve_control(context: AppContext) -> AsyncIterator[None]:
    """Execute the operator's commands that arrive on a socket in the data directory, of mode 0600."""
    import asyncio

    async def answer(request: Request) -> Response:
        body = await request.json()
        try:
            name, arguments = body["name"], body["arguments"]
            if name in LONG:
                return JSONResponse(await run_in_threadpool(LONG[name], context, arguments))
            arguments = await run_in_threadpool(prepare, name, arguments)
            return JSONResponse(await context.db.write(execute, context, name, arguments))
        except FarmError as error:
            return JSONResponse({"detail": error.detail}, 422)
        except Exception:
            log.exception("command_failed", name=body.get("name"))
            return JSONResponse(
                {"detail": "the command failed by a mistake of the farm; its log has the error"}, 500
            )

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


def dumps(reply: Reply) -> str:
    """A command's reply as indented JSON."""
    return json.dumps(reply, indent=2, ensure_ascii=False)
