"""The thread that takes saved frames over: into staging, checked, and told in order."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from framefarm.node.frame_validation import check_frame, to_look_at
from framefarm.node.image_decoder import Decoder, Picture, Undecodable
from framefarm.node.output_files import OutputRejected, collect, not_stored, sync_directory
from framefarm.node.server_threads import Put, thumbnail
from framefarm.protocol import node as msg
from framefarm.sandboxing.bubblewrap import Mode

ITEMS_AT_ONCE = 32
DRAWN_PAUSE_SECONDS = 0.25
"""Thumbnails are told along with what comes next; if nothing does, after so long."""
THUMBNAILS_SECONDS = 5.0
"""How long the end of a session waits for its last thumbnails."""


@dataclass(frozen=True)
class Staged:
    """Frames that are durable in staging, or refused; and the bytes of those that the farm is told of."""

    count: int
    bytes: int = 0


@dataclass(frozen=True)
class Refused:
    """A frame's output could not be taken."""

    attempt: str
    frame: int
    cause: str
    message: str


@dataclass(frozen=True)
class Frame:
    """A saved frame on its way to staging. `width` and `height` are what was asked for, 0 if not known."""

    attempt: str
    frame: int
    directory: Path
    at_ms: int
    seconds: float
    peak_memory_bytes: int
    notes: tuple[msg.NodeWarning, ...]
    width: int = 0
    height: int = 0


@dataclass
class _Taken:
    """A frame whose files are in staging; `asked`: each picture of it by its name in staging."""

    frame: Frame
    files: list[msg.StagedFile]
    asked: dict[str, str | Undecodable]


_Item = Frame | msg.Event


@dataclass(frozen=True)
class StagingFolders:
    """The session's folders: for its files, for its thumbnails (None: none are wanted), and for the decoder
    alone. `stem` starts every picture's name."""

    staging: Path
    thumbnails: Path | None
    decoder: Path
    stem: str


class OutputStager(threading.Thread):
    """Takes saved frames into staging, looks at each, and passes on events, in order.

    Blender renders the next frame meanwhile. What must be known before a frame counts is: that its pictures
    can be decoded, and have their size. Thumbnails come later and hold up nothing.
    """

    def __init__(
        self, put: Put, send: Callable[[msg.Event], None], places: StagingFolders, mode: Mode
    ) -> None:
        super().__init__(name="collector", daemon=True)
        self._put, self._send, self._places, self._mode = put, send, places, mode
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._broken: set[str] = set()
        self._told: set[tuple[str, int]] = set()
        """Frames whose thumbnails are still to come."""
        self._drawings: deque[tuple[tuple[str, int], bytes]] = deque()
        self._hurry = False
        self._told_bytes = 0
        self._decoder = Decoder(places.decoder, self._drawn, mode=mode)

    def add(self, item: Frame | msg.Event) -> None:
        self._queue.put(item)

    def finish(self, *, hurry: bool) -> None:
        """Take what is left; with `hurry`, thumbnails that are not done are given up."""
        self._hurry = hurry
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        self._decoder.warm()  # while Blender starts: the first frame need not wait for it
        last = False
        while not last:
            items, last = self._gather()
            self._take(items)
        self._decoder.finish(0 if self._hurry else THUMBNAILS_SECONDS)
        self._keep_drawings()

    def _gather(self) -> tuple[list[_Item], bool]:
        """What is there, nothing only if there may be thumbnails; and whether that was the last."""
        items: list[_Item] = []
        try:
            item = self._queue.get(timeout=DRAWN_PAUSE_SECONDS if self._told else None)
        except queue.Empty:
            return [], False
        while item is not None:
            items.append(item)
            if len(items) == ITEMS_AT_ONCE:
                return items, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return items, False
        return items, True

    def _take(self, items: list[_Item]) -> None:
        """Stage the frames, sync each folder once, look at them, then tell of all of them in order."""
        taken = [self._stage(item) if isinstance(item, Frame) else item for item in items]
        folders = {self._places.staging / t.frame.attempt for t in taken if isinstance(t, _Taken)}
        why = self._sync(folders) if folders else None
        for item in taken:
            match item:
                case _Taken() if why is not None:
                    self._refuse(Refused(item.frame.attempt, item.frame.frame, why.cause, why.detail))
                case _Taken():
                    self._tell(item)
                case Refused():
                    self._refuse(item)
                case msg.TaskEnded() if item.attempt in self._broken:
                    pass
                case None:
                    pass
                case _:
                    self._send(item)
        self._keep_drawings()
        if count := sum(isinstance(item, Frame) for item in items):
            told, self._told_bytes = self._told_bytes, 0
            self._put(Staged(count, told))

    def _sync(self, folders: set[Path]) -> OutputRejected | None:
        """Make what was staged durable; why it is not."""
        try:
            for folder in (*folders, self._places.staging):
                sync_directory(folder)
        except OutputRejected as error:
            return error
        except OSError as error:
            return not_stored(error, "a frame's folder")
        return None

    def _stage(self, frame: Frame) -> _Taken | Refused | None:
        """None: its attempt has ended. The decoder looks at the pictures while the disk is busy."""
        if frame.attempt in self._broken:
            return None
        folder = self._places.staging / frame.attempt
        try:
            files = collect(frame.directory, folder, self._places.stem, frame.frame)
        except OutputRejected as error:
            return Refused(frame.attempt, frame.frame, error.cause, error.detail)
        taken = _Taken(frame, files, {})
        for file in to_look_at(files):
            taken.asked[file.staged] = self._ask(frame, file, draw=file is files[0])
        return taken

    def _ask(self, frame: Frame, file: msg.StagedFile, *, draw: bool) -> str | Undecodable:
        try:
            return self._decoder.ask(
                (frame.attempt, frame.frame),
                self._places.staging / frame.attempt / file.staged,
                ending=os.path.splitext(file.path)[1].lower(),
                thumbnail=draw and self._places.thumbnails is not None,
            )
        except OSError as error:
            return Undecodable("decoder_died", f"It could not be opened: {error.strerror}.")

    def _look(self, asked: str | Undecodable) -> Picture | Undecodable:
        return self._decoder.answer(asked) if isinstance(asked, str) else asked

    def _tell(self, taken: _Taken) -> None:
        frame = taken.frame
        seen = {staged: self._look(asked) for staged, asked in taken.asked.items()}
        checked = check_frame(taken.files, frame.width, frame.height, lambda f: seen[f.staged])
        if frame.attempt in self._broken or checked.cause is not None:
            for file in taken.files:
                (self._places.staging / frame.attempt / file.staged).unlink(missing_ok=True)
        if checked.cause is not None:
            self._refuse(Refused(frame.attempt, frame.frame, checked.cause, checked.message or ""))
        if frame.attempt in self._broken:
            return
        first = seen.get(taken.files[0].staged)
        if self._places.thumbnails is not None and isinstance(first, Picture):
            self._told.add((frame.attempt, frame.frame))
        self._told_bytes += sum(file.size for file in taken.files)
        self._send(
            msg.FrameSaved(
                attempt=frame.attempt,
                frame=frame.frame,
                at_ms=frame.at_ms,
                seconds=frame.seconds,
                files=taken.files,
                peak_memory_bytes=frame.peak_memory_bytes,
                warnings=[*frame.notes, *checked.notes],
                look=checked.look,
            )
        )

    def _refuse(self, refused: Refused) -> None:
        if refused.attempt not in self._broken:
            self._broken.add(refused.attempt)
            self._put(refused)

    def _drawn(self, key: object, webp: bytes) -> None:
        """From the decoder's thread."""
        self._drawings.append((cast("tuple[str, int]", key), webp))

    def _keep_drawings(self) -> None:
        """All that was asked for is told by now, or refused. Not synced: a thumbnail that is lost with the
        machine is none."""
        folder = self._places.thumbnails
        while folder is not None and self._drawings:
            (attempt, frame), webp = self._drawings.popleft()
            if (attempt, frame) not in self._told:
                continue
            self._told.remove((attempt, frame))
            path = thumbnail(folder, attempt, frame)
            try:
                path.write_bytes(webp)
            except OSError:  # the disk is full, or the job is deleted
                path.unlink(missing_ok=True)
                continue
            self._send(msg.FrameDrawn(attempt=attempt, frame=frame, bytes=len(webp)))
