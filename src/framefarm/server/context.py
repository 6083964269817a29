"""What the features share at run time. `bootstrap.py` makes it; nothing else does."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from framefarm.server.database import Database
from framefarm.server.settings import Settings

if TYPE_CHECKING:
    from framefarm.server.storage.local import LocalStore


SECRET_BYTES = 32


class Keyring:
    """Keys for one purpose each, derived from a secret that lies 0600 in the data directory."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def open(cls, path: Path) -> Keyring:
        """Read the secret, or make it: whole or not at all. Raises ValueError for a damaged one."""
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            secret = secrets.token_bytes(SECRET_BYTES)
            _write_secret(path, secret)
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"{path} is damaged: it has {len(secret)} bytes, not {SECRET_BYTES}; restore it")
        return cls(secret)

    def key(self, purpose: str) -> bytes:
        return hmac.digest(self._secret, purpose.encode(), hashlib.sha256)

    def digest(self, purpose: str, text: str) -> str:
        """Keyed hash (hex) of a token, for storing and looking up."""
        return hmac.new(self.key(purpose), text.encode(), hashlib.sha256).hexdigest()


def _write_secret(path: Path, secret: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


class WakeHub:
    """Wakes those who wait in this process: a level, not a message. Called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wake(self, *topics: str) -> None:
        """Topics: `session:<id>`, `job:<id>` (its sessions), `dispatch`, `publish`, `scenes`, `billing`,
        `events`, `webhooks`, `mail`."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, topics)

    def wake_all(self) -> None:
        """Everyone who waits: the farm is draining."""
        self.wake(*self._waiting)

    def listen(self, *topics: str) -> Listener:
        return Listener(self, topics)

    def _set(self, topics: tuple[str, ...]) -> None:
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()


class Listener:
    """`async with hub.listen("job:x") as woken: …; await woken.wait(seconds)`"""

    def __init__(self, hub: WakeHub, topics: tuple[str, ...]) -> None:
        self._hub, self._topics, self._event = hub, topics, asyncio.Event()

    async def __aenter__(self) -> Listener:
        for topic in self._topics:
            self._hub._waiting.setdefault(topic, set()).add(self._event)
        return self

    async def __aexit__(self, *_: object) -> None:
        for topic in self._topics:
            waiting = self._hub._waiting[topic]
            waiting.discard(self._event)
            if not waiting:
                del self._hub._waiting[topic]

    async def wait(self, seconds: float) -> bool:
        """True when woken since the last wait, False when the time ran out."""
        try:
            # Not wait_for: until Python 3.12 it loses a cancellation that meets the wake-up.
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


@dataclass
class AppContext:
    settings: Settings
    data: Path
    db: Database
    keys: Keyring
    store: LocalStore
    hub: WakeHub = field(default_factory=WakeHub)
    base_url: Callable[[], str] = lambda: ""
    """The farm's own address, known once it listens."""
    draining: bool = False
    waiting: dict[str, str] = field(default_factory=dict)
    """Job → what it waits for, in words, by the dispatcher's last look."""
    in_flight: set[tuple[str, ...]] = field(default_factory=set)
    """Idempotency keys that this process works on now."""

    def __post_init__(self) -> None:
        self.db.wake = self.hub.wake
