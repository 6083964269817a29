"""docs/states.md draws every arrow that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from state_walk import Arrow, arrows  # type: ignore[import-not-found]

from framefarm.core.job import JobStatus, TaskStatus
from framefarm.core.session_lease import SessionState
from framefarm.core.task_outcomes import Outcome

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "states.md").read_text()
ARTIST = (Path(__file__).resolve().parents[2] / "docs" / "artist.md").read_text()
ARROW = re.compile(r"^ *(\w+) --> (\w+)", re.MULTILINE)


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _drawn(text: str) -> set[Arrow]:
    figures = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    return {arrow for figure in figures for arrow in ARROW.findall(figure)}


@pytest.fixture(scope="module")
def real() -> tuple[set[Arrow], set[Arrow]]:
    return arrows()


def test_the_model_reaches_every_status(real: tuple[set[Arrow], set[Arrow]]) -> None:
    of_jobs, of_tasks = real
    assert {s for arrow in of_jobs for s in arrow} == {str(s) for s in JobStatus}
    assert {s for arrow in of_tasks for s in arrow} == {str(s) for s in TaskStatus}


def test_the_jobs_arrows_are_those_of_the_rules(real: tuple[set[Arrow], set[Arrow]]) -> None:
    assert _drawn(_section("Job")) == real[0]


def test_the_tasks_arrows_are_those_of_the_rules(real: tuple[set[Arrow], set[Arrow]]) -> None:
    assert _drawn(_section("Task")) == real[1]


def test_a_running_attempt_ends_in_every_outcome() -> None:
    assert {then for was, then in _drawn(_section("Attempt")) if was == "running"} == {
        str(o) for o in Outcome
    }


def test_every_state_of_a_session_is_named() -> None:
    page = _section("Session")
    assert [s for s in SessionState if not re.search(rf"\b{s}\b", page)] == []


def test_the_artists_figure_is_part_of_the_jobs_arrows(real: tuple[set[Arrow], set[Arrow]]) -> None:
    drawn = _drawn(ARTIST.split("## Status of a job")[1].split("\n## ")[0])
    assert drawn
    assert drawn <= real[0]
