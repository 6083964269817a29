"""Objects that the features share at run time; `bootstrap.open_farm` creates them."""

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
    """Keys, one for each purpose, derived from a secret in the data directory (mode 0600)."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def open(cls, path: Path) -> Keyring:
        """Read the secret, or create it atomically. Raises ValueError for a damaged one."""
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            secret = secrets.token_bytes(SECRET_BYTES)
            _write_secret(path, secret)
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"{path} is damaged: it has {len(secret)} bytes, not {SECRET_BYTES}; restore it")
        return cls(secret)

    def key(self, purpose: str) -> bytes:
        """The purpose's key, 32 bytes."""
        return hmac.digest(self._secret, purpose.encode(), hashlib.sha256)

    def digest(self, purpose: str, text: str) -> str:
        """Keyed hash of a text, in hex: stored and compared instead of the text."""
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
    """Wakes listeners of this process by topic. Wake-ups carry no data, and several may merge into one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the event loop in which the listeners wait."""
        self._loop = loop

    def wake(self, *topics: str) -> None:
        """Wake all listeners of these topics, from any thread.

        Topics: `session:<id>`, `job:<id>` (its sessions), `dispatch`, `publish`, `scenes`, `billing`,
        `events`, `webhooks`, `mail`.
        """
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, topics)

    def wake_all(self) -> None:
        """Wake all listeners, when the farm begins to drain."""
        self.wake(*self._waiting)

    def listen(self, *topics: str) -> Listener:
        """A listener of these topics; it counts wake-ups from `async with` on."""
        return Listener(self, topics)

    def _set(self, topics: tuple[str, ...]) -> None:
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()


class Listener:
    """A wait for topics: `async with hub.listen("job:x") as woken: …; await woken.wait(seconds)`."""

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
        """Wait for a wake-up since the last wait. False: none came within `seconds`."""
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
    """Settings, database, store, keys and wake-ups of one farm in this process."""

    settings: Settings
    data: Path
    db: Database
    keys: Keyring
    store: LocalStore
    hub: WakeHub = field(default_factory=WakeHub)
    base_url: Callable[[], str] = lambda: ""
    """Returns the farm's own address; empty until it listens."""
    draining: bool = False
    """Whether the farm is stopping and refuses changes."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Sentence about what a job waits for, by job id, as of the dispatcher's last tick."""
    in_flight: set[tuple[str, ...]] = field(default_factory=set)
    """Idempotency keys of requests that this process has in work (account, user, method, path, key)."""

    def __post_init__(self) -> None:
        self.db.wake = self.hub.wake
