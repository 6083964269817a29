"""Wrangler rules on the public API: what an account wants done with its jobs when nobody looks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt

from framefarm.protocol.base import Strict

Seconds = Annotated[StrictInt, Field(ge=1, le=90 * 24 * 3600)]


class MaxTaskRuntime(Strict):
    """Ends, or points at, a try of a task that runs longer."""

    kind: Literal["max_task_runtime"]
    seconds: Seconds
    action: Literal["kill", "retry", "notify"] = "retry"
    enabled: StrictBool = True


class SpotToOnDemand(Strict):
    """Lets a preemptible job that waited so long for a machine go on demand."""

    kind: Literal["spot_to_on_demand"]
    wait_seconds: Seconds
    min_priority: Annotated[StrictInt, Field(ge=0, le=100)] = 0
    enabled: StrictBool = True


class StalledUpload(Strict):
    """Reminds of files that do not come, and fails their job in the end; null: not that one."""

    kind: Literal["stalled_upload"]
    remind_after_seconds: Seconds | None = 3600
    fail_after_seconds: Seconds | None = None
    enabled: StrictBool = True


class ChangeZone(Strict):
    """Refused: no engine of this farm knows zones, or its jobs take machines of every zone anyway."""

    kind: Literal["change_zone"]
    wait_seconds: Seconds
    enabled: StrictBool = True


NewRule = Annotated[MaxTaskRuntime | SpotToOnDemand | StalledUpload | ChangeZone, Field(discriminator="kind")]


class RuleChange(Strict):
    enabled: StrictBool


class Rule(BaseModel):
    """`terms`: the kind's own fields. `acted`: how often it has acted, `last_at` when, `last_reason` why."""

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
