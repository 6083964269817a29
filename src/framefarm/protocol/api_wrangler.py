"""Requests and answers of the public API for wrangler rules, which act on stuck jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt

from framefarm.protocol.base import Strict

Seconds = Annotated[StrictInt, Field(ge=1, le=90 * 24 * 3600)]


class MaxTaskRuntime(Strict):
    """Ends an attempt that runs longer than `seconds`, or warns of it."""

    kind: Literal["max_task_runtime"]
    seconds: Seconds
    action: Literal["kill", "retry", "notify"] = "retry"
    enabled: StrictBool = True


class SpotToOnDemand(Strict):
    """Moves a preemptible job that waited `wait_seconds` for a machine to on-demand machines."""

    kind: Literal["spot_to_on_demand"]
    wait_seconds: Seconds
    min_priority: Annotated[StrictInt, Field(ge=0, le=100)] = 0
    enabled: StrictBool = True


class StalledUpload(Strict):
    """Reminds of missing files that stopped arriving, and fails their job later; null: no reminder, or no
    failure."""

    kind: Literal["stalled_upload"]
    remind_after_seconds: Seconds | None = 3600
    fail_after_seconds: Seconds | None = None
    enabled: StrictBool = True


class ChangeZone(Strict):
    """Always refused: either the farm's engine has no zones, or jobs use machines of every zone already."""

    kind: Literal["change_zone"]
    wait_seconds: Seconds
    enabled: StrictBool = True


NewRule = Annotated[MaxTaskRuntime | SpotToOnDemand | StalledUpload | ChangeZone, Field(discriminator="kind")]


class RuleChange(Strict):
    enabled: StrictBool


class Rule(BaseModel):
    """A rule. `terms`: fields of its kind. `acted`: number of its actions; `last_at`, `last_reason`: the
    latest one."""

    id: str
    kind: Literal["max_task_runtime", "spot_to_on_demand", "stalled_upload"]
    terms: dict[str, int | str | None]
    enabled: bool
    created_at: str
    acted: int
    last_at: str | None
    last_reason: str | None


class RulePage(BaseModel):
    data: list[Rule]
    next_cursor: str | None
