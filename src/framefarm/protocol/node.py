"""Messages between a runner and the farm. docs/node-protocol.md describes the protocol.

Four calls, all below `/node/v1/sessions/{session}`, JSON, `Authorization: Bearer <session token>`:

    POST hello     Hello   → SessionConfig   once, first
    GET  inputs            → Inputs          once, before the first task
    POST sync      Sync    → DesiredState    held open while nothing changes
    POST reports   Report  → ReportReply     in parallel with sync, numbered from 1

Times named `_ms` in events are the runner's monotonic milliseconds since it started. msgspec
instead of pydantic, so that a runner starts quickly; these calls are also the server's hot path.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PROTOCOL_VERSION = 1
"""Version that a runner names in its hello. The server supports this one and the one before."""
MAX_EVENTS = 256
"""Most events in one report."""

PackageKind = Literal["bpy", "executable", "archive"]
TaskEnd = Literal["success", "failed", "timed_out", "cancelled", "preempted"]
FoundBy = Literal["opened", "rendered"]
"""`opened`: Blender named it when it opened the scene. `rendered`: Blender looked for it in vain."""
Verdict = Literal["applied", "superseded", "rejected"]


class Message(msgspec.Struct, kw_only=True):
    """Base of all messages. Unknown fields are ignored: the other side may be newer."""


# ---------------------------------------------------------------------------------- the slot


class Slot(Message):
    """Identity and resources of a session, which the engine writes to the runner's standard input."""

    session: str
    token: str
    """Bearer token of this session. Only ever on standard input."""
    endpoint_file: str
    """File with the farm's base URL; read again when the farm does not answer."""
    directory: str
    """The session's own folder on this node. The runner holds a lock in it until it exits."""
    node: str
    cores: tuple[int, ...]
    """Numbers of the processors that Blender runs on, exactly these."""
    memory_bytes: int
    uid: int
    """The unprivileged user id of this slot's sandbox."""
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    gpus: int = 0
    """Number of GPUs of this slot. If it is not 0, Cycles must find one or the session fails."""
    shader_cache: str = ""
    """Folder of this node for compiled shaders, kept between sessions; empty: keep none."""


# --------------------------------------------------------------------------------- the hello


class Hello(Message):
    """First message of a runner. `boot_id`: that of the node's kernel."""

    protocol: int
    node: str
    pid: int
    boot_id: str


class Package(Message):
    """An installed Blender. `path`: for `bpy`, the Python of its environment; otherwise the program."""

    id: str
    kind: PackageKind
    path: str
    release: str


class RenderSettings(Message):
    """Render settings of the job. Empty or None: the scene's own setting."""

    engine: str = ""
    """`cycles`, `eevee`, `workbench` or empty."""
    scene: str | None = None
    camera: str | None = None
    view_layers: tuple[str, ...] = ()
    resolution_percentage: int | None = None
    samples: int | None = None


class SessionConfig(Message):
    """Answer to a hello: all settings that stay the same until the session ends."""

    job: str
    account: str
    package: Package
    scene_path: str
    """The scene's path on the artist's machine, normalised: `/a`, `C:/a`, `//server/share/a`."""
    stem: str
    """The start of every picture's name: `<stem>_<frame>.<ext>`."""
    render: RenderSettings
    environment: dict[str, str]
    fresh_scene_per_task: bool
    """The scene's file has unbaked simulations, which depend on the frames played before."""
    allow_scripts: bool
    staging: str
    """Folder where this session puts finished files, `<staging>/<attempt>/…`."""
    logs: str
    """Folder for Blender's output, `<logs>/<attempt>.log`."""
    lease_seconds: float
    disconnected_seconds: float
    """Time to render on without an answer from the farm; after it Blender is stopped."""
    gathering_bytes: int
    """Most bytes of unacknowledged frames in staging while the farm does not answer."""
    addons: list[str] = []
    """Inputs that are add-ons (zips), to be installed for this session and enabled before the scene opens."""
    max_task_runtime_seconds: float | None = None
    """A task that runs longer ends as `timed_out`; None: no limit."""
    thumbnails: str = ""
    """Folder for thumbnails, `<thumbnails>/<attempt>-<frame>.webp`; empty: draw none."""
    output_name: str = ""
    """The job's own name of pictures, `shot_####`; empty: they are named after `stem`."""
    no_progress_seconds: float | None = None
    """A Blender that shows no progress for this time is ended, its task `timed_out`; None: no limit."""


class Input(Message):
    """One file of the job. `path`: where the scene expects it; `source`: its bytes on this node; `size` in
    bytes. A file whose name differs in case between scene and upload is listed once for each name."""

    path: str
    sha256: str
    size: int
    source: str


class Inputs(Message):
    """Answer to `GET inputs`: all files of the job."""

    inputs: list[Input]


# ------------------------------------------------------------------- desired state, and sync


class TaskOrder(Message):
    """A task to render: exactly these frames, in this order. Committed frames are left out."""

    attempt: str
    number: int
    frames: list[int]
    revision: int = 0


class DesiredState(Message):
    """Desired state of a session. The runner compares it with its own state and acts on the difference."""

    version: int
    tasks: list[TaskOrder]
    """In order. A task that the runner holds and that is not listed is given up: at once if it has not begun,
    else after its frame in work."""
    drain: bool = False
    """End after the last listed task; no more tasks follow."""
    cancel: bool = False
    """Stop Blender now, report the finished frames, end."""
    preempt_seconds: float | None = None
    """The slot is needed for other work: finish the frame in work, return the rest as `preempted`, end. After
    this many seconds the session is killed. A runner that ignores the field sees an empty task list and a
    drain."""
    lease_seconds: float = 60.0


class Sync(Message):
    """Long poll for the desired state. Answered at once if its version differs from `seen`, otherwise
    held."""

    seen: int
    """Last DesiredState.version that the runner has processed; 0 at first."""
    wait_seconds: float
    progress: Progress | None = None


class Progress(Message):
    """Progress of the frame in work, latest value only; `fraction` is from 0 to 1. Not an event."""

    attempt: str
    frame: int
    fraction: float


# ----------------------------------------------------------------------------------- reports


class StagedFile(Message):
    """A file stored durably at `<staging>/<attempt>/<staged>`. `size` in bytes."""

    path: str
    """Its name below the job's output destination."""
    staged: str
    kind: Literal["frame", "extra"]
    size: int
    md5: str
    sha256: str


class NodeWarning(Message):
    """A warning for the artist: a stable code, one sentence, and its subject (a path, for example)."""

    code: str
    message: str
    subject: str = ""
    wanted_by: str = ""
    """Of a missing file: the data-block, node or strip that wants it; empty if it is not known."""
    found_by: FoundBy | None = None
    """How a missing file was found."""


class BlenderOpened(Message, tag="blender_opened"):
    """The scene is open. `blender` is the exact version that opened it."""

    blender: str
    load_seconds: float
    warnings: list[NodeWarning] = []


class TaskStarted(Message, tag="task_started"):
    """An attempt began. It is billed from here on."""

    attempt: str
    at_ms: int


class FrameColour(Message):
    """Colour shared by all pixels of a frame's first picture."""

    colour: list[float] | None = None
    """One number for each channel, as stored in the file (black is 0; white of 8-bit files is 1); null if the
    pixels differ."""


class FrameSaved(Message, tag="frame_saved"):
    """A frame is rendered and its files are durable in staging."""

    attempt: str
    frame: int
    at_ms: int
    seconds: float
    files: list[StagedFile]
    peak_memory_bytes: int = 0
    """Most resident memory of Blender and its child processes during this frame."""
    warnings: list[NodeWarning] = []
    look: FrameColour | None = None
    """None: the picture could not be checked."""


class FrameDrawn(Message, tag="frame_drawn"):
    """A saved frame's thumbnail is in the folder `SessionConfig.thumbnails`. `bytes`: its size. Reported
    after the frame, possibly after its task, and before the session's end."""

    attempt: str
    frame: int
    bytes: int


class TaskEnded(Message, tag="task_ended"):
    """End of an attempt that began. `success`: every frame of the task order was saved.

    `cancelled`: given up between frames at the farm's request; the farm decides about the remaining frames.
    `preempted`: given up because the slot was taken.
    """

    attempt: str
    outcome: TaskEnd
    started_ms: int
    ended_ms: int
    cause: str | None = None
    """Failure code, such as `no_camera`."""
    message: str | None = None
    """One sentence for the artist, with the remedy."""
    frame: int | None = None
    """The frame in work when it failed."""
    peak_memory_bytes: int = 0


class TaskReleased(Message, tag="task_released"):
    """A task that was withdrawn before it began, or that the runner cannot begin."""

    attempt: str


class SessionFailed(Message, tag="session_failed"):
    """This node cannot render the job, through no fault of the scene (no sandbox, no Blender, damaged input,
    full disk). All unfinished tasks return to the farm and count as its losses."""

    cause: str
    message: str


class SessionEnded(Message, tag="session_ended"):
    """The last event of a session."""

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
    """Events in order. `seq` numbers the session's reports from 1, without a gap."""

    seq: int
    events: Annotated[list[Event], msgspec.Meta(max_length=MAX_EVENTS)]


class ReportReply(Message):
    """Answer to a report. `verdicts` has one entry for each event, all final.

    `applied`: the event counts. `superseded`: the attempt does not own the task; the runner removes the
    files. `rejected`: the event can never apply; the runner removes the files.
    """

    last_seq: int
    verdicts: list[Verdict]
    desired: DesiredState


class SequenceGap(Message):
    """Body of a 409 to a report. `expected`: number of the report to send next."""

    expected: int
