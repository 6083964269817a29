"""Paths and decision records named in the source, the tests, the programs and the docs lead to files.

A path starts at the repository's root, at `src/framefarm`, at `tests` or at the folder of the file that names
it; a bare file name in backticks (`tables.py`) is the name of some file. A decision is named by its file
(`docs/decisions/0012-given-back-leaves-no-trace.md`): a number alone cannot be checked, and a file's name
says what was decided.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "framefarm"
FOLDERS = ["src", "tests", "chaos", "bench", "conformance", "script", "docs", "deploy"]
PAGES = ["README.md", "CONTRIBUTING.md"]  # the change log names what was renamed, too
TEXT = {".py", ".md", ".sh", ".mako", ".txt", ""}
STARTS = {
    *(p.name for p in ROOT.iterdir() if p.is_dir() and p.name in FOLDERS),
    *(p.name for p in PACKAGE.iterdir() if p.is_dir()),
}
"""First folders of a path that is taken for one of the repository's."""

DOCS_PATH = re.compile(r"(?<![\w/.-])docs/[\w./-]*\w")
BACKTICKS = re.compile(r"`([^`\s]+)`")
PLAIN = re.compile(rf"(?<![\w/.<>{{}}-])(?:{'|'.join(sorted(STARTS))})/[\w/-]+\.py\b")
MODULE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.py")
DOTTED = re.compile(
    r"\bframefarm((?:\.(?:cli|client|core|node|protocol|sandboxing|server))(?:\.\w+)+)"
    r"|`((?:cli|core|protocol|sandboxing|server)(?:\.\w+)+)"  # `client.…` and `node.…` may be a variable's
)
LINKED_DECISION = re.compile(r"\[decision (\d+)\]\([\w./]*?(\d{4})-[\w-]+\.md\)")
BARE_DECISION = re.compile(
    r"(?i)\bdecisions? (?:no\. ?|number )?\d+|(?<![\w/.])00(?:0[1-9]|1\d|2\d)(?=[).,;:]*\s)"
)


def texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS, *PAGES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [p for p in paths if p.suffix in TEXT and p.is_file() and p != Path(__file__)]


TEXTS = texts()
NAMES = {p.name for p in TEXTS}


def dead_docs_paths(text: str) -> Iterator[str]:
    """`docs/…` paths of which there is no file or folder."""
    return (path for path in DOCS_PATH.findall(text) if not (ROOT / path).exists())


def is_there(path: str, folder: Path) -> bool:
    bases = (ROOT, PACKAGE, ROOT / "tests", folder)
    return any((base / name).exists() for base in bases for name in (path, f"{path}.py"))


def dead_paths(text: str, folder: Path) -> Iterator[str]:
    """Paths of which there is no file or folder, in a text that is stored in `folder`."""
    for quoted in BACKTICKS.findall(text):
        path = quoted.partition("::")[0].partition("#")[0]
        if "/" not in path:
            dead = MODULE.fullmatch(path) and path not in NAMES
        else:
            ours = re.fullmatch(r"[\w./-]+", path) and path.split("/")[0] in STARTS
            dead = (ours or MODULE.fullmatch(path)) and not is_there(path, folder)
        if dead:
            yield quoted
    yield from (path for path in PLAIN.findall(text) if not is_there(path, folder))


def dead_modules(text: str) -> Iterator[str]:
    """Dotted names of modules, or of names in modules, of which there is none."""
    for found in DOTTED.finditer(text):
        at = PACKAGE
        for name in (found[1] or found[2]).strip(".").split("."):
            if (at / name).is_dir():
                at /= name
            elif at.is_dir() and (at / f"{name}.py").is_file():
                at /= f"{name}.py"
            else:
                source = at if at.is_file() else at / "__init__.py"
                if not source.is_file() or not re.search(rf"\b{name}\b", source.read_text()):
                    yield found[0]
                break


def wrong_decisions(text: str) -> Iterator[str]:
    """Links whose number is not that of their file, and numbers without a file."""
    yield from (link[0] for link in LINKED_DECISION.finditer(text) if int(link[1]) != int(link[2]))
    yield from (bare[0] for bare in BARE_DECISION.finditer(LINKED_DECISION.sub("", text)))


def test_the_texts_are_found() -> None:
    folders = {p.relative_to(ROOT).parts[0] for p in TEXTS}
    assert folders >= {*FOLDERS[:-1], "README.md"}


@pytest.mark.parametrize("room", FOLDERS + PAGES)
def test_docs_paths_lead_to_files(room: str) -> None:
    found = [(p, list(dead_docs_paths(p.read_text()))) for p in TEXTS if p.relative_to(ROOT).parts[0] == room]
    assert [f"{p.relative_to(ROOT)}: {path}" for p, dead in found for path in dead] == []


@pytest.mark.parametrize("room", FOLDERS + PAGES)
def test_paths_in_backticks_lead_to_files(room: str) -> None:
    found = [
        (p, list(dead_paths(p.read_text(), p.parent))) for p in TEXTS if p.relative_to(ROOT).parts[0] == room
    ]
    assert [f"{p.relative_to(ROOT)}: {path}" for p, dead in found for path in dead] == []


@pytest.mark.parametrize("room", [*FOLDERS[:-1], *PAGES])
def test_dotted_names_lead_to_modules(room: str) -> None:
    found = [(p, list(dead_modules(p.read_text()))) for p in TEXTS if p.relative_to(ROOT).parts[0] == room]
    assert [f"{p.relative_to(ROOT)}: {path}" for p, dead in found for path in dead] == []


@pytest.mark.parametrize("room", FOLDERS + PAGES)
def test_decisions_are_named_by_their_file(room: str) -> None:
    skipped = {ROOT / "docs" / "decisions" / "README.md"}
    found = [
        (p, list(wrong_decisions(p.read_text())))
        for p in TEXTS
        if p.relative_to(ROOT).parts[0] == room and p not in skipped
    ]
    assert [f"{p.relative_to(ROOT)}: {text}" for p, wrong in found for text in wrong] == []
