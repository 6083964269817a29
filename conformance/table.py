"""The table in docs/conformance.md, and the results that it is written from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from declarations import Scene, about_feature
from verdicts import Verdict

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conformance.md"
VERSIONS = ("4.2", "4.5", "5.0", "5.2")
BEGIN = "<!-- written by script/conformance -->"
WORDS = {
    "equal": "equal",
    "near": "near",
    "told": "told",
    "differs": "differs",
    "wrong": "**wrong**",
    "not run": "·",
}
Results = dict[tuple[str, str], Verdict]


def read(path: Path) -> Results:
    """The last results by scene and version; none if there is no file."""
    rows = json.loads(path.read_text()) if path.exists() else []
    return {(row["scene"], row["version"]): Verdict(**row) for row in rows}


def store(path: Path, verdicts: list[Verdict]) -> None:
    """Put the verdicts in place of older ones of the same scenes and versions."""
    found = read(path) | {(one.scene, one.version): one for one in verdicts}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([one.as_dict() for one in found.values()], indent=1))


def write(scenes: list[Scene], results: Results) -> None:
    """Write the tables below the page's own text."""
    head, _, _ = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n\n" + text(scenes, results))


def text(scenes: list[Scene], results: Results) -> str:
    """The summary, the list of differences and a table for each feature, in Markdown."""
    features = list(dict.fromkeys(one.feature for one in scenes))
    lines = ["## Summary", "", _row("feature", "scenes", *VERSIONS), "|---|---|" + "---|" * len(VERSIONS)]
    for feature in features:
        those = [one for one in scenes if one.feature == feature]
        cells = [_summary(those, version, results) for version in VERSIONS]
        lines.append(_row(f"[{about_feature(feature)}](#{feature})", str(len(those)), *cells))
    cells = [_summary(scenes, version, results) for version in VERSIONS]
    lines += [_row("all", str(len(scenes)), *cells), "", "## Differences", ""]
    lines += _explained(scenes, results) or ["Nothing."]
    for feature in features:
        lines += ["", f"## {feature}", "", about_feature(feature) + ".", ""]
        lines += [_row("scene", "what it shows", *VERSIONS), "|---|---|" + "---|" * len(VERSIONS)]
        for one in (one for one in scenes if one.feature == feature):
            about = one.about + (f" (within {one.tolerance:g}: {one.reason})" if one.tolerance else "")
            lines.append(_row(f"`{one.id}`", about, *(_cell(one, version, results) for version in VERSIONS)))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(scene: Scene, version: str, results: Results) -> str:
    if not scene.applies(version):
        return "–"
    found = results.get((scene.id, version))
    return WORDS[found.outcome] if found else WORDS["not run"]


def _summary(scenes: list[Scene], version: str, results: Results) -> str:
    those = [
        results[one.id, version] for one in scenes if one.applies(version) and (one.id, version) in results
    ]
    count = Counter(one.outcome for one in those)
    right = count["equal"] + count["near"] + count["told"]
    ran = len(those) - count["not run"]
    if not ran:
        return "not run"
    rest = [f"{count[name]} {WORDS[name]}" for name in ("differs", "wrong") if count[name]]
    return ", ".join([f"{right} of {ran}", *rest])


def _explained(scenes: list[Scene], results: Results) -> list[str]:
    lines = []
    for one in scenes:
        found = [results[one.id, v] for v in VERSIONS if (one.id, v) in results]
        bad = [verdict for verdict in found if verdict.outcome in ("differs", "wrong")]
        if bad:
            why = one.differs or f"not explained yet: {bad[0].detail}"
            lines.append(f"- `{one.id}` ({', '.join(verdict.version for verdict in bad)}): {why}")
    return lines
