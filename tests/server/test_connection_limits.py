"""Limits of connections, on a real server on loopback; and the names of uvicorn that they rely on."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import httpx2
import pytest
import structlog
import uvicorn
from api_client import ApiClient, a_farm, a_site
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from framefarm.server.http import connection_limits
from framefarm.server.http.connection_limits import ConnectionLimiter

LIMIT = 40
REFUSED = (b"HTTP/1.1 401", b"HTTP/1.1 404", b"HTTP/1.1 422")
"""Beginnings of answers by the application, other than uvicorn's 503."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    with a_farm(tmp_path_factory.mktemp("crowd"), None) as context, a_site(context) as made:
        yield made


@contextlib.contextmanager
def served(site: ApiClient, limit: int = LIMIT) -> Iterator[tuple[ConnectionLimiter, tuple[str, int]]]:
    """The farm's application behind uvicorn, as `framefarm serve` has it."""
    limiter = ConnectionLimiter(limit)
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(site.app, http=limiter.protocol, ws="none", log_config=None, lifespan="off")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield limiter, sock.getsockname()
    finally:
        server.force_exit = server.should_exit = True
        thread.join(30)
        sock.close()


def connect(stack: contextlib.ExitStack, at: tuple[str, int], data: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.create_connection(at, timeout=30))
    sock.sendall(data)
    return sock


def ended(sock: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            received += piece
    return received


def wait_for(condition: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.005)


def health(at: tuple[str, int]) -> int:
    with httpx2.Client(base_url=f"http://{at[0]}:{at[1]}", trust_env=False) as client:
        return client.get("/healthz").status_code


def test_oldest_of_many_idle_connections_are_closed(site: ApiClient) -> None:
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        idle = [connect(stack, at, b"GET /hea" if i % 2 else b"") for i in range(5 * LIMIT)]
        assert health(at) == 200
        for sock in idle[: 4 * LIMIT]:
            assert ended(sock) == b""
        assert len(limiter.all) <= LIMIT


def test_connections_without_a_request_are_closed_before_one_kept_alive(site: ApiClient) -> None:
    with served(site) as (_limiter, at), contextlib.ExitStack() as stack:
        kept = connect(stack, at, b"GET /healthz HTTP/1.1\r\nHost: farm\r\n\r\n")
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
        idle = [connect(stack, at) for _ in range(2 * LIMIT)]
        assert ended(idle[0]) == b""
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: farm\r\n\r\n")
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")


def upload(site: ApiClient) -> bytes:
    """Head of a user's upload, and the first of its body's two bytes."""
    head = "POST /api/uploads/file HTTP/1.1\r\nHost: farm\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Authorization: Bearer {site.token}\r\nContent-Length: 2\r\n\r\n{{".encode()


@pytest.mark.parametrize("path", ["/api/auth/login", "/node/v1/sessions/x/sync"])
def test_anonymous_senders_of_a_body_are_closed_and_users_are_not(site: ApiClient, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: farm\r\nAuthorization: Bearer x\r\n".encode()
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        user = connect(stack, at, upload(site))
        wait_for(lambda: any(not c.is_anonymous for c in limiter.sending))
        anonymous = [connect(stack, at, head + b"Content-Length: 2\r\n\r\n{") for _ in range(2 * LIMIT)]
        wait_for(lambda: len(limiter.sending) == LIMIT)
        assert health(at) == 200
        assert ended(anonymous[0]) == b""
        user.sendall(b"}")
        assert user.recv(1 << 16).startswith(b"HTTP/1.1 422")


def not_reading(stack: contextlib.ExitStack, at: tuple[str, int]) -> socket.socket:
    """A client that requests many large answers and reads none."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(at)
    sock.sendall(b"GET /api/openapi.json HTTP/1.1\r\nHost: farm\r\n\r\n" * 100)
    return sock


def test_anonymous_clients_that_read_no_answer_are_closed(site: ApiClient) -> None:
    with served(site, 4) as (limiter, at), contextlib.ExitStack() as stack:
        with structlog.testing.capture_logs() as logged:
            for _ in range(5):
                not_reading(stack, at)
            wait_for(lambda: len(limiter.not_reading) == 4)
            assert health(at) == 200
        assert not [line for line in logged if line["log_level"] == "error"]


def test_a_client_that_reads_no_answer_is_closed_on_time_out(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.5)
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        not_reading(stack, at)
        wait_for(lambda: bool(limiter.not_reading))
        wait_for(lambda: not limiter.all)


def test_above_the_limit_only_runners_are_answered(site: ApiClient) -> None:
    head = b"POST /node/v1/sessions/x/sync HTTP/1.1\r\nHost: farm\r\nAuthorization: Bearer x\r\n"
    with served(site, 4) as (limiter, at), contextlib.ExitStack() as stack:
        busy = [connect(stack, at, upload(site)) for _ in range(4)]
        wait_for(lambda: sum(not c.is_anonymous for c in limiter.sending) == 4)
        late = connect(stack, at, b"GET /healthz HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n")
        assert ended(late).startswith(b"HTTP/1.1 503")
        runner = connect(stack, at, head + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
        assert ended(runner).startswith(REFUSED), "the runner's call did not reach the application"
        busy[0].sendall(b"}")
        assert busy[0].recv(1 << 16).startswith(b"HTTP/1.1 422")
        assert health(at) == 200


@pytest.mark.parametrize(
    "data",
    [
        b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: farm\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: farm\r\n\r\n\r\n",
    ],
    ids=["nothing", "a letter", "half a head", "a blank line after an answer"],
)  # fmt: skip
def test_an_incomplete_head_is_closed_on_time_out(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.05)
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        assert ended(connect(stack, at, data))[:12] in {b"", b"HTTP/1.1 200"}
        assert not limiter.all
        assert health(at) == 200


def test_a_sender_silent_in_the_middle_of_a_body_is_closed_on_time_out(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.5)  # the timer was set for that
    head = b"POST /api/jobs HTTP/1.1\r\nHost: farm\r\nContent-Length: 100\r\n\r\n"
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        assert ended(connect(stack, at, head + b"{")) == b""
        assert not limiter.all


@pytest.mark.parametrize("piece", [b"X-A: b\r\n", b"a"], ids=["headers", "one header"])
def test_an_endless_head_is_cut(site: ApiClient, piece: bytes) -> None:
    with served(site) as (_limiter, at), contextlib.ExitStack() as stack:
        sock = connect(stack, at, b"GET /healthz HTTP/1.1\r\nHost: farm\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                sock.sendall(piece * ((1 << 16) // len(piece)))
        assert b"200" not in ended(sock)


def test_a_refused_upload_still_gets_its_answer(site: ApiClient) -> None:
    """The rest of a body that arrives after the answer does not count as a head."""
    body = b" " * (4 << 20)
    head = b"POST /api/projects HTTP/1.1\r\nHost: farm\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {site.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with served(site) as (_limiter, at), contextlib.ExitStack() as stack:
        sock = connect(stack, at, head + body)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 413")
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200" in ended(sock)


# ------------------------------------------------------------- undocumented names of uvicorn


def names_of(tree: ast.AST, owner: str) -> set[str]:
    """Attributes that the code reads of `owner`, written as in the code: `self`, `cycle`, `self.cycle`."""
    return {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == owner}


def stored_by(tree: ast.AST) -> set[str]:
    """Attributes of `self` that only the code itself introduces."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    return {n.attr for n in nodes if ast.unparse(n.value) == "self" and n.attr.startswith("_")}


def test_uvicorn_has_the_undocumented_names_that_the_limits_rely_on() -> None:
    module = ast.parse(inspect.getsource(connection_limits))
    (code,) = [n for n in module.body if isinstance(n, ast.ClassDef) and n.name == "Connection"]
    own = {n.name for n in code.body if isinstance(n, ast.FunctionDef)} | stored_by(code)
    protocol = asyncio.run(in_a_request())
    relied_on = [
        ("HttpToolsProtocol", protocol, (names_of(code, "self") - own) | names_of(code, "super()")),
        ("RequestResponseCycle", protocol.cycle, names_of(code, "cycle") | names_of(code, "self.cycle")),
        ("FlowControl", protocol.flow, names_of(module, "overdue.flow")),
        ("Config", protocol.config, names_of(code, "self.config")),
    ]
    assert all(names for _, _, names in relied_on), (
        "no names found: how does connection_limits.py use uvicorn?"
    )
    missing = [
        f"uvicorn {uvicorn.__version__} has no {owner}.{name}, which http/connection_limits.py relies on"
        for owner, value, names in relied_on
        for name in sorted(names)
        if not hasattr(value, name)
    ]
    assert not missing, "; ".join(missing)


async def in_a_request() -> HttpToolsProtocol:
    """uvicorn's own protocol in the middle of a request's body."""

    async def app(_scope: object, receive: Callable[[], Awaitable[object]], _send: object) -> None:
        await receive()

    config = uvicorn.Config(app, log_config=None, lifespan="off")  # type: ignore[arg-type]
    protocol = HttpToolsProtocol(config, ServerState(), {})
    protocol.connection_made(Transport())
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: farm\r\nContent-Length: 2\r\n\r\n{")
    return protocol


class Transport(asyncio.Transport):
    """A transport to nowhere."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass
