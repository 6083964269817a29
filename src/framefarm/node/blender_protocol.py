"""What the runner and the program inside the sandbox say to each other: one JSON object a line.

The program gets the number of a connected stream socket as its last argument (`… -- --pipe 7`); but for
`ready` it speaks only when asked. All paths are those inside the sandbox.

    runner → Blender
    {"do": "open", "scene": PATH, "remap": [[OLD, NEW], …], "render": {RenderSettings}, "threads": N,
     "allow_scripts": false, "play_history": false, "output": "/output", "gpus": 0,
     "addons": []}
                                                                             first, and to open afresh
    {"do": "render", "frame": 7, "directory": "/output/12", "picture": "picture_0007"}
    {"do": "close"}                                                          end, politely

    Blender → runner
    {"is": "ready"}                                                          bpy is there; unasked, once
    {"is": "opened", "blender": "4.2.23", "notes": [[CODE, SUBJECT, {FACTS}], …]}
    {"is": "progress", "frame": 7, "fraction": 0.25}                         at most one a second
    {"is": "saved", "frame": 7, "peak_memory_bytes": N, "notes": [...],
     "width": 64, "height": 36}                                              all its files are closed
    {"is": "failed", "cause": CODE, "facts": {…}, "frame": 7 | null}         its last word; it ends

The codes and what their facts are for: core/failure_codes.py. A size of 0 is one that is not known.

The program makes `directory` itself and writes `<directory>/<picture><suffix of the view>.<ext>`; whatever
else lies there is an extra file under its own relative path. Several renders may be asked for ahead; they
are done in order. The runner believes nothing: see `read_reply` and `blender.py`.
"""

from __future__ import annotations

import msgspec

from framefarm.core.failure_codes import CAUSES, explain
from framefarm.protocol.node import NodeWarning, RenderSettings

MAX_LINE_BYTES = 1 << 20
MAX_NOTES = 200
MAX_TEXT = 2000


class OpenScene(msgspec.Struct, tag_field="do", tag="open", frozen=True):
    scene: str
    remap: list[tuple[str, str]]
    render: RenderSettings
    threads: int
    allow_scripts: bool
    play_history: bool
    output: str
    gpus: int = 0
    addons: list[str] = []


class RenderFrame(msgspec.Struct, tag_field="do", tag="render", frozen=True):
    frame: int
    directory: str
    picture: str


class Close(msgspec.Struct, tag_field="do", tag="close", frozen=True):
    pass


NoteTriple = tuple[str, str, dict[str, str]]


class ReadyReply(msgspec.Struct, tag_field="is", tag="ready", frozen=True, forbid_unknown_fields=True):
    pass


class OpenedReply(msgspec.Struct, tag_field="is", tag="opened", frozen=True, forbid_unknown_fields=True):
    blender: str
    notes: list[NoteTriple] = []


class ProgressReply(msgspec.Struct, tag_field="is", tag="progress", frozen=True, forbid_unknown_fields=True):
    frame: int
    fraction: float


class SavedReply(msgspec.Struct, tag_field="is", tag="saved", frozen=True, forbid_unknown_fields=True):
    frame: int
    peak_memory_bytes: int = 0
    notes: list[NoteTriple] = []
    width: int = 0
    height: int = 0


class FailedReply(msgspec.Struct, tag_field="is", tag="failed", frozen=True, forbid_unknown_fields=True):
    cause: str
    facts: dict[str, str] = {}
    frame: int | None = None


Reply = ReadyReply | OpenedReply | ProgressReply | SavedReply | FailedReply
Request = OpenScene | RenderFrame | Close

_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
_encoder = msgspec.json.Encoder()


def request_line(request: Request) -> bytes:
    return _encoder.encode(request) + b"\n"


def read_reply(line: bytes) -> Reply:
    """Raises ValueError (msgspec's errors are some) for anything that is not a known message."""
    return _decoder.decode(line)


def clean(text: str) -> str:
    """`text` from inside as it may be shown: bounded, one line, printable."""
    return _printable(text).strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])


def told(code: str, facts: dict[str, str]) -> str:
    """The sentence of a code from inside. Raises ValueError for one that is not in the table."""
    if code not in CAUSES:
        raise ValueError(f"an unknown code, {clean(code)[:64]}")
    return clean(explain(code, {name: _printable(fact) for name, fact in facts.items()}))


def notes_of(triples: list[NoteTriple]) -> tuple[NodeWarning, ...]:
    """Raises ValueError for a code that is not in the table."""
    return tuple(
        NodeWarning(code=code, message=told(code, facts), subject=clean(subject))
        for code, subject, facts in triples[:MAX_NOTES]
    )
