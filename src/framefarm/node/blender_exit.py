"""Why a Blender ended: judged by its exit code, its output and the kernel's count of kills for memory."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.failure_codes import explain
from framefarm.node.blender_events import Exited
from framefarm.node.blender_log import lacked_graphics, last_line, ran_out_of_memory


@dataclass(frozen=True)
class Stage:
    """How far Blender had come when it ended. `ready`: it had started and imported `bpy`."""

    ready: bool = False
    opening: bool = False
    frame: int | None = None

    @property
    def where(self) -> str:
        """The stage as a part of a sentence, with a space before it; may be empty."""
        if not self.ready:
            return " while it started"
        if self.opening:
            return " while it opened the scene"
        return "" if self.frame is None else f" in frame {self.frame}"


def judge_exit(
    code: int, ending: str | None, stage: Stage, printed: bytes, memory_kills: bool | None = None
) -> Exited:
    """Find the cause of Blender's end.

    `code` is the result of `Process.wait`. `ending` is why its owner ended it (`closed`, `killed`, `failed`,
    `hung_at_exit`), None if it ended by itself. `printed` is the end of its output. `memory_kills`: whether
    the kernel killed any process for memory during this Blender's life, None if that is not known.
    """
    number = -code if code < 0 else None
    if ending == "hung_at_exit":
        return Exited(code, number, ending, explain(ending, {"where": stage.where}))
    if ending is not None:
        return Exited(code, number, ending, f"Blender was ended ({ending}).")
    signal_name = next((s.name for s in signal.Signals if s == number), str(number))
    last = last_line(printed)
    facts = {
        "where": stage.where,
        "code": code,
        "signal": signal_name,
        "last": f" It last printed: “{last}”." if last else "",
        "memory": "",
    }
    cause = _cause(code, number, stage, printed, memory_kills)
    return Exited(code, number, cause, explain(cause, facts))


def _cause(code: int, number: int | None, stage: Stage, printed: bytes, memory_kills: bool | None) -> str:
    if number == signal.SIGKILL:
        return "killed_outside" if memory_kills is False else "out_of_memory"
    if number is None and not stage.ready:
        return "not_started"
    if code == 127 or ran_out_of_memory(printed):
        return "out_of_memory"
    if number is not None:
        no_graphics = number in (signal.SIGABRT, signal.SIGSEGV) and lacked_graphics(printed)
        return "no_gl" if no_graphics else "crashed"
    return "ended_early"


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
