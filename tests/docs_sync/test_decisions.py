"""docs/decisions: every record has its own number, and the index has a line for each, as its heading is."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
ROW = re.compile(r"^\| \[(\d+)\]\((.+?)\) \| (.+?)(?: \(taken back by (\d+)\))? \| (.*) \|$", re.MULTILINE)
TAKEN_BACK = re.compile(r"^Taken back by \[decision (\d+)\]", re.MULTILINE)
SENTENCE_LENGTH = 120


def rows() -> list[tuple[int, Path, str, str, str]]:
    """(number, file, title, the number of the record that took it back or "", what was decided)."""
    found = ROW.findall((FOLDER / "README.md").read_text())
    return [(int(number), FOLDER / file, *cells) for number, file, *cells in found]


def test_the_index_has_every_record_once() -> None:
    numbers = [number for number, *_ in rows()]
    assert numbers == sorted(set(numbers))
    assert sorted(file for _, file, *_ in rows()) == sorted(FOLDER.glob("0*.md"))


def test_the_index_has_the_records_titles() -> None:
    for number, file, title, *_ in rows():
        assert file.name.startswith(f"{number:04d}-")
        assert file.read_text().startswith(f"# {number}. {title}\n")


def test_the_index_names_what_took_a_record_back() -> None:
    for _, file, _, taken_back_by, _ in rows():
        assert TAKEN_BACK.findall(file.read_text()) == [taken_back_by] * bool(taken_back_by), file.name


def test_the_index_states_each_choice_in_one_sentence() -> None:
    for number, _, title, _, choice in rows():
        assert re.fullmatch(r"[A-Z`](?:[^.]|\.(?=\S))+\.", choice), f"{number}: {choice}"
        assert len(choice) <= SENTENCE_LENGTH and choice.rstrip(".") != title, f"{number}: {choice}"
