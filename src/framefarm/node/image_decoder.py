"""The image decoder: decodes pictures in the second sandbox, since their bytes are hostile.

One decoder process serves a session, since its start costs more than most pictures do. The content of a file
never raises: a decoder process that dies is a result, and a new one replaces it.
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

ENDINGS = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".tif",
        ".tiff",
        ".exr",
        ".bmp",
        ".cin",
        ".dpx",
        ".hdr",
        ".jp2",
        ".rgb",
        ".tga",
    }
)
MAX_PIXELS = 1 << 28
MAX_CHANNELS = 1024
MAX_PARTS = 256
MAX_SAMPLES = 1 << 33
"""Pixels times channels, of all parts together."""
MEMORY_BYTES = 4 << 30
THUMBNAIL_PIXELS = 480
THUMBNAIL_BYTES = 1 << 20
SECONDS = 120.0
"""Time limit for one picture."""
PICTURES_PER_PROCESS = 5000
"""Pictures that one decoder process decodes before it is replaced, which bounds memory leaks of a library."""
CPU_SECONDS = 7200
MAX_ATTEMPTS = 2
"""A picture that a process died of is tried once more: the process may have ended for another reason."""
MAX_DEATHS = 6
"""After so many deaths in a row, without a decoded picture between, no process is started any more."""
DIED = "The program that decodes pictures died of it."


class Picture(msgspec.Struct, frozen=True):
    """A picture that was decoded whole.

    `format` is OpenImageIO's name (`png`, `jpeg`, `webp`, `tiff`, `openexr`, …), `kind` its sample type
    (`uint8`, `uint16`, `half`, `float`, …). `all_nan`, `some_nan` and `colour` describe the red, green and
    blue channels of the first part; in a multilayer EXR, those of its first combined pass.
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
    """The one colour of all pixels (black is 0); None if there are several."""


@dataclass(frozen=True)
class Undecodable:
    """Why a picture was not decoded: a code, and one sentence.

    `cause`: `not_a_picture`, `picture_damaged`, `picture_too_large` or `decoder_died`.
    """

    cause: str
    message: str


class _Reply(msgspec.Struct):
    """A line from the process: a picture, a cause with its message, or a thumbnail (base64)."""

    name: str
    cause: str = ""
    message: str = ""
    picture: Picture | None = None
    thumbnail: str | None = None


@dataclass
class _Request:
    """A picture in the decoder's folder, kept until its result was fetched and its thumbnail is done."""

    key: object
    draw: bool
    """Its thumbnail is wanted and not done."""
    attempts: int = 0
    result: Picture | Undecodable | None = None
    fetched: bool = False

    @property
    def open(self) -> bool:
        return self.result is None or (self.draw and isinstance(self.result, Picture))


OnThumbnail = Callable[[object, bytes], None]


class ImageDecoder:
    """Decodes pictures in the order of the requests. Creates `folder`, which is for the decoder alone.

    All methods must be called from one thread, which must live as long as the decoder. For each finished
    thumbnail, `on_thumbnail(key, webp)` is called from another thread: WebP, at most 480 pixels wide and
    high, high dynamic range tone-mapped. `seconds` is the time limit for one picture.
    """

    def __init__(
        self, folder: Path, on_thumbnail: OnThumbnail, *, mode: Mode = "bubblewrap", seconds: float = SECONDS
    ) -> None:
        folder.mkdir(mode=0o755, exist_ok=True)
        self._folder, self._on_thumbnail, self._mode, self._seconds = folder, on_thumbnail, mode, seconds
        self._worker: SandboxedWorker | None = None
        self._reader: threading.Thread | None = None
        self._requests: dict[str, _Request] = {}
        self._lock = threading.Lock()
        self._signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """None: a reply came. A number: the process of that number has ended."""
        self._process_number = 0
        self._pictures = self._pictures_of_process = 0
        self._deaths = 0
        self._last_death = ""

    @property
    def pid(self) -> int | None:
        """The decoder's outermost process; None while there is none."""
        return None if self._worker is None else self._worker.pid

    def start_early(self) -> None:
        """Start the process before the first picture, if it is not running."""
        if self._worker is None and self._deaths < MAX_DEATHS:
            self._start()

    def request(self, key: object, path: Path, *, ending: str = "", thumbnail: bool = False) -> str:
        """Request the decoding of `path`, a file of the runner's own. Returns the name for `result`.

        `ending` is the ending of the file's name, as `.png`: it only saves time. Raises OSError.
        """
        self._replace_process_if_needed()
        name = str(self._pictures) + (ending if ending in ENDINGS else "")
        self._pictures += 1
        self._pictures_of_process += 1
        _link(path, self._folder / name)
        self.start_early()
        with self._lock:
            self._requests[name] = _Request(key, thumbnail)
        self._send(name)
        return name

    def result(self, name: str) -> Picture | Undecodable:
        """Wait for the result of the request `name`. May be called once per request."""
        request = self._requests[name]
        deadline = time.monotonic() + self._seconds
        while request.result is None:
            if self._worker is None:
                request.result = Undecodable("decoder_died", self._last_death)
                break
            try:
                ended = self._signals.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                request.attempts = MAX_ATTEMPTS
                self._on_death(
                    f"The picture was not decoded within {self._seconds:.0f} s.", culprit_known=True
                )
                continue
            if ended == self._process_number:
                self._on_death(DIED)
        request.fetched = True
        self._remove_if_complete(name)
        return request.result

    def finish(self, seconds: float) -> None:
        """Wait for unfinished thumbnails, at most `seconds`; then end the process and remove the folder."""
        deadline = time.monotonic() + seconds
        while self._open_requests() and time.monotonic() < deadline:
            self.start_early()
            if self._worker is None:
                break
            with contextlib.suppress(queue.Empty):
                ended = self._signals.get(timeout=max(0.0, deadline - time.monotonic()))
                if ended == self._process_number:
                    self._on_death(DIED)
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---------------------------------------------------------------------------- the process

    def _start(self) -> None:
        self._process_number += 1
        self._pictures_of_process = 0
        mode = self._mode
        if mode == "bubblewrap" and module_call.unready() is not None:
            mode = "none"  # a limited child process, as for the scene reader
        order = {
            "in_tmp": mode == "bubblewrap",
            "max_pixels": MAX_PIXELS,
            "max_channels": MAX_CHANNELS,
            "max_parts": MAX_PARTS,
            "max_samples": MAX_SAMPLES,
        }
        try:
            worker = SandboxedWorker(
                "framefarm.node.image_decoder_process",
                order,
                self._folder,
                cpu_seconds=CPU_SECONDS,
                memory_bytes=MEMORY_BYTES,
                file_bytes=THUMBNAIL_BYTES,
                mode=mode,
            )
        except SandboxUnavailable as error:
            self._deaths, self._last_death = MAX_DEATHS, error.detail
            return
        self._worker = worker
        self._reader = threading.Thread(
            target=self._read_replies, args=(worker, self._process_number), name="decoder", daemon=True
        )
        self._reader.start()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            assert self._reader is not None
            self._reader.join()
            worker.close()

    def _replace_process_if_needed(self) -> None:
        """Replace a process that ended between two requests, or that has decoded many pictures."""
        with contextlib.suppress(queue.Empty):
            while True:
                if self._signals.get_nowait() == self._process_number and self._worker is not None:
                    self._on_death(DIED)
        if self._pictures_of_process >= PICTURES_PER_PROCESS and not self._open_requests():
            self._end()

    def _open_requests(self) -> list[tuple[str, _Request]]:
        with self._lock:
            return [(name, request) for name, request in self._requests.items() if request.open]

    def _on_death(self, why: str, culprit_known: bool = False) -> None:
        """Replace the process and repeat its open requests, except those that two processes died of.

        The death counts against the first request without a result, or else without its thumbnail; with
        `culprit_known` the caller has counted it already.
        """
        self._end()
        self._deaths += 1
        remaining = self._open_requests()
        culprit = next((r for _, r in remaining if r.result is None), remaining[0][1] if remaining else None)
        if culprit is not None and not culprit_known:
            culprit.attempts += 1
        for name, request in remaining:
            gives_up = self._deaths >= MAX_DEATHS and request.result is None
            if request.attempts >= MAX_ATTEMPTS or gives_up:
                request.result = request.result or Undecodable("decoder_died", why)
                request.draw = False
                self._remove_if_complete(name)
        self._last_death = why
        if self._deaths < MAX_DEATHS:
            self._start()
        for name, _ in self._open_requests():
            self._send(name)

    def _send(self, name: str) -> None:
        request = self._requests.get(name)
        if self._worker is not None and request is not None:
            pixels = THUMBNAIL_PIXELS if request.draw else 0
            self._worker.ask(msgspec.json.encode({"name": name, "thumbnail": pixels}))

    def _remove_if_complete(self, name: str) -> None:
        """Remove the link of a request that has all its results, and the request once they are fetched."""
        with self._lock:
            request = self._requests.get(name)
            if request is None or request.open:
                return
            if request.fetched:
                del self._requests[name]
        (self._folder / name).unlink(missing_ok=True)

    # ---------------------------------------------------------- its replies, in the reader thread

    def _read_replies(self, worker: SandboxedWorker, process_number: int) -> None:
        try:
            for line in worker.answers(2 * THUMBNAIL_BYTES):
                self._on_reply(msgspec.json.decode(line, type=_Reply))
                self._signals.put(None)
        except (msgspec.DecodeError, ValueError, OSError):
            pass  # not from image_decoder_process: treated as the process's end
        self._signals.put(process_number)

    def _on_reply(self, reply: _Reply) -> None:
        with self._lock:
            request = self._requests.get(reply.name)
        if request is None:
            return
        if reply.thumbnail is None:
            self._deaths = 0
            if request.result is None:
                undecodable = Undecodable(reply.cause[:64] or "decoder_died", reply.message[:500])
                request.result = reply.picture or undecodable
            return
        webp = base64.b64decode(reply.thumbnail, validate=True)
        wanted, request.draw = request.draw, False
        self._remove_if_complete(reply.name)
        if wanted and webp[:4] == b"RIFF" and webp[8:12] == b"WEBP" and len(webp) <= THUMBNAIL_BYTES:
            self._on_thumbnail(request.key, webp)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a disk without links
        shutil.copyfile(source, target)
        target.chmod(0o644)
