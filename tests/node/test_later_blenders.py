"""Blender 5.2 in its userland, in the sandbox: it renders, and writes the files that its nodes ask for.

`framefarm blender install 5.2` makes it; without it these tests are skipped. All of tests/node run with it by
FRAMEFARM_TEST_BPY=PYTHON.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blender_harness import BlenderHarness

from framefarm.node.blender_installs import installed
from framefarm.protocol.node import Package, RenderSettings

pytestmark = [pytest.mark.blender]

MAKE_SCENE = """
import bpy, os, shutil, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 1, False
scene.render.resolution_x, scene.render.resolution_y = 32, 24
camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
scene.collection.objects.link(camera)
scene.camera = camera
tree = bpy.data.node_groups.new("Compositing", "CompositorNodeTree")
scene.compositing_node_group = tree
layers, out = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("CompositorNodeOutputFile")
out.name, out.file_name, out.format.media_type, out.format.file_format = "Passes", "pass_", "IMAGE", "PNG"
out.file_output_items.new("RGBA", "Image")
tree.links.new(layers.outputs[0], out.inputs[0])
edit = bpy.data.scenes.new("Edit")
edit.render.resolution_x, edit.render.resolution_y = 32, 24
strip = edit.sequence_editor_create().strips.new_effect("Red", "COLOR", channel=1, frame_start=1, length=10)
strip.color = (1, 0, 0)
movie = bpy.data.scenes.new("Movie")
movie.collection.objects.link(camera)
movie.camera = camera
movie.render.resolution_x, movie.render.resolution_y = 32, 24
movie.cycles.samples, movie.cycles.use_denoising = 1, False
movie.render.image_settings.media_type = "VIDEO"
movie.render.image_settings.file_format = "FFMPEG"
movie.render.engine = "BLENDER_WORKBENCH"
bpy.ops.wm.save_as_mainfile(filepath=os.path.join(sys.argv[-1], "later.blend"))

def begin():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(scene.camera)
    return scene

def save(name):
    path = os.path.join(sys.argv[-1], name + ".blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, relative_remap=False)
    return path

def fur(name):
    bpy.ops.mesh.primitive_plane_add()
    bpy.context.object.name = name
    system = bpy.context.object.modifiers.new("Fur", "PARTICLE_SYSTEM").particle_system
    system.settings.count, system.point_cache.name, system.point_cache.frame_end = 10, name, 3
    return system.point_cache

begin()
fur("Unbaked")
library = save("fur \u00e4")
scene = begin()
with bpy.data.libraries.load(library, link=True) as (_, wanted):
    wanted.objects = ["Unbaked"]
bpy.data.libraries[0].filepath = "//fur \u00e4.blend"
scene.collection.objects.link(bpy.data.objects["Unbaked"])
fur("Own")
save("unbaked")
cache = fur("Baked")
save("baked away")
cache.use_disk_cache = True
with bpy.context.temp_override(point_cache=cache):
    bpy.ops.ptcache.bake(bake=True)
save("baked away")
shutil.rmtree(os.path.join(sys.argv[-1], "blendcache_baked away"))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def later() -> Package:
    found = [
        install for install in installed() if install.release.startswith("5.2.") and install.kind == "bpy"
    ]
    if not found:
        pytest.skip("no Blender 5.2 here: framefarm blender install 5.2")
    return Package(id=found[-1].id, kind="bpy", path=found[-1].path, release=found[-1].release)


@pytest.fixture(scope="module")
def later_scene(later: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("later")
    subprocess.run([later.path, "-c", MAKE_SCENE, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def harness(tmp_path: Path, later: Package, later_scene: Path) -> Iterator[BlenderHarness]:
    harness = BlenderHarness(tmp_path, later, later_scene)
    yield harness
    for blender in harness.blenders:
        blender.kill()


def files_of(harness: BlenderHarness, frame: int, scene: str | None = None, engine: str = "") -> set[str]:
    """The files of one frame, by their paths in its folder."""
    blender = harness.start("later", RenderSettings(scene=scene, engine=engine))
    blender.open_scene()
    opened = harness.opened()
    assert opened.blender_version.startswith("5.2.")
    blender.render(frame)
    directory = harness.saved().directory
    blender.close()
    assert harness.exited().code == 0
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_it_renders_with_cycles_and_writes_its_nodes_files(harness: BlenderHarness) -> None:
    assert files_of(harness, 7) == {"picture_0007.png", "Passes/pass_Image0007.png"}


def test_it_renders_strips_without_a_camera(harness: BlenderHarness) -> None:
    assert files_of(harness, 3, "Edit") == {"picture_0003.png"}


def test_a_movie_becomes_pictures(harness: BlenderHarness) -> None:
    assert files_of(harness, 2, "Movie", engine="cycles") == {"picture_0002.png"}


@pytest.mark.parametrize(
    ("scene", "missing"), [("unbaked", {}), ("baked away", {"/projects/film/blendcache_baked away": "Fur"})]
)
def test_a_folder_of_caches_is_missed_only_where_something_is_baked(
    harness: BlenderHarness, scene: str, missing: dict[str, str]
) -> None:
    harness.start(scene).open_scene()
    warned = [w for w in harness.opened().warnings if w.code == "missing_file"]
    assert [w.subject for w in warned] == list(missing)
    assert all(user in warning.wanted_by for warning, user in zip(warned, missing.values(), strict=True))
