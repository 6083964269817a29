"""What a night was like, as text and as Markdown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Night:
    kills: int
    seed: int
    own_disk: bool
    """The disk could be filled: that takes root."""
    seconds: float = 0.0
    storm_seconds: float = 0.0
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: int = 0
    made: Counter[str] = field(default_factory=Counter)
    again: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    began: int = 0
    cost_micros: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return bool(self.violations) and not any(self.violations.values())


def _rows(night: Night) -> list[tuple[str, str]]:
    def listed(counter: Counter[str]) -> str:
        return ", ".join(f"{n} {name}" for name, n in sorted(counter.items())) or "none"

    parts = ("server", "runner", "blender", "reader", "network", "disk")
    rows = []
    for how in ("kill", "freeze", "restart", "cut", "fill"):
        hit = [f"{night.struck[how, part]} {part}" for part in parts if night.struck[how, part]]
        rows.append((how, ", ".join(hit) or "none"))
    return [
        *rows,
        ("connections broken", str(night.broken)),
        ("acknowledged changes", listed(night.made)),
        ("calls made again", str(night.again)),
        ("jobs", listed(night.jobs)),
        ("sessions", str(night.sessions)),
        ("attempts", listed(night.attempts)),
        ("frames begun, committed", f"{night.began}, {night.frames}"),
        ("cost", f"{night.cost_micros / 1e6:.6f} USD"),
        ("seconds", f"{night.seconds:.0f}, of which {night.storm_seconds:.0f} under blows"),
    ]


def as_text(night: Night) -> str:
    width = max(len(name) for name, _ in _rows(night))
    lines = ["", f"--kills {night.kills} --seed {night.seed}", ""]
    lines += [f"  {name:<{width}}  {value}" for name, value in _rows(night)]
    if not night.own_disk:
        lines.append("  The disk was not filled: that takes root.")
    lines.append("")
    for name, found in night.violations.items():
        lines.append(f"  {'FAILED' if found else 'holds '}  {name}")
        lines += [f"            {sentence}" for sentence in found[:20]]
        if len(found) > 20:
            lines.append(f"            … and {len(found) - 20} more")
    return "\n".join(lines)


def as_markdown(night: Night) -> str:
    lines = [f"`script/chaos --kills {night.kills} --seed {night.seed}`", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(night)]
    lines.append("")
    for name, found in night.violations.items():
        lines.append(f"- {'**failed**' if found else 'holds'}: {name}")
        lines += [f"  - {sentence}" for sentence in found[:20]]
    return "\n".join(lines) + "\n"
