"""`framefarm serve` and `framefarm stop`: start and stop the server on this machine."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

DataOption = Annotated[
    Path,
    typer.Option("--data", envvar="FRAMEFARM_DATA", help="The farm's data directory.", show_default=False),
]
DRAIN_SECONDS = 6
"""Time for open requests to finish when the server stops."""
OWN_DESCRIPTORS = 512
"""File descriptors that the server needs beside those of its connections."""


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)
    app.command("stop")(stop)


def serve(
    data: DataOption,
    listen: Annotated[str, typer.Option(help="Address to listen on, HOST:PORT; port 0 takes a free one.")] = (
        "127.0.0.1:8000"
    ),
    behind_proxy: Annotated[
        bool, typer.Option(help="Set it if a TLS proxy is in front of the farm.")
    ] = False,
) -> None:
    """Run the farm: API, dispatcher and local engine in one process.

    Example: framefarm serve --data /var/lib/framefarm/data --listen 127.0.0.1:8000

    SIGTERM stops the server. Renders continue, and the next start takes them back.
    """
    import uvicorn
    from pydantic import ValidationError
    from sqlalchemy.exc import OperationalError

    from framefarm.server import bootstrap, tracing
    from framefarm.server.app import create_app
    from framefarm.server.http.connection_limits import ConnectionLimiter
    from framefarm.server.logs import configure_logs
    from framefarm.server.operator import control_socket
    from framefarm.server.settings import Settings

    try:
        settings = Settings(data=data)
    except ValidationError as error:
        _fail("; ".join(_setting_problem(e) for e in error.errors()))
    configure_logs(settings.log_level)
    if settings.otlp_endpoint:
        try:
            tracing.start(settings.otlp_endpoint)
        except ModuleNotFoundError as error:
            _fail(f"FRAMEFARM_OTLP_ENDPOINT needs {error.name}: pip install 'framefarm[telemetry]'")
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        _fail(f"--listen {listen!r} is not HOST:PORT, as 127.0.0.1:8000")
    with contextlib.ExitStack() as stack:
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(control_socket.serve_data(data))
        except BlockingIOError:
            _fail(f"a farm already runs on {data}; stop it with: framefarm stop --data {data}")
        except OSError as error:
            _fail(f"cannot use --data {data}: {error.strerror or error}")
        try:
            sock = _bind(host.strip("[]"), int(port))
        except OSError as error:
            _fail(f"cannot listen on {listen}: {error.strerror or error}")
        stack.callback(sock.close)
        try:
            context = bootstrap.open_farm(settings)
        except OperationalError as error:
            _fail(f"cannot open the database: {error.orig}")
        stack.callback(context.db.close)
        address = _address(sock)
        limiter = ConnectionLimiter(_allowed_connections(settings.max_connections))
        context.base_url = lambda: settings.public_url or address
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(context, bootstrap.local_engine(context)),
                http=limiter.protocol,  # type: ignore[arg-type]
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies or None,
                timeout_graceful_shutdown=DRAIN_SECONDS,
                timeout_keep_alive=75,
                backlog=1024,
            )
        )
        handle_exit = server.handle_exit

        def drain(number: int, frame: Any) -> None:
            context.draining = True
            context.hub.wake_all()
            handle_exit(number, frame)

        server.handle_exit = drain  # type: ignore[method-assign,assignment]
        try:
            _write_endpoint(data / bootstrap.ENDPOINT, address)
        except OSError as error:
            _fail(f"cannot write to {data}: {error.strerror or error}")
        _print_start(context, address, host, behind_proxy or settings.behind_proxy)

        threading.Thread(target=_check_lookups, args=[settings.sandbox], daemon=True).start()

        def stop_again(_number: int, _frame: Any) -> None:
            """Keep the process alive when uvicorn raises the signal again, so that the database is closed."""
            server.should_exit = True

        signal.signal(signal.SIGTERM, stop_again)
        gc.freeze()  # loaded modules stay for good, so collections can skip them
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[sock])


def _allowed_connections(connections: int) -> int:
    """Raise the limit of open files for so many connections; the number of connections that it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    needed = connections + connections // 4 + OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            connections = max(16, (soft - OWN_DESCRIPTORS) * 4 // 5)
            sys.stderr.write(
                f"warning: this process may open {soft} files, enough for {connections} connections:"
                f" raise the limit to {needed} (LimitNOFILE in its systemd unit)\n"
            )
    return connections


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(1024)
    return sock


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _write_endpoint(path: Path, address: str) -> None:
    """Write the farm's address for its runners, which read it again when the farm does not answer."""
    if path.exists() and path.read_text() == address + "\n":
        return  # a restart on the same port works with a full disk, too
    temporary = path.with_suffix(".new")
    temporary.write_text(address + "\n")
    temporary.replace(path)


def _print_start(context: Any, address: str, host: str, behind_proxy: bool) -> None:
    from framefarm.server import bootstrap
    from framefarm.server.accounts import service as accounts
    from framefarm.server.catalog.destinations import buckets

    out = sys.stdout
    password = context.data / bootstrap.ADMIN_PASSWORD
    first = context.db.read_now(accounts.first_admin)
    if first is not None and password.exists():
        out.write(f"the first admin is {first.email}, the password is in {password}\n")
    for bucket, folder in buckets(context).items():
        out.write(f"{bucket} is {folder}\n")
    if host not in {"127.0.0.1", "::1", "[::1]", "localhost"} and not behind_proxy:
        sys.stderr.write(
            f"warning: listening on {host} without TLS: passwords and frames are sent unencrypted;"
            " put a TLS proxy in front and give --behind-proxy\n"
        )
    if behind_proxy and not context.settings.trusted_proxies:
        sys.stderr.write(
            "warning: --behind-proxy without FRAMEFARM_TRUSTED_PROXIES: all clients seem to have the proxy's"
            " address, so one client that guesses passwords slows down all logins; set it to the address of"
            " the proxy, as 127.0.0.1\n"
        )
    out.write(f"listening on {address}\n")
    out.flush()


def _check_lookups(mode: str) -> None:
    """Let a process warn on standard error if lookups of Blender are not seen on this machine."""
    command = [sys.executable, "-m", "framefarm.node.lookup_check", mode]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=False)


def stop(
    data: DataOption,
    now: Annotated[bool, typer.Option("--now", help="Also end all sessions and their Blenders.")] = False,
) -> None:
    """Stop the farm that runs on a data directory.

    Renders continue unless --now is given. Example: framefarm stop --data /var/lib/framefarm/data
    """
    from framefarm.server.operator import control_socket

    pid = control_socket.running_pid(data)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_SECONDS + 4
        while control_socket.running_pid(data) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.05)
    if now:
        from framefarm.server import bootstrap
        from framefarm.server.settings import Settings

        with control_socket.serve_data(data):
            context = bootstrap.open_farm(Settings(data=data))
            try:
                bootstrap.local_engine(context).stop_all(grace_seconds=2)
            finally:
                context.db.close()
    sys.stdout.write("stopped\n" if pid is not None else "no farm was running\n")


def _setting_problem(error: Any) -> str:
    """A setting's name and problem, without its value, which may be a secret."""
    return f"FRAMEFARM_{'.'.join(map(str, error['loc'])).upper()}: {error['msg']}"


def _fail(sentence: str) -> NoReturn:
    sys.stderr.write(f"framefarm: {sentence}\n")
    raise typer.Exit(1)
