"""Is this a picture, and what is on it? Decoded in the second sandbox: the bytes are hostile.

One decoder stays for a session, since starting it costs more than most pictures do. What is in a file never
raises: a decoder that dies is a result, and another one takes its place.
"""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from framefarm.sandboxing import module_call
from framefarm.sandboxing.bubblewrap import Mode
from framefarm.sandboxing.errors import SandboxUnavailable
from framefarm.sandboxing.module_worker import SandboxedWorker

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".exr"})
MAX_PIXELS = 1 << 28
MAX_CHANNELS = 1024
MAX_PARTS = 256
MAX_SAMPLES = 1 << 33
"""Pixels times channels, all parts together."""
MEMORY_BYTES = 4 << 30
THUMBNAIL_PIXELS = 480
THUMBNAIL_BYTES = 1 << 20
SECONDS = 120.0
"""For one picture."""
PICTURES_EACH = 5000
"""Then a new decoder takes over: what a library leaks stays small."""
CPU_SECONDS = 7200
TRIES = 2
"""A picture that a decoder died of gets one more: it may have been ended for another reason."""
DEATHS = 6
"""So many one after the other, and no picture between: this machine can't decode."""
DIED = "The program that decodes pictures died of it."


class Picture(msgspec.Struct, frozen=True):
    """A picture that was decoded whole. What is said of its values is said of the colours (red, green, blue)
    of its first part; of a multilayer EXR, of the first combined pass.

    `format` is OpenImageIO's name (`png`, `jpeg`, `webp`, `tiff`, `openexr`, …), `kind` that of its samples
    (`uint8`, `uint16`, `half`, `float`, …).
    """

    format: str
    width: int
    height: int
    channels: int
    parts: int
    kind: str
    all_nan: bool
    some_nan: bool
    colour: tuple[float, ...] | None
    """The one that every pixel has, black is 0; None if there are several."""


@dataclass(frozen=True)
class Undecodable:
    """`cause`: `not_a_picture`, `picture_damaged`, `picture_too_large` or `decoder_died`; one sentence."""

    cause: str
    message: str


class _Answer(msgspec.Struct):
    name: str
    cause: str = ""
    message: str = ""
    picture: Picture | None = None
    thumbnail: str | None = None


@dataclass
class _Asked:
    """A picture in the decoder's folder, until its answer was taken and nothing more is to come."""

    key: object
    draw: bool
    """Its thumbnail is still to come."""
    tries: int = 0
    seen: Picture | Undecodable | None = None
    taken: bool = False

    @property
    def open(self) -> bool:
        return self.seen is None or (self.draw and isinstance(self.seen, Picture))


Drawn = Callable[[object, bytes], None]


class Decoder:
    """Looks at pictures, in the order in which they are asked for; `folder` is its own, made here.

    All methods are for one thread, which must live as long as the decoder. `drawn(key, webp)` is called from
    another thread when a thumbnail is done: WebP, at most 480 pixels wide and high; high dynamic range is
    tone-mapped. The process starts with the first picture, or with `warm`.
    """

    def __init__(
        self, folder: Path, drawn: Drawn, *, mode: Mode = "bubblewrap", seconds: float = SECONDS
    ) -> None:
        folder.mkdir(mode=0o755, exist_ok=True)
        self._folder, self._drawn, self._wanted, self._seconds = folder, drawn, mode, seconds
        self._servant: SandboxedWorker | None = None
        self._reader: threading.Thread | None = None
        self._asked: dict[str, _Asked] = {}
        self._lock = threading.Lock()
        self._heard: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """None: an answer came. A number: the servant of that number has ended."""
        self._number = 0
        self._count = self._young = 0
        self._deaths = 0
        self._why = ""

    @property
    def pid(self) -> int | None:
        """Of the decoder's outermost process, while there is one."""
        return None if self._servant is None else self._servant.pid

    def warm(self) -> None:
        """Start the process now, if it is not there: a picture is to come."""
        if self._servant is None and self._deaths < DEATHS:
            self._start()

    def ask(self, key: object, path: Path, *, ending: str = "", thumbnail: bool = False) -> str:
        """Look at `path`, a file of the runner's own. The answer goes to `answer`. Raises OSError.

        Args:
            ending: what the file's name says it is, as `.png`; it only saves time.
        """
        self._take_over()
        name = str(self._count) + (ending if ending in ENDINGS else "")
        self._count += 1
        self._young += 1
        _link(path, self._folder / name)
        self.warm()
        with self._lock:
            self._asked[name] = _Asked(key, thumbnail)
        self._pass_on(name)
        return name

    def answer(self, name: str) -> Picture | Undecodable:
        """What is on the picture that `ask` called `name`; blocks. To be called once."""
        asked = self._asked[name]
        deadline = time.monotonic() + self._seconds
        while asked.seen is None:
            if self._servant is None:
                asked.seen = Undecodable("decoder_died", self._why)
                break
            try:
                ended = self._heard.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                asked.tries = TRIES
                self._died(f"The picture was not decoded within {self._seconds:.0f} s.", named=True)
                continue
            if ended == self._number:
                self._died(DIED)
        asked.taken = True
        self._forget(name)
        return asked.seen

    def finish(self, seconds: float) -> None:
        """Wait for the thumbnails that are not done, at most so long; then end the process."""
        deadline = time.monotonic() + seconds
        while self._open() and time.monotonic() < deadline:
            self.warm()
            if self._servant is None:
                break
            with contextlib.suppress(queue.Empty):
                ended = self._heard.get(timeout=max(0.0, deadline - time.monotonic()))
                if ended == self._number:
                    self._died(DIED)
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- the process

    def _start(self) -> None:
        self._number += 1
        self._young = 0
        mode = self._wanted
        if mode == "bubblewrap" and module_call.unready() is not None:
            mode = "none"  # as the scene reader: a limited child only
        order = {
            "in_tmp": mode == "bubblewrap",
            "max_pixels": MAX_PIXELS,
            "max_channels": MAX_CHANNELS,
            "max_parts": MAX_PARTS,
            "max_samples": MAX_SAMPLES,
        }
        try:
            servant = SandboxedWorker(
                "framefarm.node.image_decoder_process",
                order,
                self._folder,
                cpu_seconds=CPU_SECONDS,
                memory_bytes=MEMORY_BYTES,
                file_bytes=THUMBNAIL_BYTES,
                mode=mode,
            )
        except SandboxUnavailable as error:
            self._deaths, self._why = DEATHS, error.detail
            return
        self._servant = servant
        self._reader = threading.Thread(
            target=self._listen, args=(servant, self._number), name="decoder", daemon=True
        )
        self._reader.start()

    def _end(self) -> None:
        servant, self._servant = self._servant, None
        if servant is not None:
            servant.kill()
            assert self._reader is not None
            self._reader.join()
            servant.close()

    def _take_over(self) -> None:
        """A new decoder for one that has ended while nobody waited for it, or that is old."""
        with contextlib.suppress(queue.Empty):
            while True:
                if self._heard.get_nowait() == self._number and self._servant is not None:
                    self._died(DIED)
        if self._young >= PICTURES_EACH and not self._open():
            self._end()

    def _open(self) -> list[tuple[str, _Asked]]:
        with self._lock:
            return [(name, asked) for name, asked in self._asked.items() if asked.open]

    def _died(self, why: str, named: bool = False) -> None:
        """Replace the decoder. What was asked is asked again, but for what two decoders have died of: the
        first that is not answered, or else drawn; with `named` that is known already."""
        self._end()
        self._deaths += 1
        left = self._open()
        first = next((a for _, a in left if a.seen is None), left[0][1] if left else None)
        if first is not None and not named:
            first.tries += 1
        for name, asked in left:
            if asked.tries >= TRIES or (self._deaths >= DEATHS and asked.seen is None):
                asked.seen = asked.seen or Undecodable("decoder_died", why)
                asked.draw = False
                self._forget(name)
        self._why = why
        if self._deaths < DEATHS:
            self._start()
        for name, _ in self._open():
            self._pass_on(name)

    def _pass_on(self, name: str) -> None:
        asked = self._asked.get(name)
        if self._servant is not None and asked is not None:
            pixels = THUMBNAIL_PIXELS if asked.draw else 0
            self._servant.ask(msgspec.json.encode({"name": name, "thumbnail": pixels}))

    def _forget(self, name: str) -> None:
        """If nothing more is to come."""
        with self._lock:
            asked = self._asked.get(name)
            if asked is None or asked.open:
                return
            if asked.taken:
                del self._asked[name]
        (self._folder / name).unlink(missing_ok=True)

    # -- its answers, in a thread of their own

    def _listen(self, servant: SandboxedWorker, number: int) -> None:
        try:
            for line in servant.answers(2 * THUMBNAIL_BYTES):
                self._hear(msgspec.json.decode(line, type=_Answer))
                self._heard.put(None)
        except (msgspec.DecodeError, ValueError, OSError):
            pass  # nothing that our own program says
        self._heard.put(number)

    def _hear(self, said: _Answer) -> None:
        with self._lock:
            asked = self._asked.get(said.name)
        if asked is None:
            return
        if said.thumbnail is None:
            self._deaths = 0
            if asked.seen is None:
                undecodable = Undecodable(said.cause[:64] or "decoder_died", said.message[:500])
                asked.seen = said.picture or undecodable
            return
        webp = base64.b64decode(said.thumbnail, validate=True)
        wanted, asked.draw = asked.draw, False
        self._forget(said.name)
        if wanted and webp[:4] == b"RIFF" and webp[8:12] == b"WEBP" and len(webp) <= THUMBNAIL_BYTES:
            self._drawn(asked.key, webp)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
        target.chmod(0o644)
