"""No docstring, comment, heading or sentence of the docs begins with What, Who or Whoever; a question may."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tests", "chaos", "bench", "conformance", "script", "docs", ".")
OPENING = re.compile(
    r"""(?:^\s*(?:\#+\s|[-*]\s)?|[.!]\s|\"{3}|\#\s|\|\s)(?:What|Who|Whoever)\s(?!.*\?)""", re.M
)


def openings(text: str) -> list[str]:
    return [match[0].strip() for match in OPENING.finditer(text)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_sentence_begins_with_what_or_who(folder: str) -> None:
    paths = ROOT.glob("*.md") if folder == "." else (ROOT / folder).rglob("*.*")
    files = [path for path in paths if path.suffix in {".py", ".md"} and path != Path(__file__).resolve()]
    assert files
    found = {str(path.relative_to(ROOT)): openings(path.read_text()) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"""What a rule does."""', 1),
        ("# Who may read a job", 1),
        ("A rule ends. What it did stays.", 1),
        ("| cost | What an attempt costs |", 1),
        ("What is wrong? The lease.", 0),
        ("See what it did.", 0),
        ("- Whatever the cause, it ends.", 0),
    ],
)
def test_the_check_finds_openings(text: str, count: int) -> None:
    assert len(openings(text)) == count
