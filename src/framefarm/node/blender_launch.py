"""Start a Blender in its sandbox: its folders, binds, command line and environment."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.paths import normalise
from framefarm.node import shader_cache
from framefarm.node.inputs import REMAPPED, SYSTEM_FOLDERS, Layout
from framefarm.node.sandbox import (
    FARM_FOLDER,
    OUTPUT_FOLDER,
    Bind,
    Mode,
    Process,
    Sandbox,
    SandboxUnavailable,
    check_passable,
)
from framefarm.protocol.node import Package, RenderSettings, SessionConfig, Slot
from framefarm.sandboxing.limits import Limits
from framefarm.sandboxing.lookup_watch import LookupWatch, WatchedPlaces
from framefarm.sandboxing.uids import UidClaim
from framefarm.sandboxing.userland import ENVIRONMENT, needs_bubblewrap, userland_of

_IN_BLENDER = Path(__file__).with_name("in_blender")
PROGRAM = {source.name: source.read_bytes() for source in _IN_BLENDER.glob("*.py")}
"""The files of in_blender/ by name, as they were when this process began.

A runner outlives an upgrade in place, and starts further Blenders: they get the program that speaks as
this runner does, whatever lies on disk by then.
"""
PROBE_SECONDS = 9.0
"""Shorter than Blender's owner waits for the thread that tries it."""
NO_GRAPHICS_CODE = 90
"""The same number as in in_blender/graphics.py."""
DRIVER = f"driver/{_IN_BLENDER.name}"
"""Where the copy of in_blender/ is, below Blender's work folder and below FARM_FOLDER."""


@dataclass(frozen=True)
class BlenderLimits:
    """The processors that Blender may use, its memory and GPUs, and the unprivileged user it runs as."""

    cores: tuple[int, ...]
    """Processor numbers."""
    uid: int
    sandbox: Mode = "bubblewrap"
    memory_bytes: int | None = None
    """Limit for Blender and all its child processes together; None: no limit."""
    gpus: int = 0

    @classmethod
    def of(cls, slot: Slot) -> BlenderLimits:
        return cls(slot.cores, slot.uid, slot.sandbox, slot.memory_bytes or None, slot.gpus)


@dataclass(frozen=True)
class SceneOrder:
    """The scene to open, and how to render it."""

    scene_path: str
    """As the artist's machine knows it, normalised."""
    render: RenderSettings
    environment: Mapping[str, str]
    allow_scripts: bool = False
    play_history: bool = False
    """The file has unbaked simulations: Blender tells only of others that it finds."""
    addons: Sequence[str] = ()
    """Inputs that are add-ons, to be enabled before the scene opens."""

    @classmethod
    def of(cls, config: SessionConfig) -> SceneOrder:
        scripts, history = config.allow_scripts, config.fresh_scene_per_task
        return cls(config.scene_path, config.render, config.environment, scripts, history, config.addons)


@dataclass(frozen=True)
class LaunchedBlender:
    """A started Blender. Its owner closes the pipe, the process and the watch, and releases the claim on the
    user id."""

    process: Process
    pipe: socket.socket
    watch: LookupWatch
    places: WatchedPlaces
    """Where the watch counts lookups."""
    claim: UidClaim
    output: str
    """The folder that Blender writes to, by its path in the sandbox."""
    lacks_graphics: Callable[[], bool]
    """Try, in a sandbox like Blender's, whether OpenGL is missing; for the time after Blender's end."""


def launch(
    limits: BlenderLimits,
    package: Package,
    order: SceneOrder,
    layout: Layout,
    work: Path,
    shaders: Path | None = None,
) -> LaunchedBlender:
    """Start Blender with in_blender/main.py, in the main thread. `work` is an empty folder of its own.

    Its output is then in `work/output`. `shaders`: the kept cache of compiled shaders that it gets a copy of
    (node/shader_cache.py). Raises SandboxUnavailable or OSError.
    """
    if limits.sandbox == "none" and userland_of(package.path) is not None:
        raise SandboxUnavailable(needs_bubblewrap(package.release))
    claim = UidClaim(limits.uid)
    _make_folders(work, claim.uid)
    shader_cache.hand_out(shaders, work / "tmp", claim.uid)
    pipe, in_sandbox = socket.socketpair()
    with in_sandbox:
        tmp, output = work / "tmp", work / "output"
        bounds = Limits.of_blender(len(limits.cores), limits.memory_bytes, str(tmp), str(output))
        binds = _binds(limits, package, layout, work)
        sandbox = Sandbox(
            limits.sandbox, claim.uid, limits.cores, binds, tmp, bounds, userland=userland_of(package.path)
        )
        environment = _environment(limits, order, layout, work)
        places = _watched_places(limits, package, layout, work)
        watch = LookupWatch(places, limits.cores)
        with watch.for_program as watched:
            descriptors = [in_sandbox.fileno(), watched.fileno()]
            arguments = ["--", "--watch", str(descriptors[1]), "--pipe", str(descriptors[0])]
            program = [*_program(limits, package, order, work, "main.py"), *arguments]
            try:
                process = sandbox.start(program, environment, descriptors)
            except BaseException:
                watch.close()
                raise
    probe = _program(limits, package, order, work, "graphics.py")
    return LaunchedBlender(
        process,
        pipe,
        watch,
        places,
        claim,
        output_folder(limits, work),
        lambda: _lacks_graphics(sandbox, probe, environment),
    )


def _lacks_graphics(sandbox: Sandbox, probe: list[str], environment: Mapping[str, str]) -> bool:
    """Run in_blender/graphics.py; True only if it says so. The caller waits for it, at most PROBE_SECONDS."""
    try:
        process = sandbox.start(probe, environment, any_thread=True, quiet=True)
    except (SandboxUnavailable, OSError):
        return False
    try:
        return process.wait(PROBE_SECONDS) == NO_GRAPHICS_CODE
    except subprocess.TimeoutExpired:
        return False
    finally:
        process.kill()
        process.close()


def _watched_places(limits: BlenderLimits, package: Package, layout: Layout, work: Path) -> WatchedPlaces:
    """Where a lookup of Blender's counts: among the inputs, and in any folder that is not the system's."""
    own = (*SYSTEM_FOLDERS, "/lib", "/lib32", "/lib64", "/libx32", *needed_folders(package))
    ignored = tuple(folder for folder in own if folder != REMAPPED)
    if limits.sandbox == "none":
        tree = str(layout.tree)
        install = _install_folder(package)
        return WatchedPlaces(
            ((tree, tree),), (*ignored, str(work), *([str(install)] if install else [])), True
        )
    return WatchedPlaces(tuple((bind.target, bind.source) for bind in layout.binds), ignored)


def output_folder(limits: BlenderLimits, work: Path) -> str:
    """The folder that Blender writes to, by its path in the sandbox."""
    return OUTPUT_FOLDER if limits.sandbox == "bubblewrap" else str(work / "output")


def needed_folders(package: Package) -> tuple[str, ...]:
    """Folders outside /usr that this Blender needs at their own paths: no input may cover them."""
    if package.kind != "bpy" or userland_of(package.path) is not None:
        return ()
    base = Path(package.path).resolve().parent.parent
    return () if base.is_relative_to("/usr") else (str(base),)


def _make_folders(work: Path, uid: int) -> None:
    for name in ("output", "tmp", "driver"):
        (work / name).mkdir(mode=0o700)
    if os.geteuid() == 0:
        for name in ("output", "tmp"):
            os.chown(work / name, uid, uid)
    (work / "driver").chmod(0o755)
    copy = work / DRIVER
    copy.mkdir(mode=0o755)
    for name, content in PROGRAM.items():
        (copy / name).write_bytes(content)
        (copy / name).chmod(0o644)
    copy.chmod(0o755)


def _binds(limits: BlenderLimits, package: Package, layout: Layout, work: Path) -> tuple[Bind, ...]:
    if limits.sandbox == "none":
        if os.geteuid() == 0:
            check_passable(work / "output")
        return ()
    binds = [
        *layout.binds,
        Bind(str(work / "output"), OUTPUT_FOLDER, writable=True),
        Bind(str(work / "driver"), f"{FARM_FOLDER}/driver"),
    ]
    install = _install_folder(package)
    if install is not None:
        binds.append(Bind(str(install), f"{FARM_FOLDER}/blender"))
    binds += [Bind(folder, folder) for folder in needed_folders(package)]
    return tuple(binds)


def _program(
    limits: BlenderLimits, package: Package, order: SceneOrder, work: Path, script: str
) -> list[str]:
    path = start_path(package)
    driver = work / DRIVER
    if limits.sandbox == "bubblewrap":
        driver = Path(FARM_FOLDER, DRIVER)
        install = _install_folder(package)
        if install is not None:
            path = f"{FARM_FOLDER}/blender/{Path(path).relative_to(install)}"
    if package.kind == "bpy":
        return [path, "-I", "-B", str(driver / script)]
    scripts = "-y" if order.allow_scripts else "-Y"
    threads = str(len(limits.cores))
    options = ["-b", "--factory-startup", scripts, "-noaudio", "-t", threads]
    return [path, *options, "--python-exit-code", "1", "--python", str(driver / script)]


def _environment(limits: BlenderLimits, order: SceneOrder, layout: Layout, work: Path) -> dict[str, str]:
    home = "/tmp" if limits.sandbox == "bubblewrap" else str(work / "tmp")  # noqa: S108
    environment = {**order.environment}
    if "OCIO" in environment:
        environment["OCIO"] = layout.in_sandbox(normalise(environment["OCIO"]).text)
    own = {"HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    own |= shader_cache.environment(home)
    return {**environment, **own, "BLENDER_USER_RESOURCES": f"{home}/blender"}


def start_path(package: Package) -> str:
    """The program to start in the sandbox, by its path on this machine.

    It differs from the package's path where that enters a userland, which the sandbox has already.
    """
    if userland_of(package.path) is None:
        return package.path
    return str(Path(package.path).parents[1] / ENVIRONMENT / "bin" / "python")


def _install_folder(package: Package) -> Path | None:
    """The folder that holds this Blender; None if it is below /usr."""
    path = Path(package.path)
    if path.is_relative_to("/usr"):
        return None
    return path.parent.parent if package.kind == "bpy" else path.parent
