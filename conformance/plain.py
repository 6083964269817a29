"""Plain Blender: builds the scenes, and renders them where they lie. The artist's truth."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from declarations import Scene

from framefarm.core.frame_grammar import parse
from framefarm.node.blender_installs import Installed, installed

PROGRAM = Path(__file__).resolve().parent / "in_blender" / "main.py"
MARK = "@conformance "
BUILD_SECONDS, PLAY_SECONDS = 120.0, 300.0


@dataclass
class Done:
    """How Blender did with a scene: the path of its file, or the error."""

    path: str = ""
    error: str = ""


def blenders() -> dict[str, Installed]:
    """The installed Blenders, by their series: `4.2`. An archive only where there is no wheel."""
    found = sorted(installed(), key=lambda one: one.kind != "archive")
    return {".".join(one.release.split(".")[:2]): one for one in found}


def scene_orders(scenes: Sequence[Scene], work: Path) -> list[dict[str, Any]]:
    """The scenes as `in_blender/main.py` reads them. Each has a folder of its own below `work`."""
    return [
        {
            "id": one.id,
            "feature": one.feature,
            "function": one.function,
            "value": one.value,
            "variant": one.variant,
            "engine": one.engine,
            "folder": str(work / one.feature / one.name),
            "range": frame_list(one.range or one.frames),
            "frames": frame_list(one.frames),
            "by_hand": one.by_hand,
            "instead": one.instead,
        }
        for one in scenes
    ]


def frame_list(spec: str) -> list[int]:
    return list(parse(spec))


def build(blender: Installed, scenes: Sequence[Scene], work: Path) -> dict[str, Done]:
    """Build the scenes in one Blender, or in more if some end it."""
    return dict(_run(blender, "build", scene_orders(scenes, work), work, BUILD_SECONDS))


def play(blender: Installed, scenes: Sequence[Scene], paths: dict[str, str], work: Path) -> dict[str, Done]:
    """Play and render the scenes in place: most in one Blender, each `fresh` one in its own."""
    orders = [order | {"path": paths[order["id"]]} for order in scene_orders(scenes, work)]
    for one, order in zip(scenes, orders, strict=True):
        if one.right:
            order["path"] = str(Path(order["folder"]) / one.right)
    fresh = {one.id for one in scenes if one.fresh or one.ocio}
    colours = {one.id: one.ocio for one in scenes if one.ocio}
    groups = [[order for order in orders if order["id"] not in fresh]]
    groups += [[order] for order in orders if order["id"] in fresh]
    found: dict[str, Done] = {}
    for number, group in enumerate(groups):
        more = {}
        if number and (config := colours.get(group[0]["id"])):
            more["OCIO"] = str(Path(group[0]["folder"]) / config)
        found |= dict(_run(blender, "play", group, work, PLAY_SECONDS, f"-{number}", more))
    return found


def _run(
    blender: Installed,
    task: str,
    orders: list[dict[str, Any]],
    work: Path,
    seconds: float,
    suffix: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Done]]:
    rest = list(orders)
    with open(work / f"{task}{suffix}.log", "ab") as log:
        while rest:
            plan = work / f"{task}{suffix}.json"
            plan.write_text(json.dumps(rest))
            last = ""
            for line in _lines(_command(blender, task, plan), seconds, log, environment or {}):
                if "begins" in line:
                    last = line["begins"]
                else:
                    rest = [order for order in rest if order["id"] != line["ends"]]
                    last = ""
                    yield line["ends"], Done(line.get("path", ""), line.get("error", ""))
            if last or rest:  # Blender ended in the middle of one, or before the first
                last = last or rest[0]["id"]
                rest = [order for order in rest if order["id"] != last]
                yield last, Done(error=f"Blender ended while it had to {task} it")


def _command(blender: Installed, task: str, plan: Path) -> list[str]:
    if blender.kind == "bpy":
        return [blender.path, str(PROGRAM), task, str(plan)]
    return [blender.path, "-b", "--factory-startup", "--python", str(PROGRAM), "--", task, str(plan)]


def _lines(command: list[str], seconds: float, log: Any, more: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The lines that Blender tells; it is ended if it tells nothing for `seconds`."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(more)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    watch = threading.Timer(seconds, process.kill)
    watch.start()
    try:
        for raw in process.stdout:
            log.write(raw)
            line = raw.decode(errors="replace")
            if line.startswith(MARK):
                watch.cancel()
                watch = threading.Timer(seconds, process.kill)
                watch.start()
                yield json.loads(line[len(MARK) :])
    finally:
        watch.cancel()
        process.kill()
        process.wait()
        log.flush()
