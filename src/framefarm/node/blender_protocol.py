"""Messages between the runner and the program in the sandbox (in_blender/main.py): one JSON object per line.

The last argument of the program is the number of a connected stream socket (`… --pipe 7`). Apart from
`ready`, the program only answers requests. All paths are paths in the sandbox.

    runner → Blender
    {"do": "open", "scene": PATH, "remap": [[OLD, NEW], …], "render": {RenderSettings}, "threads": N,
     "allow_scripts": false, "play_history": false, "output": "/output", "gpus": 0,
     "addons": []}
                                                                             first; again to reopen it
    {"do": "render", "frame": 7, "directory": "/output/12", "picture": "picture_0007"}
    {"do": "close"}                                                          end by itself

    Blender → runner
    {"is": "ready"}                                                          `bpy` is imported; once
    {"is": "opened", "blender": "4.2.23", "notes": [[CODE, SUBJECT, {FACTS}], …],
     "users": [[PATH, USER, ARTISTS_PATH], …]}                               of files that Blender reads later
    {"is": "progress", "frame": 7, "fraction": 0.25}                         at most one a second
    {"is": "phase", "phase": "composite"}                                    of its frame, when it changes
    {"is": "saved", "frame": 7, "peak_memory_bytes": N, "notes": [...],
     "width": 64, "height": 36, "picture": true}                             all its files are closed
    {"is": "failed", "cause": CODE, "facts": {…}, "frame": 7 | null}         the last message; it ends

CODE and FACTS: core/failure_codes.py; `notes` are warnings. A `width` or `height` of 0 is not known.
A `picture` of false: the scene writes none of its own, only File Output nodes' files.

The program creates `directory` and writes `<directory>/<picture><suffix of the view>.<ext>`; any other file
in it is an extra file with its own relative path. The runner may send several requests ahead; they are done
in order. Replies are hostile input: see `read_reply` and `blender.py`.
"""

from __future__ import annotations

import msgspec

from framefarm.core.failure_codes import CAUSES, explain
from framefarm.protocol.node import FoundBy, NodeWarning, RenderSettings

MAX_LINE_BYTES = 1 << 20
MAX_WARNINGS = 200
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


WarningTriple = tuple[str, str, dict[str, str]]
"""(code, subject, facts)"""


class ReadyReply(msgspec.Struct, tag_field="is", tag="ready", frozen=True, forbid_unknown_fields=True):
    pass


class OpenedReply(msgspec.Struct, tag_field="is", tag="opened", frozen=True, forbid_unknown_fields=True):
    blender: str
    notes: list[WarningTriple] = []
    users: list[tuple[str, str, str]] = []


class ProgressReply(msgspec.Struct, tag_field="is", tag="progress", frozen=True, forbid_unknown_fields=True):
    frame: int
    fraction: float


class PhaseReply(msgspec.Struct, tag_field="is", tag="phase", frozen=True, forbid_unknown_fields=True):
    phase: str


class SavedReply(msgspec.Struct, tag_field="is", tag="saved", frozen=True, forbid_unknown_fields=True):
    frame: int
    peak_memory_bytes: int = 0
    notes: list[WarningTriple] = []
    width: int = 0
    height: int = 0
    picture: bool = True


class FailedReply(msgspec.Struct, tag_field="is", tag="failed", frozen=True, forbid_unknown_fields=True):
    cause: str
    facts: dict[str, str] = {}
    frame: int | None = None


Reply = ReadyReply | OpenedReply | ProgressReply | PhaseReply | SavedReply | FailedReply
Request = OpenScene | RenderFrame | Close

_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
_encoder = msgspec.json.Encoder()


def request_line(request: Request) -> bytes:
    return _encoder.encode(request) + b"\n"


def read_reply(line: bytes) -> Reply:
    """Decode one line from the program. Raises ValueError (msgspec's errors are subclasses) for any other."""
    return _decoder.decode(line)


def clean(text: str) -> str:
    """Text from the sandbox as it may be shown: one line, printable, at most 2000 characters."""
    return _printable(text).strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])


def sentence_of(code: str, facts: dict[str, str]) -> str:
    """The sentence of a code from the sandbox. Raises ValueError for an unknown code."""
    if code not in CAUSES:
        raise ValueError(f"an unknown code, {clean(code)[:64]}")
    return clean(explain(code, {name: _printable(fact) for name, fact in facts.items()}))


def warnings_of(triples: list[WarningTriple]) -> tuple[NodeWarning, ...]:
    """The first 200 warnings. Raises ValueError for an unknown code."""
    return tuple(_warning_of(*triple) for triple in triples[:MAX_WARNINGS])


def _warning_of(code: str, subject: str, facts: dict[str, str]) -> NodeWarning:
    message = sentence_of(code, facts)
    if code != "missing_file":
        return NodeWarning(code=code, message=message, subject=clean(subject))
    user = clean(facts.get("wanted_by", "")).removeprefix("(").removesuffix(")")
    return NodeWarning(code=code, message=message, subject=clean(subject), wanted_by=user, found_by="opened")


def unknown_colours(names: list[str]) -> tuple[NodeWarning, ...]:
    """A warning for each display, view, look or colour space that Blender does not know."""
    return tuple(_warning_of("unknown_colours", name, {"what": name}) for name in names)


def missing_file(path: str, user: str, found_by: FoundBy) -> NodeWarning:
    """The warning of a missing file. `path`: the artist's; `user`: who wants it, empty if not known."""
    path, user = clean(path), clean(user)
    message = explain("missing_file", {"path": path, "wanted_by": f" ({user})" if user else ""})
    return NodeWarning(code="missing_file", message=message, subject=path, wanted_by=user, found_by=found_by)
