"""Facts about a .blend's scenes, and what a job may name in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from framefarm.blend import scenes
from framefarm.blend.file import ODD_BLOCK, Blend, listbase, name_of, pointer, text
from framefarm.client.errors import LocalProblem
from framefarm.core.frame_grammar import CURRENT

RUN_WHEN_OPENED = 1 << 4
"""Flag of a text that Blender runs as it opens the file (TXT_ISSCRIPT)."""
MOST_NAMED = 50


@dataclass(frozen=True)
class SceneFacts:
    """Facts about a .blend's scenes."""

    version: tuple[int, int]
    """Version of the Blender that wrote the file: (4, 2) for 4.2."""
    active: str
    """Name of the active scene."""
    ranges: dict[str, tuple[int, int, int]]
    """Scene name → first frame, last frame, step."""
    current: dict[str, int] = field(default_factory=dict)
    """Scene name → the frame that it was saved at."""
    view_layers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Scene name → its view layers."""
    cameras: tuple[str, ...] = ()
    """Camera objects of the file, in whichever scene: Blender looks through any of them."""
    complete: bool = False
    """Whether there can be no other cameras and view layers: no library brings any, no script makes any."""
    needs: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    """Scene name → its engine, and the features it needs with what needs them; empty if not read."""

    def frame_range(self, scene: str | None = None, given: str | None = None) -> str:
        """Frame spec of a job: `given`, in which `current` is replaced by its number; without it the range of
        the scene, by default the active one. Raises LocalProblem for an unknown scene."""
        name = self._scene(scene)
        if given is not None and given.strip() == CURRENT and name in self.current:
            return str(self.current[name])
        if given is not None:
            return given
        first, last, step = self.ranges[name]
        return f"{first}-{last}x{step}" if step > 1 else f"{first}-{last}" if last != first else f"{first}"

    def check_names(
        self, scene: str | None, camera: str | None, view_layers: Sequence[str], *, with_addons: bool
    ) -> None:
        """Check the names that a job asks for. Raises LocalProblem, which names those that there are.

        Cameras and view layers that a library, a script or an add-on may bring are left to Blender.
        """
        name = self._scene(scene)
        if not self.complete or with_addons:
            return
        if camera is not None and camera not in self.cameras:
            raise LocalProblem(f"The file has no camera {camera!r}; it has {_named(self.cameras)}.")
        layers = self.view_layers.get(name, ())
        for layer in view_layers:
            if layer not in layers:
                raise LocalProblem(f"Scene {name!r} has no view layer {layer!r}; it has {_named(layers)}.")

    def _scene(self, scene: str | None) -> str:
        name = self.active if scene is None else scene
        if name not in self.ranges:
            raise LocalProblem(f"The file has no scene {name!r}; it has {_named(self.ranges)}.")
        return name


def facts_of(blend: Blend, path: object) -> SceneFacts:
    """Facts of an open .blend. `path` is for messages. Raises LocalProblem if it contains no scene."""
    blocks = {name_of(block): block for block in blend.code_index[b"SC"]}
    if not blocks:
        raise LocalProblem(f"{path} contains no scene, so it cannot be rendered.")
    globals_ = blend.code_index[b"GLOB"]
    active = pointer(globals_[0], b"curscene") if globals_ else None
    version = divmod(blend.version, 100)
    return SceneFacts(
        version,
        name_of(active) if active else next(iter(blocks)),
        {
            name: (int(b[b"r", b"sfra"]), int(b[b"r", b"efra"]), int(b.get((b"r", b"frame_step"), 1)))
            for name, b in blocks.items()
        },
        {name: int(block[b"r", b"cfra"]) for name, block in blocks.items()},
        {name: _view_layers(block) for name, block in blocks.items()},
        tuple(scenes.cameras(blend)),
        version >= (2, 80) and not blend.code_index[b"LI"] and not _runs_texts(blend),
        _needs(blend),
    )


def from_json(reply: dict[str, Any]) -> SceneFacts:
    """Facts from the JSON form of `dataclasses.asdict`."""
    return SceneFacts(
        (reply["version"][0], reply["version"][1]),
        reply["active"],
        {name: (first, last, step) for name, (first, last, step) in reply["ranges"].items()},
        reply["current"],
        {name: tuple(layers) for name, layers in reply["view_layers"].items()},
        tuple(reply["cameras"]),
        reply["complete"],
        {name: (engine, features) for name, (engine, features) in reply["needs"].items()},
    )


def _view_layers(scene: Any) -> tuple[str, ...]:
    return tuple(text(layer[b"name"]) for layer in listbase(pointer(scene, (b"view_layers", b"first"))))


def _needs(blend: Blend) -> dict[str, tuple[str, dict[str, str]]]:
    try:
        found = scenes.scenes(blend)
    except ODD_BLOCK:
        return {}
    return {s["name"]: (s["engine"], {n["feature"]: n["what"] for n in s["needs"]}) for s in found}


def _runs_texts(blend: Blend) -> bool:
    try:
        return any(block.get(b"flags", 0) & RUN_WHEN_OPENED for block in blend.code_index[b"TX"])
    except ODD_BLOCK:
        return True


def _named(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(sorted(names)[:MOST_NAMED]) or "none"
