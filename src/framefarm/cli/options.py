"""Options that all of the artist's commands share, and the farm that they lead to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from framefarm.cli.output import clean
from framefarm.client import Client, Credentials, LocalProblem

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The farm, if not FRAMEFARM_URL or the one last logged in to."),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `framefarm jobs` shows it.")]


def client_of(url: str | None) -> Client:
    """The farm to talk to, logged in. Raises LocalProblem if there is no login."""
    login = Credentials().login(url)
    return Client(login.url, login.token, on_wait=patient())


def patient() -> Callable[[str], None] | None:
    """Says on a terminal, once, why it takes so long: the farm is asked again and again for a while."""
    if not sys.stderr.isatty():
        return None
    said: set[str] = set()

    def say(why: str) -> None:
        if not said:
            said.add(why)
            sys.stderr.write(f"{clean(why)} Trying again …\n")

    return say


def pairs(given: list[str], option: str) -> dict[str, str]:
    """`["K=V", …]` as a mapping. Raises LocalProblem, naming the option, for what is no pair."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise LocalProblem(f"{option} {text!r} is not NAME=VALUE.")
        found[name] = value
    return found
