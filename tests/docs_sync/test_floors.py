"""docs/developer.md draws the real imports of the packages, and the floors of the server's contract."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "framefarm"
SERVER = PACKAGE / "server"
PAGE = (ROOT / "docs" / "developer.md").read_text()
PACKAGES = sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file())


def contracts() -> list[dict[str, Any]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layered = [c for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    assert layered
    return layered


def floors(container: str | None) -> list[list[str]]:
    """The layers of the contract on this container (None: the packages), from top to bottom, each sorted."""
    (layers,) = (
        contract["layers"]
        for contract in contracts()
        if contract.get("containers") == ([container] if container else None)
    )
    return [sorted(re.findall(r"[\w.]+", layer)) for layer in layers]


def package_imports() -> set[tuple[str, str]]:
    """(package, the package it imports) by the import statements in src/framefarm."""
    arrows = set()
    for package in PACKAGES:
        for path in (PACKAGE / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                modules = []
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module == "framefarm":
                    modules = [f"framefarm.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                imported = {m.split(".")[1] for m in modules if m.startswith("framefarm.")}
                arrows |= {(package, other) for other in imported & set(PACKAGES) if other != package}
    return arrows


def figure() -> str:
    """The figure that the page must have."""
    lines = ["flowchart TB", '  subgraph packages["framefarm: each arrow is an import"]']
    lines += [f"    {package} --> {other}" for package, other in sorted(package_imports())]
    lines += ["  end", '  subgraph floors["framefarm.server: each floor imports only floors below"]']
    for number, floor in enumerate(floors("framefarm.server"), start=1):
        above = f"floor{number - 1} --> " if number > 1 else ""
        lines.append(f'    {above}floor{number}["{" · ".join(floor)}"]')
    return "\n".join([*lines, "  end", "  server -.- floor1"])


def test_the_figure_is_that_of_the_contracts_and_imports() -> None:
    (drawn,) = re.findall(r"```mermaid\n(flowchart TB\n  subgraph packages.*?)\n```", PAGE, re.DOTALL)
    assert drawn == figure(), f"docs/developer.md should draw:\n{figure()}"


def test_the_contract_has_a_floor_for_every_package() -> None:
    assert sorted(name for floor in floors(None) for name in floor) == [f"framefarm.{p}" for p in PACKAGES]


def test_every_package_and_every_part_of_the_server_has_a_line() -> None:
    lines = re.findall(r"^\| `([\w/.]+)` \| \S", PAGE, re.MULTILINE)
    parts = {f"{package}/" for package in PACKAGES}
    parts |= {f"server/{part.name}/" for part in SERVER.iterdir() if any(part.glob("*.py"))}
    parts |= {f"server/{part.name}" for part in SERVER.glob("*.py") if part.name != "__init__.py"}
    ours = re.compile(rf"({'|'.join(PACKAGES)})/|server/[\w.]+/?")
    named = [line for line in lines if ours.fullmatch(line)]
    assert sorted(named) == sorted(parts)
