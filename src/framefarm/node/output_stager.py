"""The thread that moves saved frames into staging, checks them, and passes their events on in order."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from framefarm.node.frame_validation import check_frame, pictures_to_check
from framefarm.node.image_decoder import ImageDecoder, Picture, Undecodable
from framefarm.node.output_files import OutputRejected, collect, not_stored, sync_directory
from framefarm.node.server_threads import Put, thumbnail_path
from framefarm.protocol import node as msg
from framefarm.sandboxing.bubblewrap import Mode

ITEMS_PER_BATCH = 32
THUMBNAIL_POLL_SECONDS = 0.25
"""Finished thumbnails are reported with the next batch, or after this time without one."""
LAST_THUMBNAILS_SECONDS = 5.0
"""How long the end of a session waits for its last thumbnails."""


@dataclass(frozen=True)
class FramesStaged:
    """`count` frames are durable in staging, or refused; `bytes` is the size of the reported ones' files."""

    count: int
    bytes: int = 0


@dataclass(frozen=True)
class FrameRefused:
    """A frame's output was refused, which fails its attempt."""

    attempt: str
    frame: int
    cause: str
    message: str


@dataclass(frozen=True)
class SavedFrame:
    """A frame that Blender saved in `directory`, to be staged.

    `width` and `height` are the size in pixels that the scene asks for, 0 if not known.
    """

    attempt: str
    frame: int
    directory: Path
    at_ms: int
    seconds: float
    peak_memory_bytes: int
    warnings: tuple[msg.NodeWarning, ...]
    width: int = 0
    height: int = 0
    has_picture: bool = True
    """False: its scene writes no picture of its own, only File Output nodes' files."""


@dataclass
class _StagedFrame:
    """A frame whose files are in staging. `decodings`: the decoder's request for each picture, by its staged
    name."""

    frame: SavedFrame
    files: list[msg.StagedFile]
    decodings: dict[str, str | Undecodable]


_Item = SavedFrame | msg.Event


@dataclass(frozen=True)
class StagingFolders:
    """A session's folders for staged files, for thumbnails (None: no thumbnails), and for the decoder alone.

    `stem` is the start of every picture's name, `pattern` the job's own `output_name` in its place.
    """

    staging: Path
    thumbnails: Path | None
    decoder: Path
    stem: str
    pattern: str = ""


class OutputStager(threading.Thread):
    """Stages and checks saved frames while Blender renders the next one, and passes events on in order.

    A frame is reported only after its pictures were decoded and measured. Thumbnails come later. `put` gets
    FramesStaged and FrameRefused; `send` gets the events for the farm.
    """

    def __init__(
        self, put: Put, send: Callable[[msg.Event], None], folders: StagingFolders, mode: Mode
    ) -> None:
        super().__init__(name="stager", daemon=True)
        self._put, self._send, self._folders = put, send, folders
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._failed_attempts: set[str] = set()
        self._awaiting_thumbnail: set[tuple[str, int]] = set()
        """(attempt, frame) of reported frames."""
        self._drawn: deque[tuple[tuple[str, int], bytes]] = deque()
        """Thumbnails that are not written yet."""
        self._hurry = False
        self._reported_bytes = 0
        self._decoder = ImageDecoder(folders.decoder, self._on_thumbnail, mode=mode)

    def add(self, item: SavedFrame | msg.Event) -> None:
        """Queue a frame to be staged, or an event to be sent after all that was added before."""
        self._queue.put(item)

    def finish(self, *, hurry: bool) -> None:
        """Process the remaining items and wait for the end; with `hurry`, drop unfinished thumbnails."""
        self._hurry = hurry
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        self._decoder.start_early()  # while Blender starts
        is_last = False
        while not is_last:
            items, is_last = self._gather()
            self._process(items)
        self._decoder.finish(0 if self._hurry else LAST_THUMBNAILS_SECONDS)
        self._report_thumbnails()

    def _gather(self) -> tuple[list[_Item], bool]:
        """(queued items, whether they are the last). No items: thumbnails may be finished."""
        items: list[_Item] = []
        try:
            item = self._queue.get(timeout=THUMBNAIL_POLL_SECONDS if self._awaiting_thumbnail else None)
        except queue.Empty:
            return [], False
        while item is not None:
            items.append(item)
            if len(items) == ITEMS_PER_BATCH:
                return items, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return items, False
        return items, True

    def _process(self, items: list[_Item]) -> None:
        """Stage the batch's frames, sync each folder once, check the frames, then send all in order."""
        results = [self._stage(item) if isinstance(item, SavedFrame) else item for item in items]
        folders = {self._folders.staging / r.frame.attempt for r in results if isinstance(r, _StagedFrame)}
        sync_error = self._sync(folders) if folders else None
        for result in results:
            match result:
                case _StagedFrame(frame) if sync_error is not None:
                    self._refuse(
                        FrameRefused(frame.attempt, frame.frame, sync_error.cause, sync_error.detail)
                    )
                case _StagedFrame():
                    self._check_and_report(result)
                case FrameRefused():
                    self._refuse(result)
                case msg.TaskEnded() if result.attempt in self._failed_attempts:
                    pass
                case None:
                    pass
                case _:
                    self._send(result)
        self._report_thumbnails()
        if count := sum(isinstance(item, SavedFrame) for item in items):
            reported_bytes, self._reported_bytes = self._reported_bytes, 0
            self._put(FramesStaged(count, reported_bytes))

    def _sync(self, folders: set[Path]) -> OutputRejected | None:
        """Make the staged files durable. Returns the error, if any."""
        try:
            for folder in (*folders, self._folders.staging):
                sync_directory(folder)
        except OutputRejected as error:
            return error
        except OSError as error:
            return not_stored(error, "a frame's folder")
        return None

    def _stage(self, frame: SavedFrame) -> _StagedFrame | FrameRefused | None:
        """Copy the frame's files and ask for their decoding. None: its attempt has failed before."""
        if frame.attempt in self._failed_attempts:
            return None
        folder = self._folders.staging / frame.attempt
        try:
            files = collect(
                frame.directory, folder, self._folders.stem, frame.frame,
                pattern=self._folders.pattern, has_picture=frame.has_picture,
            )  # fmt: skip
        except OutputRejected as error:
            return FrameRefused(frame.attempt, frame.frame, error.cause, error.detail)
        decodings = {
            file.staged: self._request_decoding(frame, file, draw=file is files[0])
            for file in pictures_to_check(files)
        }
        return _StagedFrame(frame, files, decodings)

    def _request_decoding(self, frame: SavedFrame, file: msg.StagedFile, *, draw: bool) -> str | Undecodable:
        try:
            return self._decoder.request(
                (frame.attempt, frame.frame),
                self._folders.staging / frame.attempt / file.staged,
                ending=os.path.splitext(file.path)[1].lower(),
                thumbnail=draw and self._folders.thumbnails is not None,
            )
        except OSError as error:
            return Undecodable("decoder_died", f"It could not be opened: {error.strerror}.")

    def _decoded(self, decoding: str | Undecodable) -> Picture | Undecodable:
        return self._decoder.result(decoding) if isinstance(decoding, str) else decoding

    def _check_and_report(self, staged: _StagedFrame) -> None:
        frame = staged.frame
        pictures = {name: self._decoded(decoding) for name, decoding in staged.decodings.items()}
        check = check_frame(staged.files, frame.width, frame.height, lambda f: pictures[f.staged])
        if frame.attempt in self._failed_attempts or check.cause is not None:
            for file in staged.files:
                (self._folders.staging / frame.attempt / file.staged).unlink(missing_ok=True)
        if check.cause is not None:
            self._refuse(FrameRefused(frame.attempt, frame.frame, check.cause, check.message or ""))
        if frame.attempt in self._failed_attempts:
            return
        first = pictures.get(staged.files[0].staged)
        if self._folders.thumbnails is not None and isinstance(first, Picture):
            self._awaiting_thumbnail.add((frame.attempt, frame.frame))
        self._reported_bytes += sum(file.size for file in staged.files)
        self._send(
            msg.FrameSaved(
                attempt=frame.attempt,
                frame=frame.frame,
                at_ms=frame.at_ms,
                seconds=frame.seconds,
                files=staged.files,
                peak_memory_bytes=frame.peak_memory_bytes,
                warnings=[*frame.warnings, *check.warnings],
                look=check.colour,
            )
        )

    def _refuse(self, refused: FrameRefused) -> None:
        if refused.attempt not in self._failed_attempts:
            self._failed_attempts.add(refused.attempt)
            self._put(refused)

    def _on_thumbnail(self, key: object, webp: bytes) -> None:
        """Called in the decoder's thread."""
        self._drawn.append((cast("tuple[str, int]", key), webp))

    def _report_thumbnails(self) -> None:
        """Write and report the finished thumbnails; call it when every decoded frame is reported or refused.

        They are not synced: a thumbnail may be lost with its node.
        """
        folder = self._folders.thumbnails
        while folder is not None and self._drawn:
            (attempt, frame), webp = self._drawn.popleft()
            if (attempt, frame) not in self._awaiting_thumbnail:
                continue
            self._awaiting_thumbnail.remove((attempt, frame))
            path = thumbnail_path(folder, attempt, frame)
            try:
                path.write_bytes(webp)
            except OSError:  # the disk is full, or the job is deleted
                path.unlink(missing_ok=True)
                continue
            self._send(msg.FrameDrawn(attempt=attempt, frame=frame, bytes=len(webp)))
