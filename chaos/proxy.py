"""A TCP proxy between the runners and the farm, whose connections can be cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Literal

Cut = Literal["refused", "unanswered", "silent"]
"""`refused`: connections break, new ones are closed. `unanswered`: requests arrive, responses are lost.
`silent`: data in both directions is lost and connections stay open, as with a pulled cable."""
CUTS: tuple[Cut, ...] = ("refused", "unanswered", "silent")


class Proxy:
    """Forwards connections to `target`, which may change. `cut` and `mend` may be called from any thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.target: tuple[str, int] | None = None
        self.cut_as: Cut | None = None
        self.broken = 0
        """Number of connections broken by cuts."""
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self, how: Cut) -> None:
        """Cut the network until `mend`."""
        self.cut_as = how
        if how == "refused":
            self._break_all()

    def mend(self) -> None:
        """End a cut. Data that it held back is lost, since the connections break."""
        if self.cut_as is not None:
            self.cut_as = None
            self._break_all()

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break_all()

    def _break_all(self) -> None:
        with self._lock:
            for connection in self._open:
                self.broken += 1
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Forward one connection until it ends."""
        with client, contextlib.suppress(OSError):
            if self.cut_as == "refused" or self.target is None:
                return
            with socket.create_connection(self.target, timeout=5) as farm:
                farm.settimeout(None)
                with self._lock:
                    self._open |= {client, farm}
                try:
                    self._pump(client, farm)
                finally:
                    with self._lock:
                        self._open -= {client, farm}

    def _pump(self, client: socket.socket, farm: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, farm)
            ready.register(farm, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return
                    held = self.cut_as == "silent" or (self.cut_as == "unanswered" and key.fileobj is farm)
                    if self.cut_as == "refused":
                        return
                    if not held:
                        key.data.sendall(data)
