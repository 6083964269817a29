"""Row classes of tables, with one field for each column. Written by script/make_rows.py.

`Tx.rows(JobRow, query)` makes them of a query; a test compares this file with the tables. Rows of
`job_state`, `sessions`, `attempts` and `nodes` are not frozen: they are locked, changed in memory and written
back once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from framefarm.core.delivery import DeliveryStatus, MailStatus
from framefarm.core.job import JobStatus, TaskStatus
from framefarm.core.node_health import NodeState
from framefarm.core.session_lease import SessionState
from framefarm.core.task_outcomes import Outcome
from framefarm.server.json_types import Json


@dataclass(frozen=True, slots=True)
class AccountRow:
    id: str
    name: str
    created_ms: int
    currency: str
    credit_limit_micros: int | None
    allow_scripts: bool
    quota_bytes: int | None


@dataclass(frozen=True, slots=True)
class UserRow:
    id: str
    account_id: str
    email: str
    password_hash: str
    role: Literal["admin", "member"]
    created_ms: int
    disabled_ms: int | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    id: str
    account_id: str
    user_id: str
    kind: Literal["login", "key"]
    hash: str
    name: str
    hint: str
    role: Literal["admin", "member", "read"]
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None


@dataclass(frozen=True, slots=True)
class ProjectRow:
    id: str
    account_id: str
    name: str
    status: Literal["active", "archived"]
    created_ms: int
    created_by: str


@dataclass(frozen=True, slots=True)
class InstanceTypeRow:
    id: str
    name: str
    description: str
    cores: int
    memory_bytes: int
    gpu_model: str | None
    gpu_count: int
    gpu_memory_bytes: int | None
    operating_system: str
    price_micros: int
    preemptible_price_micros: int | None
    position: int


@dataclass(frozen=True, slots=True)
class PackageRow:
    id: str
    product: str
    version: str
    release: str
    kind: Literal["bpy", "executable", "archive"]
    path: str
    is_default: bool
    installed_ms: int
    lacks: list[str] | None | None


@dataclass(frozen=True, slots=True)
class DestinationRow:
    id: str
    account_id: str
    url: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class JobRow:
    id: str
    account_id: str
    user_id: str
    project_id: str
    title: str
    created_ms: int
    deleted_ms: int | None
    emptied_ms: int | None
    request: Json
    instance_type_id: str
    preemptible: bool
    package_id: str
    manifest_sha256: str
    scene_path: str | None
    output_url: str
    chunk_size: int
    frames: str | None
    scouts: str
    scene: Json
    warnings: Json


@dataclass(slots=True)
class JobStateRow:
    job_id: str
    account_id: str
    status: JobStatus
    status_since_ms: int
    priority: int
    next: int
    task_count: int | None
    scout_count: int
    frame_count: int | None
    holds: str
    gate_open: bool
    missing: int
    scene_read: bool
    depends_left: int
    cancel_ms: int | None
    failed_cause: str | None
    failed_message: str | None
    rows_pending: int
    rows_running: int
    rows_success: int
    rows_failed: int
    rows_preempted: int
    rows_cancelled: int
    scouts_ended: int
    frames_done: int
    cost_micros: int
    unpublished: int
    event_number: int
    frame_ms: int | None
    timed_frames: int
    timed_ms: int
    timed_squares: float
    billed_frames: int
    billed_ms: int
    loads: int
    load_ms: int
    arrived_ms: int | None
    started_ms: int | None
    ended_ms: int | None


@dataclass(frozen=True, slots=True)
class DependencyRow:
    job_id: str
    depends_on: str
    account_id: str


@dataclass(frozen=True, slots=True)
class TaskRow:
    job_id: str
    number: int
    kind: str
    status: TaskStatus
    attempt_id: str | None
    attempt_count: int
    preemptions: int
    failures: int
    losses: int
    frames_done: int
    revision: int
    redo: str | None
    cause: str | None
    reason: str | None
    not_before_ms: int | None


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int
    account_id: str
    job_id: str
    number: int
    at_ms: int
    actor: str
    type: str
    data: Json


@dataclass(slots=True)
class SessionRow:
    id: str
    account_id: str
    job_id: str
    instance_type_id: str
    preemptible: bool
    price_micros: int
    node: str
    zone: str
    cores: int
    memory_bytes: int
    gpus: int
    state: SessionState
    ended: bool
    end_reason: str | None
    end_message: str | None
    token_hash: str
    created_ms: int
    hello_ms: int | None
    idle_since_ms: int | None
    ended_ms: int | None
    version: int
    drain: bool
    cancel: bool
    preempt_ms: int | None
    taken: bool
    last_seq: int
    blender: str | None
    spent_micros: int
    cost_cap_micros: int | None


@dataclass(frozen=True, slots=True)
class LeaseRow:
    session_id: str
    expires_ms: int


@dataclass(slots=True)
class AttemptRow:
    id: str
    account_id: str
    job_id: str
    task_number: int
    session_id: str
    node: str
    zone: str
    instance_type_id: str
    preemptible: bool
    price_micros: int
    frames: str
    revision: int
    assigned_ms: int
    started_ms: int | None
    started_mono_ms: int | None
    saved_mono_ms: int | None
    ended_ms: int | None
    outcome: Outcome | None
    cause: str | None
    message: str | None
    frames_done: int
    billed_ms: int
    cost_micros: int
    peak_memory_bytes: int | None
    charge_id: str | None


@dataclass(frozen=True, slots=True)
class FrameRow:
    job_id: str
    frame: int
    part: int
    revision: int
    task_number: int
    attempt_id: str
    committed_ms: int
    render_ms: int
    peak_memory_bytes: int | None
    warnings: Json
    look: str | None
    thumbnail_bytes: int | None


@dataclass(frozen=True, slots=True)
class FileRow:
    id: int
    account_id: str
    job_id: str
    frame: int
    part: int
    revision: int
    path: str
    kind: str
    size: int
    md5: str
    sha256: str
    staged: str
    published_ms: int | None
    replaced_by: str | None


@dataclass(frozen=True, slots=True)
class ProgressRow:
    session_id: str
    job_id: str
    attempt_id: str
    frame: int
    fraction: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class LeaderRow:
    name: str
    epoch: int
    holder: str
    ticked_ms: int


@dataclass(slots=True)
class NodeRow:
    name: str
    zone: str
    market: str
    present: bool
    leaving_ms: int | None
    standing: NodeState
    since_ms: int
    counted_from_ms: int
    until_ms: int | None
    times: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class ContentRow:
    account_id: str
    sha256: str
    generation: int
    md5: str
    size: int
    created_ms: int
    last_claimed_ms: int
    condemned_ms: int | None


@dataclass(frozen=True, slots=True)
class ManifestRow:
    account_id: str
    sha256: str
    entries: int
    size: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class LedgerTransactionRow:
    id: str
    account_id: str
    number: int
    at_ms: int
    kind: str
    amount_micros: int
    balance_micros: int
    description: str
    job_id: str | None
    hour_ms: int | None
    sequence: int | None
    actor: str


@dataclass(frozen=True, slots=True)
class BudgetRow:
    id: str
    account_id: str
    project_id: str | None
    job_id: str | None
    period: Literal["month", "total"]
    amount_micros: int
    warn_at: int | None
    hold_at: int | None
    cancel_at: int | None
    mode: Literal["drain", "stop"]
    created_ms: int
    created_by: str
    counted: bool
    period_start_ms: int
    spent_micros: int
    reserved_micros: int
    warned: bool


@dataclass(frozen=True, slots=True)
class ReservationRow:
    session_id: str
    budget_id: str
    account_id: str
    settled_micros: int
    held_micros: int


@dataclass(frozen=True, slots=True)
class BudgetHoldRow:
    job_id: str
    budget_id: str
    account_id: str
    limit_micros: int | None
    period_start_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class RuleRow:
    id: str
    account_id: str
    kind: str
    terms: dict[str, Json]
    enabled: bool
    created_ms: int
    created_by: str


@dataclass(frozen=True, slots=True)
class RuleActionRow:
    rule_id: str
    job_id: str
    subject: str
    account_id: str
    at_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class WebhookRow:
    id: str
    account_id: str
    url: str
    description: str
    types: list[str]
    enabled: bool
    secret_number: int
    position: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    id: str
    account_id: str
    webhook_id: str
    event_id: int
    job_id: str
    type: str
    status: DeliveryStatus
    in_order: bool
    attempts: int
    created_ms: int
    give_up_ms: int
    next_ms: int | None
    tried_ms: int | None
    response_status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class MailRow:
    job_id: str
    state: str
    account_id: str
    event_id: int
    status: MailStatus
    attempts: int
    created_ms: int
    next_ms: int
    error: str | None


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    account_id: str
    user_id: str
    method: str
    path: str
    key: str
    body_sha256: str
    status: int
    answer: Json
    created_ms: int
