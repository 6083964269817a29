"""Requests and answers of the public API for jobs, tasks, frames, files and attempts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt, StrictStr, field_validator

from framefarm.protocol.base import Money, Page, Strict

MAX_ENVIRONMENT = 200
MAX_VALUE_BYTES = 32 << 10
MAX_ENVIRONMENT_BYTES = 256 << 10
MAX_PATHS = 100_000
MAX_ADDONS = 50

REFUSED_PREFIXES = (
    "LD_", "PYTHON", "BLENDER_USER_", "BLENDER_SYSTEM_", "FRAMEFARM_", "GCONV_", "GLIBC_", "NSS_", "LOC",
    "MALLOC_", "XDG_", "LIBGL_", "MESA_", "VK_", "__EGL_", "__GLX_", "NVIDIA_",
)  # fmt: skip
REFUSED_NAMES = {"PATH", "HOME", "SHELL", "BASH_ENV", "ENV", "IFS", "TMPDIR", "CUDA_VISIBLE_DEVICES"}
MAX_BLENDER_NAME = 255
MAX_OUTPUT_NAME = 1000
"""Characters; the rules of core/output_names.py allow fewer."""
NAME = Annotated[StrictStr, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
Title = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Value = Annotated[StrictStr, Field(max_length=MAX_ENVIRONMENT_BYTES)]
JobId = Annotated[StrictStr, Field(max_length=100)]
BlenderName = Annotated[StrictStr, Field(max_length=MAX_BLENDER_NAME)]
Pins = Annotated[dict[StrictStr, StrictStr], Field(max_length=MAX_PATHS)]


def is_refused(name: str) -> bool:
    """Whether an environment variable's name is refused: it could change the farm's own programs
    (docs/security.md)."""
    upper = name.upper()
    return upper.startswith(REFUSED_PREFIXES) or upper in REFUSED_NAMES or upper.endswith("_PROXY")


NotifyState = Literal["success", "failed", "cancelled", "holding"]


class Notify(Strict):
    """Addresses that get a mail when the job enters one of the states `on`: one mail for each state and
    job."""

    email: Annotated[
        list[Annotated[StrictStr, Field(min_length=3, max_length=254)]], Field(min_length=1, max_length=20)
    ]
    on: Annotated[list[NotifyState], Field(min_length=1, max_length=4)] = ["success", "failed", "holding"]


class JobSubmission(Strict):
    """`POST /api/jobs`: a job's fields; those from `priority` on are extensions."""

    job_title: Title
    project: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    instance_type: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    preemptible: StrictBool = True
    preemptible_retries: Annotated[StrictInt, Field(ge=0, le=100)] = 1
    chunk_size: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    frame_range: Annotated[StrictStr, Field(min_length=1, max_length=65_536)]
    scout_frames: Annotated[StrictStr, Field(max_length=65_536)] = ""
    blender_version: Annotated[StrictStr, Field(min_length=1, max_length=100)]
    render_software: Literal["", "cycles", "eevee", "workbench"] = "cycles"
    output_path: Annotated[StrictStr, Field(min_length=1, max_length=4096)]
    upload_paths: Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_PATHS)]
    environment_variables: Annotated[dict[NAME, Value], Field(max_length=MAX_ENVIRONMENT)] = {}

    priority: Annotated[StrictInt, Field(ge=0, le=100)] = 50
    scene_path: StrictStr | None = None
    upload_md5s: Pins = {}
    upload_sha256s: Pins = {}
    hold: StrictBool = False
    max_sessions: Annotated[StrictInt, Field(ge=1, le=100_000)] | None = None
    task_retries: Annotated[StrictInt, Field(ge=0, le=100)] = 2
    max_task_runtime_seconds: Annotated[StrictInt, Field(ge=1, le=30 * 24 * 3600)] | None = None
    depends_on: Annotated[list[JobId], Field(max_length=1000)] = []
    metadata: Annotated[dict[StrictStr, StrictStr], Field(max_length=100)] = {}
    scene: BlenderName | None = None
    camera: BlenderName | None = None
    view_layers: Annotated[list[BlenderName], Field(max_length=100)] | None = None
    resolution_percentage: Annotated[StrictInt, Field(ge=1, le=1000)] | None = None
    samples: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    notify: Notify | None = None
    on_missing_files: Literal["warn", "hold", "fail"] = "warn"
    on_blocked_scripts: Literal["hold", "warn", "fail"] = "hold"
    addons: Annotated[list[StrictStr], Field(max_length=MAX_ADDONS)] = []
    output_name: Annotated[StrictStr, Field(max_length=MAX_OUTPUT_NAME)] | None = None

    @field_validator("job_title")
    @classmethod
    def printable(cls, value: str) -> str:
        if not value.strip() or not value.isprintable():
            raise ValueError("must be 1 to 200 printable characters")
        return value

    @field_validator("metadata")
    @classmethod
    def small_metadata(cls, value: dict[str, str]) -> dict[str, str]:
        if sum(len(k.encode()) + len(v.encode()) for k, v in value.items()) > 64 << 10:
            raise ValueError("all keys and values together must have at most 64 KiB")
        return value


class JobChange(Strict):
    """`PATCH /api/jobs/{id}`: an action (or the status that it leads to), a priority, or both."""

    action: Literal["hold", "unhold", "cancel"] | None = None
    status: Literal["holding", "pending", "cancelled"] | None = None
    priority: Annotated[StrictInt, Field(ge=0, le=100)] | None = None
    drain: StrictBool = True


class Retry(Strict):
    """`POST /api/jobs/{id}/retry`: all failed tasks, or exactly these frames again."""

    frames: Annotated[StrictStr, Field(min_length=1, max_length=65_536)] | None = None


class Warning_(BaseModel):
    code: str
    message: str
    subject: str = ""
    frame: int | None = None
    """The frame that the warning is about; null if it is about the job."""
    thumbnail: str | None = None
    """Address of that frame's thumbnail, as in the list of frames."""


class JobSummary(BaseModel):
    """A job in a list."""

    id: str
    job_title: str
    project: str
    user: str
    status: str
    status_since: str
    hold_reasons: list[str]
    waiting_for: str | None
    priority: int
    instance_type: str
    preemptible: bool
    blender_version: str
    frame_range: str
    progress: float
    frames: dict[str, int] | None
    tasks: dict[str, int] | None
    cost: Money
    created_at: str
    started_at: str | None
    ended_at: str | None


class JobInput(BaseModel):
    path: str
    md5: str | None
    size: int | None
    registered_at: str | None


class FrameInWork(BaseModel):
    """Progress of a frame in work, as its session reported it last; `fraction` is from 0 to 1."""

    frame: int
    task: int
    attempt: str
    session: str
    fraction: float
    at: str


class SecondsSpan(BaseModel):
    """Expected seconds and their 80% interval, `low` to `high`; both null while fewer than 2 frames are
    done."""

    expected: float
    low: float | None
    high: float | None


class MoneySpan(BaseModel):
    expected: Money
    low: Money | None
    high: Money | None


class Forecast(BaseModel):
    """Forecast of the time and cost of an unfinished job's remaining frames, from its finished frames."""

    frames_left: int
    based_on_frames: int
    machines: int
    seconds_left: SecondsSpan | None
    cost_left: MoneySpan | None
    total_cost: MoneySpan | None


class MissingFile(BaseModel):
    """A file that the scene wants and the job lacks; each once, as the farm learned of it first."""

    path: str
    """As the artist's machine knows it."""
    wanted_by: str
    """The data-block, node or strip that wants it; empty if it is not known."""
    found_by: Literal["submit", "opened", "rendered"]
    """`submit`: it is named in the scene's file; `opened`: Blender named it as it opened the scene;
    `rendered`: Blender looked for it while it rendered."""
    since: str
    remedy: str


class JobDetail(JobSummary):
    """A job with all submitted fields, its status and its warnings."""

    preemptible_retries: int
    chunk_size: int
    scout_frames: str
    render_software: str
    output_path: str
    upload_paths: list[str]
    environment_variables: dict[str, str]
    scene_path: str | None
    max_sessions: int | None
    task_retries: int
    max_task_runtime_seconds: int | None
    depends_on: list[str]
    metadata: dict[str, str]
    hold: bool
    scene: str | None
    camera: str | None
    view_layers: list[str] | None
    resolution_percentage: int | None
    samples: int | None
    on_missing_files: str
    on_blocked_scripts: str
    addons: list[str]
    output_name: str | None
    output_url: str
    cause: str | None
    message: str | None
    warnings: list[Warning_]
    missing_files: list[MissingFile]
    missing_paths: list[str]
    inputs: list[JobInput]
    scene_info: dict[str, Any] | None
    average_frame_seconds: float | None
    remaining_seconds: float | None
    forecast: Forecast | None
    blender_release: str | None
    frames_in_work: list[FrameInWork] = []
    notify: Notify | None = None


class DryRun(BaseModel):
    """Effect that a submission would have; the request stores nothing."""

    dry_run: Literal[True] = True
    frames: int | None
    tasks: int | None
    scouts: int | None
    missing_paths: list[str]
    warnings: list[Warning_]
    price_per_hour: Money


class JobFile(BaseModel):
    path: str
    frame: int
    kind: Literal["frame", "extra"]
    size: int
    md5: str
    sha256: str
    url: str | None
    replaced_by: str | None = None
    download_path: str
    """`path` as every operating system takes it; the same as `path` where it can be."""


class JobFrame(BaseModel):
    frame: int
    status: str
    task: int
    attempt: str | None
    seconds: float | None
    files: list[JobFile]
    thumbnail: str | None = None
    warnings: list[Warning_]
    revision: int


class JobTask(BaseModel):
    number: str
    status: str
    frames: str
    frames_done: int
    attempt_count: int
    scout: bool
    reason: str | None
    waiting_for: str | None = None
    preemptions_left: int
    retries_left: int


class JobAttempt(BaseModel):
    id: str
    task: str
    session: str
    node: str
    instance_type: str
    preemptible: bool
    zone: str | None
    started_at: str | None
    ended_at: str | None
    outcome: str | None
    cause: str | None
    message: str | None
    frames_done: int
    billed_seconds: float
    price_per_hour: Money
    cost: Money
    peak_memory_bytes: int | None


class JobPage(Page):
    data: list[JobSummary]


class TaskPage(Page):
    data: list[JobTask]


class FramePage(Page):
    data: list[JobFrame]


class FilePage(Page):
    data: list[JobFile]


class AttemptPage(Page):
    data: list[JobAttempt]


class Retried(BaseModel):
    retried: list[str]
    """Numbers of the tasks that are pending again."""
