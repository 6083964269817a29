"""Options shared by the artist's commands, and the client that they select."""

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
    typer.Option(
        "--url", metavar="URL", help="The farm's address. Default: FRAMEFARM_URL, or the last login's."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `framefarm jobs` shows it.")]


def client_of(url: str | None) -> Client:
    """A client of the selected farm, logged in. Raises LocalProblem if there is no login."""
    login = Credentials().login(url)
    return Client(login.url, login.token, on_wait=retry_notice())


def retry_notice() -> Callable[[str], None] | None:
    """A callback that prints, once, why the client retries a call. None where there is no terminal."""
    if not sys.stderr.isatty():
        return None
    printed: set[str] = set()

    def notify(reason: str) -> None:
        if not printed:
            printed.add(reason)
            sys.stderr.write(f"{clean(reason)} Retrying …\n")

    return notify


def pairs(given: list[str], option: str) -> dict[str, str]:
    """`["NAME=VALUE", …]` as a mapping. Raises LocalProblem, naming `option`, if a text has another form."""
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise LocalProblem(f"{option} {text!r} is not NAME=VALUE.")
        values[name] = value
    return values
