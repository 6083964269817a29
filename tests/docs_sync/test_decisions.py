"""docs/decisions: every record has a number of its own, and the list names each as its heading does."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
ROW = re.compile(r"^\| \[(\d+)\]\((.+?)\) \| (.+?)(?: \(taken back by \d+\))? \|$", re.MULTILINE)


def test_the_list_of_decisions_names_each_once() -> None:
    listed = ROW.findall((FOLDER / "README.md").read_text())
    assert [int(number) for number, _, _ in listed] == list(range(1, len(listed) + 1))
    assert sorted(name for _, name, _ in listed) == sorted(p.name for p in FOLDER.glob("0*.md"))
    for number, name, title in listed:
        assert name.startswith(f"{int(number):04d}-")
        assert (FOLDER / name).read_text().startswith(f"# {number}. {title}\n")
