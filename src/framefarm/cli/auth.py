"""`framefarm login` and `framefarm logout`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from framefarm.cli import formatting
from framefarm.cli.options import AsJson, Url, patient
from framefarm.cli.output import clean, command
from framefarm.client import Client, Credentials, LocalProblem, Login


def register(app: typer.Typer) -> None:
    app.command("login")(login)
    app.command("logout")(logout)


def login(
    address: Annotated[
        str | None, typer.Argument(metavar="URL", help="The farm, for example http://farm.example:8000.")
    ] = None,
    email: Annotated[
        str | None, typer.Option("--email", help="Asked for on a terminal if not given.")
    ] = None,
    password: Annotated[
        str | None, typer.Option("--password", help="Others on this machine may see it: prefer the next.")
    ] = None,
    password_file: Annotated[
        str | None,
        typer.Option("--password-file", metavar="FILE|-", help="Read the password; - is standard input."),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Log in to a farm. It becomes the farm that all other commands talk to.

    framefarm login http://farm.example:8000 --email ada@studio.example
    """
    with command(as_json, logging_in=True) as out:
        credentials = Credentials()
        with Client(credentials.url(address or url), on_wait=patient()) as client:
            secret = {
                "email": email or _ask("Email", "--email"),
                "password": _password(password, password_file),
            }
            answer = client.post("/api/auth/login", secret)
            user, account = answer["user"], answer["account"]
            expires_at = answer.get("expires_at")
            credentials.save(Login(client.url, answer["access_token"], user["email"], expires_at))
            if as_json:
                out.document({"url": client.url, "user": user, "account": account, "expires_at": expires_at})
            who = f"{clean(user['email'])} ({clean(user['role'])} of {clean(account['name'])})"
            out.say(f"Logged in to {client.url} as {who}, until {formatting.moment(expires_at)}.")


def _ask(what: str, option: str, *, hide: bool = False) -> str:
    if not sys.stdin.isatty():
        raise LocalProblem(f"{option} is missing, and there is no terminal to ask on.")
    return str(typer.prompt(what, hide_input=hide, err=True))


def _password(given: str | None, file: str | None) -> str:
    if given is not None and file is not None:
        raise LocalProblem("Give --password or --password-file, not both.")
    if given is not None:
        return given
    if file is None:
        return _ask("Password", "--password-file", hide=True)
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise LocalProblem(f"The password cannot be read from {file}: {why}.") from error
    return text.removesuffix("\n").removesuffix("\r")


def logout(url: Url = None, as_json: AsJson = False) -> None:
    """End the login, here and on the farm.

    framefarm logout
    """
    with command(as_json) as out:
        credentials = Credentials()
        stored = credentials.login(url)
        credentials.forget(stored.url)
        with Client(stored.url, stored.token) as client:
            client.post("/api/auth/logout")
        if as_json:
            out.document({"url": stored.url, "logged_out": True})
        out.say(f"Logged out of {stored.url}.")
