"""Connections without a request give way, runners first; a real server on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest
import structlog
import uvicorn
from api_client import ApiClient, a_farm, a_site

from framefarm.server.http import connection_limits
from framefarm.server.http.connection_limits import ConnectionLimiter

LIMIT = 40
HEARD = (b"HTTP/1.1 401", b"HTTP/1.1 404", b"HTTP/1.1 422")


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


def connect(stack: contextlib.ExitStack, at: tuple[str, int], said: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.create_connection(at, timeout=30))
    sock.sendall(said)
    return sock


def ended(sock: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            said += piece
    return said


def wait_for(condition: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.005)


def health(at: tuple[str, int]) -> int:
    with httpx2.Client(base_url=f"http://{at[0]}:{at[1]}", trust_env=False) as client:
        return client.get("/healthz").status_code


def test_of_a_flood_of_idle_connections_the_oldest_give_way(site: ApiClient) -> None:
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        idle = [connect(stack, at, b"GET /hea" if i % 2 else b"") for i in range(5 * LIMIT)]
        assert health(at) == 200
        for sock in idle[: 4 * LIMIT]:
            assert ended(sock) == b""
        assert len(limiter.all) <= LIMIT


def test_one_kept_alive_gives_way_after_those_that_never_asked(site: ApiClient) -> None:
    with served(site) as (_limiter, at), contextlib.ExitStack() as stack:
        kept = connect(stack, at, b"GET /healthz HTTP/1.1\r\nHost: farm\r\n\r\n")
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
        idle = [connect(stack, at) for _ in range(2 * LIMIT)]
        assert ended(idle[0]) == b""
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: farm\r\n\r\n")
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")


def upload(site: ApiClient) -> bytes:
    """The head of a user's upload, and half its body."""
    head = "POST /api/uploads/file HTTP/1.1\r\nHost: farm\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Authorization: Bearer {site.token}\r\nContent-Length: 2\r\n\r\n{{".encode()


@pytest.mark.parametrize("path", ["/api/auth/login", "/node/v1/sessions/x/sync"])
def test_strangers_in_the_middle_of_a_body_give_way_and_users_do_not(site: ApiClient, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: farm\r\nAuthorization: Bearer x\r\n".encode()
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        user = connect(stack, at, upload(site))
        wait_for(lambda: any(not c.is_strangers for c in limiter.sending))
        strangers = [connect(stack, at, head + b"Content-Length: 2\r\n\r\n{") for _ in range(2 * LIMIT)]
        wait_for(lambda: len(limiter.sending) == LIMIT)
        assert health(at) == 200
        assert ended(strangers[0]) == b""
        user.sendall(b"}")
        assert user.recv(1 << 16).startswith(b"HTTP/1.1 422")


def not_reading(stack: contextlib.ExitStack, at: tuple[str, int]) -> socket.socket:
    """It asks for much and reads nothing."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(at)
    sock.sendall(b"GET /api/openapi.json HTTP/1.1\r\nHost: farm\r\n\r\n" * 100)
    return sock


def test_strangers_that_take_no_answer_give_way(site: ApiClient) -> None:
    with served(site, 4) as (limiter, at), contextlib.ExitStack() as stack:
        with structlog.testing.capture_logs() as logged:
            for _ in range(5):
                not_reading(stack, at)
            wait_for(lambda: len(limiter.not_reading) == 4)
            assert health(at) == 200
        assert not [line for line in logged if line["log_level"] == "error"]


def test_a_client_that_takes_no_answer_is_not_waited_for(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.5)
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        not_reading(stack, at)
        wait_for(lambda: bool(limiter.not_reading))
        wait_for(lambda: not limiter.all)


def test_while_nobody_can_give_way_only_runners_are_answered(site: ApiClient) -> None:
    head = b"POST /node/v1/sessions/x/sync HTTP/1.1\r\nHost: farm\r\nAuthorization: Bearer x\r\n"
    with served(site, 4) as (limiter, at), contextlib.ExitStack() as stack:
        busy = [connect(stack, at, upload(site)) for _ in range(4)]
        wait_for(lambda: sum(not c.is_strangers for c in limiter.sending) == 4)
        late = connect(stack, at, b"GET /healthz HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n")
        assert ended(late).startswith(b"HTTP/1.1 503")
        runner = connect(stack, at, head + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
        assert ended(runner).startswith(HEARD), "its session is unknown, but it was asked"
        busy[0].sendall(b"}")
        assert busy[0].recv(1 << 16).startswith(b"HTTP/1.1 422")
        assert health(at) == 200


@pytest.mark.parametrize(
    "said",
    [
        b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: farm\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: farm\r\n\r\n\r\n",
    ],
    ids=["nothing", "a letter", "half a head", "a blank line after an answer"],
)  # fmt: skip
def test_a_head_that_does_not_come_is_not_waited_for(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.05)
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        assert ended(connect(stack, at, said))[:12] in {b"", b"HTTP/1.1 200"}
        assert not limiter.all
        assert health(at) == 200


def test_a_sender_that_falls_silent_is_not_waited_for(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.5)  # the next look was set for that
    head = b"POST /api/jobs HTTP/1.1\r\nHost: farm\r\nContent-Length: 100\r\n\r\n"
    with served(site) as (limiter, at), contextlib.ExitStack() as stack:
        assert ended(connect(stack, at, head + b"{")) == b""
        assert not limiter.all


@pytest.mark.parametrize("piece", [b"X-A: b\r\n", b"a"], ids=["headers", "one header"])
def test_a_head_without_end_is_cut(site: ApiClient, piece: bytes) -> None:
    with served(site) as (_limiter, at), contextlib.ExitStack() as stack:
        sock = connect(stack, at, b"GET /healthz HTTP/1.1\r\nHost: farm\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                sock.sendall(piece * ((1 << 16) // len(piece)))
        assert b"200" not in ended(sock)


def test_a_refused_upload_still_hears_why(site: ApiClient) -> None:
    """What is sent after the answer is no head."""
    body = b" " * (4 << 20)
    head = b"POST /api/projects HTTP/1.1\r\nHost: farm\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {site.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with served(site) as (_limiter, at), contextlib.ExitStack() as stack:
        sock = connect(stack, at, head + body)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 413")
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200" in ended(sock)
