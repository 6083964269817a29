"""Every setting, command, option and route is in the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from fastapi import FastAPI

from framefarm.cli.main import build
from framefarm.server.app import ROUTERS
from framefarm.server.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = [
    ("get", "/api/jobs"),
    ("get", "/api/jobs/{job_id}"),
    ("post", "/api/jobs"),
    ("patch", "/api/jobs/{job_id}"),
    ("delete", "/api/jobs/{job_id}"),
    ("get", "/api/projects"),
    ("post", "/api/projects"),
    ("patch", "/api/projects/{project_id}"),
    ("get", "/api/enterprise/instances"),
    ("get", "/api/packages"),
    ("post", "/api/uploads/md5"),
    ("post", "/api/uploads/file"),
    ("get", "/api/billing/current-period"),
    ("get", "/api/billing/transactions"),
    ("post", "/api/auth/login"),
]


def _routes() -> set[tuple[str, str]]:
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    return {(method, path) for path, methods in app.openapi()["paths"].items() for method in methods}


def _options(command: Any, path: str) -> list[tuple[str, str]]:
    if hasattr(command, "commands"):
        return [w for name, sub in command.commands.items() for w in _options(sub, f"{path} {name}")]
    options = [o for p in command.params for o in p.opts if o.startswith("--") and o != "--help"]
    return [(path, ""), *((path, option) for option in options)]


def _default(name: str, value: Any) -> str:
    """A setting's default in the words of the page."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes"):
        unit, size = next(
            (u, s) for u, s in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)) if value >= s
        )
        return f"{value // size} {unit}"
    if name.endswith(("_seconds", "_hours", "_days")):
        return f"{value:g} {name.rsplit('_', 1)[1][0]}"
    return f"`{value}`"


def test_every_setting_is_documented_with_its_meaning_and_default() -> None:
    text = (DOCS / "operator.md").read_text().split("\n## Settings\n")[1]
    rows = {
        n: (meaning, default)
        for n, meaning, default in re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text, re.M)
    }
    assert set(rows) == {f"FRAMEFARM_{n.upper()}" for n in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        meaning, default = rows[f"FRAMEFARM_{name.upper()}"]
        assert default == _default(name, field.default), name
        if name.endswith(("_seconds", "_hours", "_days", "_bytes")):
            assert name.rsplit("_", 1)[1] in meaning, f"{name}: the unit"


def test_every_command_and_option_is_documented() -> None:
    lines = [x for x in (DOCS / "operator.md").read_text().splitlines() if x.startswith("- `framefarm")]
    commands = _options(typer.main.get_command(build()), "framefarm")
    assert commands
    missing = [
        (path, option)
        for path, option in commands
        if not any(
            x.startswith((f"- `{path} ", f"- `{path}`")) and (not option or f"`{option}`" in x) for x in lines
        )
    ]
    assert missing == []


def test_every_route_is_documented() -> None:
    text = (DOCS / "api.md").read_text()
    assert [r for r in _routes() if f"`{r[0].upper()} {r[1]}`" not in text] == []


def test_the_reference_is_in_the_openapi_document() -> None:
    assert set(REFERENCE) <= _routes()
