"""What a runner and the farm say to each other. `docs/node-protocol.md` says who does what when.

Four calls, all below `/node/v1/sessions/{session}`, JSON, `Authorization: Bearer <session token>`:

    POST hello     Hello   → SessionConfig   once, first
    GET  inputs            → Inputs          once, before the first task
    POST sync      Sync    → DesiredState    held open while nothing changes
    POST reports   Report  → ReportReply     in parallel with sync, numbered from 1

Times named `_ms` in events are the runner's monotonic milliseconds since it started. msgspec and not
pydantic: a runner should start in a blink, and these calls are the farm's hot path.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PROTOCOL_VERSION = 1
"""The version a runner names in its hello. The server speaks this one and the one before."""
MOST_EVENTS = 256
"""Of one report."""

PackageKind = Literal["bpy", "executable"]
TaskEnd = Literal["success", "failed", "timed_out", "cancelled", "preempted"]
Verdict = Literal["applied", "superseded", "rejected"]


class Message(msgspec.Struct, kw_only=True):
    """Base of all messages. Unknown fields are ignored: the other side may be newer."""


# ---------------------------------------------------------------------------------- the slot


class Slot(Message):
    """What the engine gives a runner on its standard input: who it is and what it may use."""

    session: str
    token: str
    """Bearer token of this session. Only ever on standard input."""
    endpoint_file: str
    """A file that holds the farm's base URL; read again when the farm does not answer."""
    directory: str
    """The session's own folder on this machine. The runner holds its lock for life."""
    node: str
    cores: tuple[int, ...]
    """The processor numbers Blender may run on, exactly these."""
    memory_bytes: int
    uid: int
    """The unprivileged user id of this slot's sandbox."""
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    gpus: int = 0
    """GPUs of this slot. With some, Cycles must find one or the session fails."""


# --------------------------------------------------------------------------------- the hello


class Hello(Message):
    protocol: int
    node: str
    pid: int
    boot_id: str


class Package(Message):
    """An installed Blender. For `bpy`, `path` is the Python of its environment; else the program."""

    id: str
    kind: PackageKind
    path: str
    release: str


class RenderSettings(Message):
    """What the job asks of the scene. Empty or None: what the scene says by itself."""

    engine: str = ""
    """`cycles`, `eevee`, `workbench` or empty."""
    scene: str | None = None
    camera: str | None = None
    view_layers: tuple[str, ...] = ()
    resolution_percentage: int | None = None
    samples: int | None = None


class SessionConfig(Message):
    """The answer to a hello: everything that stays the same for the session's life."""

    job: str
    account: str
    package: Package
    scene_path: str
    """The scene's path as the artist's machine knows it, normalised: `/a`, `C:/a`, `//server/share/a`."""
    stem: str
    """The start of every picture's name: `<stem>_<frame>.<ext>`."""
    render: RenderSettings
    environment: dict[str, str]
    fresh_scene_per_task: bool
    """Open the scene afresh for each task (unbaked simulations depend on history)."""
    allow_scripts: bool
    staging: str
    """Folder where this session puts finished files, `<staging>/<attempt>/…`."""
    logs: str
    """Folder for Blender's output, `<logs>/<attempt>.log`."""
    lease_seconds: float
    disconnected_seconds: float
    """How long to render on without the farm before Blender is stopped."""
    gathering_bytes: int
    """How much may gather in staging while the farm does not answer."""
    addons: list[str] = []
    """Inputs that are add-ons (zips), to be installed for this session and enabled before the scene opens."""
    max_task_runtime_seconds: float | None = None
    """A task that runs longer ends as `timed_out`; None: no limit."""
    thumbnails: str = ""
    """Folder for thumbnails, `<thumbnails>/<attempt>-<frame>.webp`; empty: none are wanted."""
    no_progress_seconds: float | None = None
    """A Blender that gives no sign of life for so long is ended, its task `timed_out`; None: no limit."""


class Input(Message):
    """One file of the job: where the scene expects it, and where its bytes are on this machine. A file whose
    name has other cases in the scene than when it was uploaded is there once for each name."""

    path: str
    sha256: str
    size: int
    source: str


class Inputs(Message):
    inputs: list[Input]


# ------------------------------------------------------------------- desired state, and sync


class TaskOrder(Message):
    """A task to do: exactly these frames, in this order. Frames already committed are not in it."""

    attempt: str
    number: int
    frames: list[int]
    revision: int = 0


class DesiredState(Message):
    """All that the farm wants of a session. The runner compares it with what it does."""

    version: int
    tasks: list[TaskOrder]
    """In order. What the runner holds and is not listed here is to be given up: unbegun tasks at once,
    a begun one after its frame in work."""
    drain: bool = False
    """End when nothing is left to do; no more tasks will come."""
    cancel: bool = False
    """Stop Blender now, report what was done, end."""
    preempt_seconds: float | None = None
    """The slot goes to other work: end the frame in work, give the rest back as `preempted`, end. What is
    left after that many seconds is killed. An older runner sees an empty list and a drain: much the same."""
    lease_seconds: float = 60.0


class Sync(Message):
    """One long call. It is answered at once if the farm's version is not `seen`, else held."""

    seen: int
    """The last Desired.version that the runner has taken in; 0 at first."""
    wait_seconds: float
    progress: Progress | None = None


class Progress(Message):
    """Latest value only; not an event."""

    attempt: str
    frame: int
    fraction: float


# ----------------------------------------------------------------------------------- reports


class StagedFile(Message):
    """A file that lies, durable, below `<staging>/<attempt>/<staged>`."""

    path: str
    """Its name under the job's output path."""
    staged: str
    kind: Literal["frame", "extra"]
    size: int
    md5: str
    sha256: str


class NodeWarning(Message):
    """Something an artist should know: a stable code, one sentence, and what it is about."""

    code: str
    message: str
    subject: str = ""


class BlenderOpened(Message, tag="blender_opened"):
    """The scene is open. `blender` is the exact version that opened it."""

    blender: str
    load_seconds: float
    warnings: list[NodeWarning] = []


class TaskStarted(Message, tag="task_started"):
    attempt: str
    at_ms: int


class FrameColour(Message):
    """What a frame's first picture is like."""

    colour: list[float] | None = None
    """The one that every pixel has, as the file has it (black is 0, for 8 bits white is 1); null if there
    are several."""


class FrameSaved(Message, tag="frame_saved"):
    """A frame is rendered and its files are durable in staging."""

    attempt: str
    frame: int
    at_ms: int
    seconds: float
    files: list[StagedFile]
    peak_memory_bytes: int = 0
    """The most resident memory of Blender and its children during this frame."""
    warnings: list[NodeWarning] = []
    look: FrameColour | None = None
    """None: it could not be looked at."""


class FrameDrawn(Message, tag="frame_drawn"):
    """A saved frame's thumbnail lies in the order's folder. Said when there was time for it: after the frame,
    perhaps after its task, before the session's end."""

    attempt: str
    frame: int
    bytes: int


class TaskEnded(Message, tag="task_ended"):
    """The end of an attempt that began. `success` only when every frame of the order was saved.

    `cancelled`: given up between frames because the farm wanted it; the farm puts the rest back or not.
    `preempted`: the same, because the slot was taken.
    """

    attempt: str
    outcome: TaskEnd
    started_ms: int
    ended_ms: int
    cause: str | None = None
    """A stable code, as `no_camera`."""
    message: str | None = None
    """One sentence for the artist, with the remedy."""
    frame: int | None = None
    """The frame in work when it failed."""
    peak_memory_bytes: int = 0


class TaskReleased(Message, tag="task_released"):
    """A task that was withdrawn before it was begun, or that the runner can't begin."""

    attempt: str


class SessionFailed(Message, tag="session_failed"):
    """This machine can't do the job, through no fault of the scene (no sandbox, no Blender, bad input
    bytes, no disk). Everything unfinished goes back as a loss of the farm's."""

    cause: str
    message: str


class SessionEnded(Message, tag="session_ended"):
    """The last word of a session."""

    reason: str


Event = (
    BlenderOpened
    | TaskStarted
    | FrameSaved
    | FrameDrawn
    | TaskEnded
    | TaskReleased
    | SessionFailed
    | SessionEnded
)


class Report(Message):
    """Events in order. `seq` counts reports of the session from 1, without a gap."""

    seq: int
    events: Annotated[list[Event], msgspec.Meta(max_length=MOST_EVENTS)]


class ReportReply(Message):
    """`verdicts` has one entry per event: `superseded` means another attempt owns it, delete the files;
    `rejected` means it can never apply. Both are final, like `applied`."""

    last_seq: int
    verdicts: list[Verdict]
    desired: DesiredState


class SequenceGap(Message):
    """Body of a 409 to a report: send this number next."""

    expected: int
