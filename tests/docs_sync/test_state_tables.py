"""docs/states.md: the arrows of attempts and sessions, and the tables, are those of the rules."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

from framefarm.core.job import Refused, TaskStatus
from framefarm.core.money import billed_ms
from framefarm.core.session_lease import Seen, SessionEvent, SessionState, judge_session, session_after
from framefarm.core.task_outcomes import FARM_LOSSES, Outcome, TaskFacts, task_after

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "states.md").read_text()
RUNNING = TaskFacts(TaskStatus.RUNNING, 0, 0, 0, preemptible_retries=3, task_retries=2)
LIMITS = {
    "failures": ("`task_retries`", RUNNING.task_retries),
    "preemptions": ("`preemptible_retries`", RUNNING.preemptible_retries),
    "losses": (f"{FARM_LOSSES} losses", FARM_LOSSES),
}
"""Counter of a task → its limit, in the page's words and as a number."""
GIVE_UP = 60


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _drawn(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^ *(\w+) --> (\w+)", text, re.MULTILINE))


def _rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first headings are `first`."""
    lines = text.split(f"\n| {first} |", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_an_attempt_is_assigned_then_runs_and_ends_in_an_outcome() -> None:
    outcomes = {str(outcome) for outcome in Outcome}
    drawn = _drawn(_section("Attempt"))
    assert {then for was, then in drawn if was == "running"} == outcomes
    assert {then for was, then in drawn if was == "assigned"} <= {"running", *outcomes}
    assert {was for was, _ in drawn} == {"assigned", "running"}


def test_the_outcomes_change_a_task_as_the_table_states() -> None:
    rows = _rows(_section("Attempt"), "outcome | the task is then")
    stated = {
        outcome.strip("`"): (set(re.findall(r"`(\w+)`", then)), limit, beyond)
        for outcome, then, limit, beyond in rows
    }
    assert len(rows) == len(stated)
    assert stated == {str(outcome): _consequence(outcome) for outcome in Outcome}


def _consequence(outcome: Outcome) -> tuple[set[str], str, str]:
    """(statuses of the task after it, the limit that it counts against, the status beyond that limit)."""
    after = {
        given_back: task_after(RUNNING, outcome, committed_frames=0, given_back=given_back)
        for given_back in (False, True)
    }
    statuses = {str(task.status) for task in after.values()}
    counted = [counter for counter in LIMITS if getattr(after[False], counter) > 0]
    if not counted:
        return statuses, "", ""
    (counter,) = counted
    words, limit = LIMITS[counter]
    last, beyond = (
        task_after(replace(RUNNING, **{counter: count}), outcome, committed_frames=0).status
        for count in (limit - 1, limit)
    )
    assert last in statuses
    return statuses, words, f"`{beyond}`"


def test_the_outcomes_are_billed_as_the_table_states() -> None:
    rows = _rows(_section("Attempt"), "outcome | billed")
    stated = {outcome: billed for outcomes, billed in rows for outcome in re.findall(r"\w+", outcomes)}
    assert stated == {str(outcome): _billed(outcome) for outcome in Outcome}


def _billed(outcome: Outcome) -> str:
    """The table's words for the time billed, from an attempt with a commit half-way and one without."""
    half, none = (
        billed_ms(outcome, started_ms=0, ended_ms=100, last_commit_ms=commit, limit_ms=100)
        for commit in (50, None)
    )
    return {
        (100, 100): "from start to end",
        (50, 0): "from start to the last committed frame",
        (0, 0): "nothing",
    }[half, none]


def test_the_sessions_arrows_are_those_of_the_rules() -> None:
    allowed = set()
    for state in SessionState:
        for event in SessionEvent:
            with suppress(Refused):
                allowed.add((str(state), str(session_after(state, event))))
    assert _drawn(_section("Session")) == {(was, then) for was, then in allowed if was != then}


def test_sessions_are_judged_as_the_table_states() -> None:
    rows = _rows(_section("Session"), "state")
    reached = set()
    for state, seen, (lease, silent), (deadline, late), (owner, owns) in itertools.product(
        SessionState,
        get_args(Seen),
        [("ahead", -1), ("ahead", 0), ("over", 1), ("over", GIVE_UP), ("long over", GIVE_UP + 1)],
        [("ahead", -1), ("ahead", 0), ("over", 1)],
        [("yes", True), ("no", False)],
    ):
        facts = (f"`{state}`", f"`{seen}`", lease, deadline, owner)
        number, stated = next(
            (number, cells[-1])
            for number, cells in enumerate(rows)
            if all(not cell or fact in cell.split(", ") for cell, fact in zip(cells, facts, strict=False))
        )
        reached.add(number)
        found = judge_session(state, seen, silent_ms=silent, deadline_ms=late, owns=owns, give_up_ms=GIVE_UP)
        assert stated == f"`{found}`", facts
    assert reached == set(range(len(rows))), "a row that never counts"
