"""Scenes with Windows paths, missing files, blocked scripts and add-ons, rendered by a running farm."""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from running_farm import EMAIL, FRAMEFARM, PASSWORD, RunningFarm

from framefarm.node.blender_installs import installed

pytestmark = pytest.mark.blender
SCRIPT = Path(__file__).parents[1] / "node" / "make_path_scenes.py"
OUTER = ("lib/drive_outer.blend", "lib/drive_inner.blend", "tex/green.png")
CASED = ("lib/cased_outer.blend", "lib/cased_inner.blend", "tex/green.png")
RED, GREEN, BLUE, NONE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)
PAINTER = """
import bpy
bl_info = {"name": "Painter", "blender": (4, 2, 0), "category": "Render"}

@bpy.app.handlers.persistent
def paint(*_):
    for image in bpy.data.images:
        image.filepath = "//tex/green.png"

def register():
    bpy.app.handlers.load_post.append(paint)

def unregister():
    bpy.app.handlers.load_post.remove(paint)
"""
SCRIPTED = """
import bpy, os, sys
bpy.ops.wm.open_mainfile(filepath=sys.argv[-2])
driver = bpy.context.scene.camera.driver_add("location", 0).driver
driver.expression = "__import__('os').getpid() * 0"
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1], relative_remap=False)
os._exit(0)
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    blender = next(b for b in installed() if b.id == "blender-4-2")
    folder = tmp_path_factory.mktemp("paths") / "proj"
    folder.mkdir()
    subprocess.run([blender.path, str(SCRIPT), str(folder)], check=True, capture_output=True, timeout=120)
    code = [blender.path, "-c", SCRIPTED, folder / "relative.blend", folder / "scripted.blend"]
    subprocess.run(code, check=True, capture_output=True, timeout=120)
    return folder


def sent(farm: RunningFarm, scenes: Path, folder: str, *names: str) -> list[str]:
    """Upload these scenes and files as files of the artist's `folder`. Returns their paths."""
    paths = []
    for name in names:
        slash = "\\" if "\\" in folder else "/"
        paths.append(folder + slash + name.replace("/", slash))
        farm.upload(paths[-1], (scenes / name).read_bytes())
    return paths


def colour(farm: RunningFarm, job_id: str) -> tuple[int, ...]:
    [file] = farm.all(f"/api/jobs/{job_id}/files")
    content = farm.client.get(file["url"], headers={"Authorization": ""}).content
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    [(_, seen)] = picture.getcolors() or []
    return tuple(seen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("folder", "names", "expected"),
    [
        ("C:\\proj", ("drive_nested.blend", *OUTER), GREEN),
        ("\\\\server\\share\\proj", ("unc_absolute.blend", "tex/red.png"), RED),
        ("D:\\x", ("cased_nested.blend", *CASED), GREEN),
        ("/home/ada/proj", ("tiles.blend", "tiles/skin.1001.png"), BLUE),
    ],
    ids=["drive", "unc", "cases", "tiles"],
)  # fmt: skip
def test_a_scene_with_windows_paths_shows_the_right_texture(
    farm: RunningFarm, scenes: Path, folder: str, names: tuple[str, ...], expected: tuple[int, int, int]
) -> None:
    paths = sent(farm, scenes, folder, *names)
    output = f"gs://renders/paths-{names[0]}"
    job = farm.submit(
        upload_paths=paths, scene_path=paths[0], frame_range="1", output_path=output, on_missing_files="fail"
    )
    done = farm.wait(job["id"], "success")
    assert done["warnings"] == []
    assert colour(farm, job["id"]) == expected


def test_a_missing_texture_holds_before_a_machine_is_paid_and_an_unhold_accepts_it(
    farm: RunningFarm, scenes: Path
) -> None:
    paths = sent(farm, scenes, "C:\\lost", "relative.blend")
    output = "gs://renders/paths-missing"
    job = farm.submit(upload_paths=paths, frame_range="1", output_path=output, on_missing_files="hold")
    held = farm.wait(job["id"], "holding")
    assert held["hold_reasons"] == ["rule"]
    assert [w["subject"] for w in held["warnings"]] == ["C:/proj/tex/blue.png"]
    assert farm.all(f"/api/jobs/{job['id']}/attempts") == []
    farm.client.patch(f"/api/jobs/{job['id']}", json={"action": "unhold"})
    assert [w["code"] for w in farm.wait(job["id"], "success")["warnings"]] == ["missing_file"]
    assert colour(farm, job["id"]) == NONE


def test_scripts_and_addons_run_only_where_the_operator_allows_them(farm: RunningFarm, scenes: Path) -> None:
    paths = sent(farm, scenes, "C:\\proj", "scripted.blend", "tex/blue.png", "tex/green.png")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr("painter/__init__.py", PAINTER)
    addon = "C:\\tools\\painter.zip"
    farm.upload(addon, packed.getvalue())
    fields = {"upload_paths": [*paths, addon], "frame_range": "1-2"}
    job = farm.submit(**fields, output_path="gs://renders/paths-scripts")
    held = farm.wait(job["id"], "holding")
    assert held["hold_reasons"] == ["rule"]
    assert [w["code"] for w in held["warnings"]] == ["blocked_scripts"]
    farm.client.patch(f"/api/jobs/{job['id']}", json={"action": "unhold"})
    farm.wait(job["id"], "success")

    payload = {
        "job_title": "x", "project": "default", "instance_type": "local-1", "blender_version": "4.2",
        "output_path": "gs://renders/paths-addon", **fields, "addons": [addon],
    }  # fmt: skip
    refused = farm.client.post("/api/jobs", json=payload)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "addons"
    account = farm.client.get("/api/auth/me").json()["account"]["name"]
    allow = [
        FRAMEFARM,
        "admin",
        "account",
        "set",
        "--data",
        farm.data,
        "--account",
        account,
        "--allow-scripts",
        "yes",
    ]
    subprocess.run(allow, check=True, capture_output=True)
    try:
        job = farm.submit(
            **fields | {"frame_range": "1"}, addons=[addon], output_path="gs://renders/paths-addon"
        )
        done = farm.wait(job["id"], "success")
        assert {w["code"] for w in done["warnings"]} == {"input_not_reconfirmed"}
        assert colour(farm, job["id"]) == GREEN
    finally:
        subprocess.run([*allow[:-1], "no"], check=True, capture_output=True)


def test_the_command_line_sends_what_a_scene_names_in_another_case(
    farm: RunningFarm, scenes: Path, tmp_path: Path
) -> None:
    home = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "200"}

    def framefarm(*words: str) -> str:
        return subprocess.run(
            [FRAMEFARM, *words], check=True, capture_output=True, text=True, env=home
        ).stdout

    (tmp_path / "password").write_text(PASSWORD)
    framefarm(
        "login", str(farm.client.base_url), "--email", EMAIL, "--password-file", str(tmp_path / "password")
    )
    words = ["--frames", "1", "--on-missing-files", "fail", "--output", "gs://renders/paths-cli", "--json"]
    job = json.loads(framefarm("submit", str(scenes / "case.blend"), *words))
    assert job["upload_paths"] == [str(scenes / "case.blend"), str(scenes / "tex/blue.png")]
    farm.wait(job["id"], "success")
    assert colour(farm, job["id"]) == BLUE
