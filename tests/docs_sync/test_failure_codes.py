"""Every failure code, of failures and of warnings, is in the table, in use, in the docs, and names a test."""

from __future__ import annotations

import re
from pathlib import Path

from framefarm.core.failure_codes import CAUSES, explain

ROOT = Path(__file__).parents[2]
SOURCE = [p for p in (ROOT / "src").rglob("*.py") if p.name != "failure_codes.py"]
CALLS = re.compile(
    r'(?:Failure|OutputRejected|Unrenderable|explain|opened\.warn|self\._fail|_failed)\(\s*"([a-z_]+)"'
    r'|(?:cause=|"code": |"cause": )"([a-z_]+)"'
)


def test_every_cause_named_in_the_source_is_in_the_table() -> None:
    named = {
        positional or keyword for path in SOURCE for positional, keyword in CALLS.findall(path.read_text())
    }
    assert len(named) > 30
    assert sorted(named - set(CAUSES)) == []


def test_every_cause_of_the_table_is_used() -> None:
    text = "\n".join(path.read_text() for path in SOURCE)
    assert [code for code in CAUSES if f'"{code}"' not in text] == []


def test_every_cause_is_in_the_docs_with_its_remedy() -> None:
    text = (ROOT / "docs" / "failures.md").read_text()
    assert [c.code for c in CAUSES.values() if f"| `{c.code}` |" not in text or c.remedy not in text] == []


def test_every_cause_has_a_test_by_its_name() -> None:
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"def (test_\w+)\(", tests)
    assert [c for c in CAUSES if not any(n == f"test_{c}" or n.startswith(f"test_{c}_") for n in names)] == []


def test_a_sentence_with_its_facts_has_no_gaps_and_ends_with_the_remedy() -> None:
    for cause in CAUSES.values():
        text = explain(cause.code, dict.fromkeys(re.findall(r"{(\w+)}", cause.sentence), " x"))
        assert "{" not in text and text.endswith(cause.remedy) and cause.remedy.endswith(".")
