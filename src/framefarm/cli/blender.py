"""`framefarm blender …`: the operator's commands for the Blenders that a farm offers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from framefarm.core.errors import FarmError, InvalidInput
from framefarm.node import blender_archives, blender_installs
from framefarm.node.installed import Installed

Data = Annotated[
    Path, typer.Option("--data", envvar="FRAMEFARM_DATA", help="The farm's data directory.", metavar="DIR")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Default = Annotated[bool, typer.Option("--default", help="Use this Blender for jobs that name none.")]

commands = typer.Typer(no_args_is_help=True, help="Install Blenders, offer them on the farm, list them.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="blender")


@commands.command("install")
def install(
    data: Data,
    version: Annotated[
        str | None, typer.Argument(help="A series, as 4.2, 5.0 or 5.2, or a release, as 4.2.23.")
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="FILE", help="Install Blender's own archive for Linux instead."),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="SUM", help="The archive's checksum, as its publisher says."),
    ] = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Install the newest release, if the series is installed.")
    ] = False,
    default: Default = False,
    as_json: AsJson = False,
) -> None:
    """Install a Blender for all users of this machine, and offer it on the farm.

    framefarm blender install 4.2 --data farm
    """
    with _plain_errors():
        progress = _discard if as_json else typer.echo
        if (version is None) == (archive is None):
            raise InvalidInput.of("version", "name either a version or an --archive", version or "")
        if (sha256 is None) != (archive is None):
            raise InvalidInput.of("sha256", "an --archive and its --sha256 belong together", sha256 or "")
        if archive is not None and sha256 is not None:
            found = blender_archives.install_archive(archive, sha256, on_step=progress)
        else:
            assert version is not None
            found = blender_installs.install_bpy(version, upgrade=upgrade, on_step=progress)
        _offer(data, found, default, as_json)


@commands.command("add")
def add(
    executable: Annotated[
        Path, typer.Option("--executable", metavar="PATH", help="Path of the Blender program.")
    ],
    data: Data,
    default: Default = False,
    as_json: AsJson = False,
) -> None:
    """Offer a Blender that is installed already.

    framefarm blender add --executable /usr/bin/blender --data farm
    """
    with _plain_errors():
        _offer(data, blender_installs.describe_executable(executable), default, as_json)


@commands.command("list")
def list_packages(data: Data, as_json: AsJson = False) -> None:
    """List the Blenders that the farm offers."""
    with _plain_errors():
        packages: list[dict[str, Any]] = _run(data, "package.list", {})["packages"]
        if as_json:
            typer.echo(json.dumps({"data": packages}, indent=2))
            return
        if not packages:
            typer.echo("The farm offers no Blender yet: framefarm blender install 4.2")
        for p in packages:
            mark = "  (default)" if p["is_default"] else ""
            lacks = f"  lacks {', '.join(p['lacks'])}" if p["lacks"] else ""
            typer.echo(
                f"{p['id']:<19} {p['release']:<9} {p['kind']:<11} {p['status']:<10} {p['path']}{mark}{lacks}"
            )


def _offer(data: Path, install: Installed, default: bool, as_json: bool) -> None:
    answer = _run(data, "package.register", {**install.as_dict(), "default": default})
    if as_json:
        typer.echo(json.dumps({**install.as_dict(), **answer, "status": "available"}, indent=2))
    else:
        typer.echo(f"{install.id} is available: Blender {install.release} ({install.path})")


def _run(data: Path, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from framefarm.server.operator.control_socket import run  # takes half a second: not for --help

    return run(data, command, arguments)


def _discard(_: str) -> None:
    """Drop a line of progress, which would not fit into a JSON document."""


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Print a FarmError as one sentence on standard error, and exit with code 1."""
    try:
        yield
    except FarmError as error:
        typer.echo(f"error: {error.detail}", err=True)
        raise typer.Exit(1) from error
