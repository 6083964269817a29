"""`framefarm login` and `framefarm logout`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from framefarm.cli.options import AsJson, Url, retry_notice
from framefarm.cli.output import clean, command, moment
from framefarm.client import Client, Credentials, LocalProblem, Login


def register(app: typer.Typer) -> None:
    app.command("login")(login)
    app.command("logout")(logout)


def login(
    address: Annotated[
        str | None, typer.Argument(metavar="URL", help="The farm's address, as http://farm.example:8000.")
    ] = None,
    email: Annotated[
        str | None, typer.Option("--email", help="The user's email. Default: asked for on the terminal.")
    ] = None,
    password: Annotated[
        str | None,
        typer.Option("--password", help="Visible to others on this machine: prefer --password-file."),
    ] = None,
    password_file: Annotated[
        str | None,
        typer.Option(
            "--password-file", metavar="FILE|-", help="Read the password from FILE; - is standard input."
        ),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Log in to a farm. The other commands use this farm from then on.

    framefarm login http://farm.example:8000 --email ada@studio.example
    """
    with command(as_json, logging_in=True) as out:
        credentials = Credentials()
        with Client(credentials.url(address or url), on_wait=retry_notice()) as client:
            body = {
                "email": email or _ask("Email", "--email"),
                "password": _password(password, password_file),
            }
            answer = client.post("/api/auth/login", body)
            user, account = answer["user"], answer["account"]
            expires_at = answer.get("expires_at")
            credentials.save(Login(client.url, answer["access_token"], user["email"], expires_at))
            if as_json:
                out.document({"url": client.url, "user": user, "account": account, "expires_at": expires_at})
            who = f"{clean(user['email'])} ({clean(user['role'])} of {clean(account['name'])})"
            out.print(f"Logged in to {client.url} as {who}, until {moment(expires_at)}.")


def _ask(label: str, option: str, *, hide: bool = False) -> str:
    if not sys.stdin.isatty():
        raise LocalProblem(f"{option} is missing, and there is no terminal to ask on.")
    return str(typer.prompt(label, hide_input=hide, err=True))


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
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise LocalProblem(f"The password cannot be read from {file}: {reason}.") from error
    return text.removesuffix("\n").removesuffix("\r")


def logout(url: Url = None, as_json: AsJson = False) -> None:
    """Log out: end the login on this machine and on the farm.

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
        out.print(f"Logged out of {stored.url}.")
