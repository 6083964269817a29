"""Why a Blender ended: judged by its exit code, its output and the kernel's count of kills for memory."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.failure_codes import explain
from framefarm.node.blender_events import Exited
from framefarm.node.blender_log import last_line, ran_out_of_memory
from framefarm.node.crash_traces import before_stack, crashed_script

PHASES = {
    "render": " while it rendered",
    "composite": " while it composited",
    "finish": " once its picture was saved",
}
"""Phases of a frame, as in_blender/phases.py names them, as parts of a sentence."""


@dataclass(frozen=True)
class Stage:
    """How far Blender had come when it ended. `ready`: it had started and imported `bpy`."""

    ready: bool = False
    opening: bool = False
    frame: int | None = None
    phase: str = ""
    """One of PHASES; empty: not known, or before the frame's render began."""

    @property
    def where(self) -> str:
        """The stage as a part of a sentence, with a space before it; may be empty."""
        if not self.ready:
            return " while it started"
        if self.opening:
            return " while it opened the scene"
        return "" if self.frame is None else f" in frame {self.frame}{PHASES.get(self.phase, '')}"


def judge_exit(
    code: int,
    ending: str | None,
    stage: Stage,
    printed: bytes,
    memory_kills: bool | None = None,
    *,
    operator: str = "",
    lacks_graphics: Callable[[], bool] = lambda: False,
) -> Exited:
    """Find the cause of Blender's end.

    `code` is the result of `Process.wait`. `ending` is why its owner ended it (`closed`, `killed`, `failed`,
    `hung_at_exit`), None if it ended by itself. `printed` is the end of its output. `memory_kills`: whether
    the kernel killed any process for memory during this Blender's life, None if that is not known. `operator`
    is the last one in its crash file. `lacks_graphics` tries whether OpenGL is missing; called only after a
    crash. The output does not tell that: EGL complains on every machine without a window.
    """
    number = -code if code < 0 else None
    if ending == "hung_at_exit":
        return Exited(code, number, ending, explain(ending, {"where": stage.where}))
    if ending is not None:
        return Exited(code, number, ending, f"Blender was ended ({ending}).")
    signal_name = next((s.name for s in signal.Signals if s == number), str(number))
    facts = {
        "where": stage.where,
        "code": code,
        "signal": signal_name,
        "last": _last_words(printed, operator),
        "memory": "",
    }
    cause = _cause(code, number, stage, printed, memory_kills)
    if cause == "crashed" and number in (signal.SIGABRT, signal.SIGSEGV) and lacks_graphics():
        cause = "no_gl"
    return Exited(code, number, cause, explain(cause, facts))


def _cause(code: int, number: int | None, stage: Stage, printed: bytes, memory_kills: bool | None) -> str:
    if number == signal.SIGKILL:
        return "killed_outside" if memory_kills is False else "out_of_memory"
    if number is None and not stage.ready:
        return "not_started"
    if code == 127 or ran_out_of_memory(printed):
        return "out_of_memory"
    if number is not None:
        return "crashed"
    return "ended_early"


def _last_words(printed: bytes, operator: str) -> str:
    """Sentences on what Blender did last, each with a space before it."""
    script, line = crashed_script(printed), last_line(before_stack(printed))
    return "".join(
        (
            f" It ran the script {script}." if script else "",
            f" Its last operator was {operator}." if operator else "",
            f" It last printed: “{line}”." if line else "",
        )
    )


def count_memory_kills() -> int | None:
    """Number of kills for memory since the node booted, in any control group (`oom_kill` of /proc/vmstat).

    None where the kernel does not count them.
    """
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return None
