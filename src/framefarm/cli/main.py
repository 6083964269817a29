"""The `framefarm` command: gathers all command groups. Artists' commands need no server packages."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from framefarm import __version__
from framefarm.cli import auth, budgets, jobs, rules

OPERATOR_COMMANDS = {"serve": ("serve", "stop"), "admin": ("admin",), "blender": ("blender",)}
"""Module in `framefarm.cli` → the commands that it registers. They need the server's packages."""


def build(command_name: str | None = None) -> typer.Typer:
    """The app with all commands. Given a `command_name`, only the modules that it needs are imported."""
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
    if command_name in groups | {command.name for command in app.registered_commands}:
        return app
    needed = {module: names for module, names in OPERATOR_COMMANDS.items() if command_name in names}
    for module, commands in (needed or OPERATOR_COMMANDS).items():
        _register_operator(app, module, commands)
    return app


def _print_version(requested: bool) -> None:
    if requested:
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
            _register_unavailable(app, name, error.name or "a module")


def _register_unavailable(app: typer.Typer, name: str, missing_module: str) -> None:
    """Register a stand-in that fails and names the packages to install. It accepts any arguments."""
    any_arguments = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(
        name, context_settings=any_arguments, help="Needs the server: pip install 'framefarm[server,node]'"
    )
    def unavailable() -> None:
        typer.echo(
            f"error: framefarm {name} needs the server, and {missing_module} is not installed."
            " Install it with: pip install 'framefarm[server,node]'",
            err=True,
        )
        raise typer.Exit(1)


def main() -> None:
    """Run the command line: the entry point of the console script."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    build(words[0] if words else None)()
