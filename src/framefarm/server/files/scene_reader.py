"""Facts of .blend files, read by a sandboxed process, since a scene may be hostile.

`scene_reader_process.py` gets the farm's copies as open descriptors and answers with a line for each file
(`sandboxing.module_call`).
"""

from __future__ import annotations

import functools
import ntpath
import os
import posixpath
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from framefarm.sandboxing import module_call
from framefarm.sandboxing.bubblewrap import Mode

log = structlog.get_logger(__name__)

FILES_PER_READER = 256
MEMORY_BYTES = 3 << 30
"""Memory limit of a reader."""
ANSWER_BYTES = 64 << 20
CAUSE = "unreadable_scene"
ATTEMPTS = 4
"""Readers started for one file if they are killed from outside; limited, since the file may be the cause."""
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|//")


class Simulation(msgspec.Struct, frozen=True):
    """A simulation of `object`.

    `kind`: rigid_body, cloth, soft_body, particles, hair, fluid, dynamic_paint or geometry_nodes. A rigid
    body world has no `modifier` and is named by its first active body.
    """

    object: str
    kind: str
    modifier: str = ""
    frame_start: int = 1
    """First frame of its cache; of a simulation zone without a range of its own: of the scene."""
    frame_end: int = 250
    why: str = ""
    """Why it has to be baked, a key of `core.simulations.WHY`; empty if it is baked, or can be played."""
    folders: list[str] = []
    """Folders of its bakes on disk, as stored in the .blend; whether they have files is not known here."""


class Need(msgspec.Struct, frozen=True):
    """A feature of Blender that a scene needs, by its code in core/blender_features.py, and what needs it."""

    feature: str
    what: str


class Link(msgspec.Struct, frozen=True):
    """A data-block of another file: the library's path as stored, and the name with its type (`OBCube`)."""

    library: str
    name: str


class Part(msgspec.Struct, frozen=True):
    """An object, collection or scene of a file: what it needs, the parts of the file in it, and its links."""

    needs: list[Need] = []
    inside: list[str] = []
    links: list[Link] = []


class OtherScene(msgspec.Struct, frozen=True):
    """A scene that is rendered for another one's picture, by its strips or its compositor."""

    name: str
    engine: str


class Scene(msgspec.Struct, frozen=True):
    """One scene of a .blend. `engine` and `format` are Blender's own names; `fps` is frames per second."""

    name: str
    is_active: bool
    frame_start: int
    frame_current: int
    frame_end: int
    frame_step: int
    fps: float
    engine: str
    format: str
    is_movie: bool
    camera: str | None
    """None: the scene renders only once the job chooses a camera."""
    cameras: list[str]
    view_layers: list[str]
    resolution_x: int
    resolution_y: int
    resolution_percentage: int
    samples: int | None
    """None: not set in the file; the engine's default is used."""
    unbaked_simulations: list[Simulation]
    baked_simulations: list[Simulation] = []
    needs: list[Need] = []
    links: list[Link] = []
    """The parts of other files that its pictures show, as long as they are not followed."""
    renders: list[OtherScene] = []
    lacks_camera: bool = False
    """Nothing gives it a picture: no camera, no marker with one, no strips, no compositor."""


class Dependency(msgspec.Struct, frozen=True):
    """A file that the .blend names without packing it. `stored_path` is as in the .blend (`//tex/wood.png`);
    `path` is absolute, resolved from the .blend's own path, with forward slashes.

    `kind`: image, tiles, sequence, movie, library, font, sound, cache, volume, light, script or file. Of a
    sequence the path is one of its files, or has a `*` in its name, or is a folder; of tiles it has a
    `<UDIM>`."""

    stored_path: str
    kind: str
    path: str = ""
    many: bool = False
    """The path may stand for several files."""
    tiles: list[int] = []
    """Numbers of the UDIM tiles that the scene uses, if it lists them."""
    wanted_by: str = ""
    """The data-block that names the file, as text for a person."""
    required: bool = True
    """The picture is wrong without it; else it is used if it is there."""


class SceneFacts(msgspec.Struct, frozen=True):
    """Facts of a .blend or colour configuration; of an unreadable one `cause` and `message`, one sentence."""

    path: str
    blender_version: str = ""
    """Series of the Blender that saved it, such as `4.2`. Empty if unreadable."""
    scenes: list[Scene] = []
    active_scene: str | None = None
    cameras: list[str] = []
    """Cameras of all scenes, and those in collections that no view layer shows."""
    dependencies: list[Dependency] = []
    parts: dict[str, Part] = {}
    """Name with type (`OBCube`) → parts of the file that need features, or hold some that do."""
    unread_blocks: list[str] = []
    """Data-blocks that could not be read; their dependencies are unknown."""
    search_path: list[str] = []
    """Folders of a colour configuration (`.ocio`), absolute or relative to its own folder."""
    luts: list[str] = []
    """Files that a colour configuration needs from these folders."""
    cause: str | None = None
    message: str | None = None

    @property
    def libraries(self) -> list[Dependency]:
        """The linked .blend files."""
        return [d for d in self.dependencies if d.kind == "library"]

    def scene(self, name: str | None = None) -> Scene | None:
        """The scene of that name, or the active one; None if there is none."""
        wanted = self.active_scene if name is None else name
        return next((s for s in self.scenes if s.name == wanted), None)


def read_scenes(
    blends: Sequence[tuple[str, Path]],
    time_limit_seconds: float = 60.0,
    file_limit_seconds: float = 20.0,
    sandbox: Mode = "bubblewrap",
    stopping: Callable[[], bool] = lambda: False,
) -> list[SceneFacts]:
    """Facts of each .blend, in order; blocks. Raises Stopped.

    Args:
        blends: path on the artist's machine, and path of the farm's copy.
        time_limit_seconds: for all of them together.
        file_limit_seconds: processor time for each of them.
        sandbox: with `none`, or without a working bubblewrap (logged as a warning), the reader is a child
            process with resource limits only.
        stopping: once it returns true, the reader is ended and Stopped is raised.
    """
    deadline = time.monotonic() + time_limit_seconds
    facts: list[SceneFacts] = []
    for start in range(0, len(blends), FILES_PER_READER):
        seconds = max(0.0, deadline - time.monotonic())
        batch = blends[start : start + FILES_PER_READER]
        facts += _read(batch, seconds, file_limit_seconds, sandbox, stopping, attempts=ATTEMPTS)
    return facts


def absolute(stored: str, blend_path: str) -> str:
    """Absolute path of a `stored` path, resolved from the .blend at `blend_path`, with forward slashes and
    without `..`, in the form of `core.paths.normalise` (`/a/b`, `C:/a/b`, `//server/share/a`).

    In a stored path a leading `//` means the folder of the .blend. In Windows paths both slashes separate.
    """
    windows = _WINDOWS.match(blend_path) is not None
    if stored.startswith("//"):
        folder = (ntpath if windows else posixpath).dirname(blend_path)
        return _normal(folder + "/" + stored[2:].replace("\\", "/"), windows)
    if re.match(r"[A-Za-z]:[\\/]|\\\\", stored):
        return _normal(stored, windows=True)
    if stored.startswith("/"):
        return _normal(stored, windows=False)
    return _normal((ntpath if windows else posixpath).dirname(blend_path) + "/" + stored, windows)


def _normal(path: str, windows: bool) -> str:
    if not windows:
        return posixpath.normpath(path)
    normal = ntpath.normpath(path).replace("\\", "/")
    return normal[0].upper() + normal[1:]


def _read(
    blends: Sequence[tuple[str, Path]],
    seconds: float,
    file_seconds: float,
    sandbox: Mode,
    stopping: Callable[[], bool],
    *,
    attempts: int,
) -> list[SceneFacts]:
    """Facts of each .blend. After a kill from outside, another one of `attempts` readers reads the rest."""
    began = time.monotonic()
    opened = [_open(content) for _, content in blends]
    try:
        order = {
            "files": [{"path": path, "descriptor": d} for (path, _), d in zip(blends, opened, strict=True)],
            "file_seconds": file_seconds,
        }
        answer = module_call.run_module(
            "framefarm.server.files.scene_reader_process",
            order,
            [descriptor for descriptor in opened if descriptor is not None],
            seconds=seconds,
            cpu_seconds=int(seconds),
            memory_bytes=MEMORY_BYTES,
            answer_bytes=ANSWER_BYTES,
            mode=_mode(sandbox),
            stopping=stopping,
        )
    finally:
        for descriptor in opened:
            if descriptor is not None:
                os.close(descriptor)
    lines = answer.output.split(b"\n")[:-1]
    facts = [_facts(path, line) for (path, _), line in zip(blends, lines, strict=False)]
    rest = blends[len(facts) :]
    remaining_seconds = seconds - (time.monotonic() - began)
    killed = answer.code in {-signal.SIGKILL, 128 + signal.SIGKILL}
    if rest and killed and answer.in_time and attempts > 1 and remaining_seconds > 0:
        log.warning("scene_reader_killed", files_left=len(rest))
        return facts + _read(rest, remaining_seconds, file_seconds, sandbox, stopping, attempts=attempts - 1)
    # The time limit is for all files together: the files after one that never ends fail with it.
    why = "could not be read" if answer.in_time else f"could not be read within {seconds:.0f} s"
    return facts + [_unreadable(path, why) for path, _ in rest]


def _open(content: Path) -> int | None:
    try:
        # O_NONBLOCK: opening a FIFO would block.
        descriptor = os.open(content, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    os.set_blocking(descriptor, True)
    return descriptor


def _mode(wanted: Mode) -> Mode:
    if wanted == "none" or module_call.unready() is None:
        return wanted
    _warn_once()
    return "none"


@functools.cache
def _warn_once() -> None:
    log.warning("scene_reader_without_sandbox", why=module_call.unready())


def _facts(path: str, line: bytes) -> SceneFacts:
    try:
        facts = msgspec.json.decode(line, type=SceneFacts)
    except msgspec.DecodeError:
        return _unreadable(path, "could not be read")
    dependencies = [
        msgspec.structs.replace(d, path=absolute(d.stored_path, path)) for d in facts.dependencies
    ]
    return msgspec.structs.replace(facts, path=path, dependencies=dependencies)


def _unreadable(path: str, why: str) -> SceneFacts:
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return SceneFacts(path, cause=CAUSE, message=f"{name} {why}.")
