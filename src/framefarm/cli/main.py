"""`framefarm`: gathers the command groups. An artist's machine needs no server to run the artist's."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from framefarm import __version__
from framefarm.cli import auth, budgets, jobs, rules

OPERATOR_COMMANDS = {"serve": ("serve", "stop"), "admin": ("admin",), "blender": ("blender",)}
"""Module in `framefarm.cli` → the commands that it registers."""


def build(asked_for: str | None = None) -> typer.Typer:
    """The whole app; or, for a known command, no more of it than that command needs."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Render Blender scenes on a farm of your own.\n\n"
        "Artists: framefarm login URL, then framefarm submit SCENE.blend\n\n"
        "Operators: framefarm serve --data DIR",
    )
    app.callback()(_options)
    for group in (auth, jobs, budgets, rules):
        group.register(app)
    groups = {group.name for group in app.registered_groups}
    if asked_for in groups | {command.name for command in app.registered_commands}:
        return app
    its_own = {module: names for module, names in OPERATOR_COMMANDS.items() if asked_for in names}
    for module, commands in (its_own or OPERATOR_COMMANDS).items():
        _register_operator(app, module, commands)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"framefarm {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options before the command."""


def _register_operator(app: typer.Typer, module: str, commands: tuple[str, ...]) -> None:
    try:
        importlib.import_module(f"framefarm.cli.{module}").register(app)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "framefarm" and error.name != f"framefarm.cli.{module}":
            raise
        for name in commands:
            _register_absent(app, name, error.name or "a module")


def _register_absent(app: typer.Typer, name: str, lacking: str) -> None:
    """A command that only says what to install."""
    anything = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(
        name, context_settings=anything, help="Needs the server: pip install 'framefarm[server,node]'"
    )
    def absent() -> None:
        typer.echo(
            f"error: framefarm {name} needs the server, and {lacking} is not installed."
            " Install it with: pip install 'framefarm[server,node]'",
            err=True,
        )
        raise typer.Exit(1)


def main() -> None:
    """The console script."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    build(words[0] if words else None)()
