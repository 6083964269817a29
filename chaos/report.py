"""The report of a chaos run, as text and as Markdown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class ChaosRun:
    """Figures and violations of one run."""

    kills: int
    seed: int
    own_disk: bool
    """The farm's data is on a file system of its own, so the disk can be filled. Needs root."""
    seconds: float = 0.0
    fault_seconds: float = 0.0
    """Time in which faults were injected."""
    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(fault, part) → how often."""
    connections_broken: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    """Acknowledged changes by their kind."""
    repeated_calls: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    frames_committed: int = 0
    frames_begun: int = 0
    cost_micros: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)
    """Invariant → a sentence for each violation."""

    @property
    def all_hold(self) -> bool:
        """Whether invariants were checked and none is violated."""
        return bool(self.violations) and not any(self.violations.values())


def _rows(run: ChaosRun) -> list[tuple[str, str]]:
    def listed(counter: Counter[str]) -> str:
        return ", ".join(f"{n} {name}" for name, n in sorted(counter.items())) or "none"

    parts = ("server", "runner", "blender", "reader", "network", "disk")
    rows = []
    for how in ("kill", "freeze", "restart", "cut", "fill"):
        hit = [f"{run.injected[how, part]} {part}" for part in parts if run.injected[how, part]]
        rows.append((how, ", ".join(hit) or "none"))
    return [
        *rows,
        ("connections broken", str(run.connections_broken)),
        ("acknowledged changes", listed(run.changes)),
        ("calls repeated", str(run.repeated_calls)),
        ("jobs", listed(run.jobs)),
        ("sessions", str(run.sessions)),
        ("attempts", listed(run.attempts)),
        ("frames begun, committed", f"{run.frames_begun}, {run.frames_committed}"),
        ("cost", f"{run.cost_micros / 1e6:.6f} USD"),
        ("seconds", f"{run.seconds:.0f}, of which {run.fault_seconds:.0f} with faults"),
    ]


def as_text(run: ChaosRun) -> str:
    width = max(len(name) for name, _ in _rows(run))
    lines = ["", f"--kills {run.kills} --seed {run.seed}", ""]
    lines += [f"  {name:<{width}}  {value}" for name, value in _rows(run)]
    if not run.own_disk:
        lines.append("  The disk was not filled: that needs root.")
    lines.append("")
    for name, sentences in run.violations.items():
        lines.append(f"  {'FAILED' if sentences else 'holds '}  {name}")
        lines += [f"            {sentence}" for sentence in sentences[:20]]
        if len(sentences) > 20:
            lines.append(f"            … and {len(sentences) - 20} more")
    return "\n".join(lines)


def as_markdown(run: ChaosRun) -> str:
    lines = [f"`script/chaos --kills {run.kills} --seed {run.seed}`", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(run)]
    lines.append("")
    for name, sentences in run.violations.items():
        lines.append(f"- {'**failed**' if sentences else 'holds'}: {name}")
        lines += [f"  - {sentence}" for sentence in sentences[:20]]
    return "\n".join(lines) + "\n"
