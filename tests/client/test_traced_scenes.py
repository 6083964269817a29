"""Each kind of path that a .blend can hold, in scenes of real Blenders: docs/traced-paths.md names the
tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from framefarm.blend.file import Blend
from framefarm.client import dependencies
from framefarm.client.dependencies import Dependencies
from framefarm.node import blender_installs

pytestmark = pytest.mark.blender
SCRIPT = Path(__file__).with_name("make_traced_scenes.py")
VERSIONS = ("blender-4-2", "blender-4-5", "blender-5-0", "blender-5-2")


@pytest.fixture(scope="module", params=VERSIONS)
def scenes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    blender = next((b for b in blender_installs.installed() if b.id == request.param), None)
    if blender is None:
        pytest.skip(f"no {request.param} here")
    folder = tmp_path_factory.mktemp("traced")
    done = subprocess.run(
        [blender.path, str(SCRIPT), str(folder)], capture_output=True, timeout=240, text=True
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return folder


def find(scenes: Path, scene: str) -> tuple[set[str], set[str], Dependencies]:
    """Names of the files to send and of the missing ones, relative to the folder of the scenes."""
    if not (scenes / scene).exists():
        pytest.skip("this Blender has no such thing")
    found = dependencies.find(scenes / scene)
    assert found.files[0] == scenes / scene
    sent = {str(path.relative_to(scenes)) for path in found.files[1:]}
    assert len(sent) == len(found.files) - 1
    return sent, {str(Path(m.path).relative_to(scenes)) for m in found.missing}, found


def test_images(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "images.blend")
    assert sent == {
        "tex/plain.png",
        "tex/größe 1.png",
        "seq/frame_0001_left.png",
        "seq/frame_0002_left.png",
        "tiles/skin.1001.png",
        "tiles/skin.1002.png",
        "tiles/uv_u1_v1.png",
    }
    assert missing == {"tex/gone.png"}


def test_movie_clips(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "clips.blend")
    assert sent == {"clips/plate.mp4", "clips/take 7 0001.png", "clips/take 7 0002.png"}
    assert not missing


def test_sounds_and_fonts(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "sounds.blend")
    assert sent == {"sound/wind.wav", "fonts/Serif Bold.otf"}
    assert not missing


def test_libraries(scenes: Path) -> None:
    """Also through a library of a library, and only what is linked."""
    sent, missing, _ = find(scenes, "libraries.blend")
    assert sent == {"lib/outer.blend", "lib/inner.blend", "lib/deep/wood.png"}
    assert not missing


def test_the_files_of_a_packed_library_are_sent_and_the_library_itself_is_not_missed(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "packed.blend")
    assert {"lib/deep/wood.png"} <= sent
    assert not missing


def test_volumes_and_caches(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "caches.blend")
    assert sent == {
        "vdb/fog_0001.vdb",
        "vdb/fog_0002.vdb",
        "vdb/one.vdb",
        "abc/base.abc",
        "abc/fix.abc",
        "abc/hidden.abc",
        "usd/shot.usda",
        "usd/layout.usda",
        "usd/deep/part.usda",
        "usd/clips/c.001.usd",
        "usd/clips/c.002.usd",
        "tex/usd.1001.png",
    }
    assert missing == {"abc/gone.abc"}


def test_modifiers(scenes: Path) -> None:
    mark_as_baked(scenes / "modifiers.blend", b"//sea")
    sent, missing, found = find(scenes, "modifiers.blend")
    assert sent == {"mdd/walk.mdd", "sea/disp_0001.exr", "sea/foam_0001.exr"}
    assert missing == {"mdd/lost.mdd"}
    assert found.missing[0].wanted_by == "modifier Lost of object Item"


def mark_as_baked(scene: Path, folder: bytes) -> None:
    """Set the ocean's mark, as a bake in the user interface does, in an uncompressed or compressed file."""
    with scene.open("rb") as file:
        blend = Blend(file)
        raw = bytearray(blend.source.read_at(0, blend.source.size))
        for block in blend.blocks:
            if block.dna_type_name == "OceanModifierData" and block[b"cachepath"] == folder:
                member = blend.dna.find("OceanModifierData", b"cached")
                assert member is not None
                raw[blend.offsets[block.index] + member.offset] = 1
    scene.write_bytes(raw)


def test_external_displacements(scenes: Path) -> None:
    assert find(scenes, "multires.blend")[:2] == ({"multires/body.btx"}, set())


def test_fluid_folder(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "fluid.blend")
    assert sent == {"tank cache/config/config_0001.uni", "tank cache/data/fluid_data_0001.vdb"}
    assert not missing, "the folder of a fluid that was never baked is missed"


def test_point_caches(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "shot 07.blend")
    unnamed = "Ünnamed".encode().hex().upper()
    names = ("flag", "jelly", unnamed, "dust")
    assert sent == {
        *(f"blendcache_shot 07/{name}_000001_00.bphys" for name in names),
        "elsewhere/sail_000001_00.bphys",
    }
    assert not missing


def test_geometry_node_bakes(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "bakes.blend")
    shared = {name for name in sent if name.startswith("bakes/shared/")}
    assert {name.rpartition("/")[2] for name in shared} == {"0001.json", "a.blob"}
    assert sent - shared == {"bakes/own/meta/0001.json"}
    assert not missing


def test_nodes(scenes: Path) -> None:
    sent, missing, found = find(scenes, "nodes.blend")
    assert sent == {
        "nodes/lamp.ies",
        "nodes/spot.ies",
        "nodes/stripes.osl",
        "nodes/lib/noise.h.osl",
        "nodes/lib/deeper.h",
    }
    assert missing == {"nodes/lost.oso"}
    assert found.missing[0].wanted_by == "node Lost of material Glow"


def test_paths_that_reach_an_import_node(scenes: Path) -> None:
    sent, missing, _ = find(scenes, "imports.blend")
    assert sent == {
        "models/a.stl",
        "models/b.obj",
        "models/b.mtl",
        "models/wall.png",
        "models/linked.ply",
        *(["models/input.csv"] if (scenes / "models/input.csv").exists() else []),
    }
    assert missing == {"models/gone.stl"}


def test_custom_camera(scenes: Path) -> None:
    assert find(scenes, "camera.blend")[:2] == (set(), {"nodes/lens.osl"})


def test_strips(scenes: Path) -> None:
    sent, missing, found = find(scenes, "strips.blend")
    assert sent == {
        "stills/dawn.png",
        "stills/noon.png",
        "beside.png",
        "stills/eye_L.png",
        "stills/eye_R.png",
        "cut/a.mp4",
    }
    assert missing == {"stills/gone at last.png"}
    assert found.missing[0].wanted_by == "strip Stills of scene Scene"
