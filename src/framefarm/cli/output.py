"""Output of commands: text for people, JSON for programs, and control characters from titles removed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from framefarm.client.errors import FarmError, Incomplete, LoginNeeded, NotLoggedIn, Refused, Unreachable

MICROS_PER_UNIT = 1_000_000
"""Micro-dollars in a dollar."""

PIPED_WIDTH = 200
"""Columns for tables where standard output is no terminal: wide enough to cut nothing off."""

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LINE_CONTROLS = re.compile("[\t\n]+")


class ExitCode(IntEnum):
    """Exit codes of the artist's commands. docs/artist.md explains them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    HOLDING = 3
    LOGIN_NEEDED = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


def clean(text: object, *, lines: bool = False) -> str:
    """Text of any origin, without escape sequences, control characters and direction overrides.

    `lines` keeps line breaks and tabs: for logs.
    """
    bare = _CONTROLS.sub("", _ESCAPES.sub("", str(text).replace("\r\n", "\n")))
    return bare if lines else _LINE_CONTROLS.sub(" ", bare)


def money(amount: Mapping[str, Any] | None) -> str:
    """Text of an amount in micro-dollars: `$12.35`, `$0.1234`, `$0.000048`. Computed in integers."""
    if amount is None:
        return "–"
    micros, currency = int(amount["amount_micros"]), str(amount.get("currency", "USD"))
    cents = MICROS_PER_UNIT // 100
    digits = 2 if abs(micros) >= MICROS_PER_UNIT or micros % cents == 0 else 4 if abs(micros) >= cents else 6
    step = 10 ** (6 - digits)
    whole, rest = divmod(abs(micros), step)
    rounded = whole + (1 if rest * 2 > step or (rest * 2 == step and whole % 2) else 0)
    units, fraction = divmod(rounded, 10**digits)
    sign = "-" if micros < 0 and rounded else ""
    unit = "$" if currency == "USD" else f"{clean(currency)} "
    return f"{sign}{unit}{units:,}.{fraction:0{digits}d}"


def size(count: float) -> str:
    """Text of a number of bytes: `1.5 MB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """Text of a time in seconds: `4.2 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{rest} s"


def plural(count: int, word: str) -> str:
    """A count with its noun: `1 frame`, `1,200 frames`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def moment(rfc3339: str | None) -> str:
    """Text of an RFC 3339 time in UTC: `2026-11-24T10:15:30.123Z` → `2026-11-24 10:15:30 UTC`."""
    return f"{clean(rfc3339)[:19].replace('T', ' ')} UTC" if rfc3339 else "–"


class Output:
    """Prints a command's result to standard output, and all else to standard error."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.names: Mapping[str, str] = {}
        """The API's fields → the command's arguments and options, for errors."""
        self.out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = PIPED_WIDTH
        self.err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def document(self, value: Any) -> None:
        """Print the whole result as one JSON document."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not self.out.is_terminal) + "\n")
        sys.stdout.flush()

    def print(self, line: Any = "", style: str | None = None) -> None:
        """Print a line of the result. Without effect with `--json`."""
        if not self.as_json:
            self.out.print(line, style=style)

    def info(self, line: str) -> None:
        """Print a line about the command's progress. Without effect with `--json`."""
        if not self.as_json:
            self.err.print(clean(line))

    def warn(self, line: str) -> None:
        """Print a warning, with `--json` too."""
        self.err.print(f"warning: {clean(line)}", style="yellow")

    @contextmanager
    def bytes_bar(self, label: str, total_bytes: int) -> Iterator[Progress]:
        """A progress bar in bytes, with one task. Hidden with `--json` and where there is no terminal."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=36),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=self.err,
            transient=True,
            disable=self.as_json or not self.err.is_terminal,
        )
        bar.add_task(label, total=total_bytes)
        with bar:
            yield bar


@contextmanager
def command(as_json: bool, *, logging_in: bool = False) -> Iterator[Output]:
    """The context that every command runs in: prints errors on standard error and exits with their code.

    `logging_in`: the command is the login itself, so its errors do not advise to log in. Raises typer.Exit.
    """
    output = Output(as_json)
    try:
        yield output
    except FarmError as error:
        _print_error(output, error, logging_in)
        raise typer.Exit(_code(error)) from error
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _code(error: FarmError) -> ExitCode:
    if isinstance(error, LoginNeeded | NotLoggedIn):
        return ExitCode.LOGIN_NEEDED
    return ExitCode.UNREACHABLE if isinstance(error, Unreachable) else ExitCode.FAILED


def _print_error(output: Output, error: FarmError, logging_in: bool) -> None:
    if output.as_json:
        sys.stderr.write(json.dumps(_as_document(error)) + "\n")
        return
    lines = [f"error: {clean(error.detail)}"]
    if isinstance(error, Refused) and error.errors:
        lines = ["error: the farm refused the request:"]
        for wrong in error.errors:
            given = "" if wrong.given is None else f" (given: {clean(json.dumps(wrong.given))[:200]})"
            lines.append(f"  {clean(_option_of(output.names, wrong.field))}: {clean(wrong.message)}{given}")
    if isinstance(error, Incomplete):
        lines += [f"  {clean(path)}: {clean(problem)}" for path, problem in error.problems]
    if isinstance(error, LoginNeeded) and not logging_in:
        lines.append("  Log in again: framefarm login")
    elif isinstance(error, Refused) and error.status >= 500 and error.request_id:
        lines.append(f"  The farm's log has more under request {clean(error.request_id)}.")
    for line in lines:
        output.err.print(line, style="red" if line.startswith("error:") else None)


def _option_of(names: Mapping[str, str], field: str) -> str:
    """The option that sets a field, by the command's `names`: `metadata.shot` → `--metadata (shot)`."""
    parts = field.replace("[", ".").replace("]", "").split(".")
    for end in range(len(parts), 0, -1):
        if (name := names.get(".".join(parts[:end]))) is not None:
            rest = ".".join(p for p in parts[end:] if not p.isdecimal())
            return f"{name} ({rest})" if rest else name
    return names.get(parts[-1], field)


def _as_document(error: FarmError) -> dict[str, Any]:
    document: dict[str, Any] = {"title": error.title, "detail": error.detail}
    if isinstance(error, Refused):
        document |= error.problem
    if isinstance(error, Incomplete):
        document["files"] = [{"path": path, "message": problem} for path, problem in error.problems]
    return {"error": document}
