"""Add-ons of a job: installed for one Blender in its sandbox, enabled before the scene opens."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Mapping

import msgspec
import pytest
from blender_harness import BlenderHarness, inputs_of

from framefarm.node.inputs import Layout, lay_out

pytestmark = pytest.mark.blender
AT = "/projects/film"
MANIFEST = """
schema_version = "1.0.0"
id = "tint"
version = "1.0.0"
name = "Tint"
tagline = "Tints"
maintainer = "A Studio"
type = "add-on"
blender_version_min = "4.2.0"
license = ["SPDX:GPL-3.0-or-later"]
"""
CODE = """
bl_info = {"name": "Tint", "blender": (2, 80, 0), "category": "Render"}
import bpy

def on_load(*_):
    print("tint sees", bpy.data.filepath, flush=True)

on_load = bpy.app.handlers.persistent(on_load)

def register():
    print("tint registers before", repr(bpy.data.filepath), flush=True)
    bpy.app.handlers.load_post.append(on_load)

def unregister():
    bpy.app.handlers.load_post.remove(on_load)
"""


def packed(files: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, text in files.items():
            zipped.writestr(name, text)
    return out.getvalue()


def layout(harness: BlenderHarness, addon: bytes) -> Layout:
    (harness.folder / "tint.zip").write_bytes(addon)
    inputs = [i for i in inputs_of(harness.scenes, AT) if i.path.endswith((".png", "/plain.blend"))]
    [item] = [i for i in inputs_of(harness.folder, "/addons") if i.path == "/addons/tint.zip"]
    return lay_out([*inputs, msgspec.structs.replace(item)], harness.folder / "tree")


@pytest.mark.parametrize(
    "files",
    [
        {"tint/__init__.py": CODE, "tint/more.py": "", "__MACOSX/tint/x": ""},
        {"tint.py": CODE},
        {"blender_manifest.toml": MANIFEST, "__init__.py": CODE},
        {"tint-1.0/blender_manifest.toml": MANIFEST, "tint-1.0/__init__.py": CODE},
    ],
    ids=["folder", "one file", "extension", "extension in a folder"],
)
def test_an_addon_is_enabled_before_the_scene_opens_and_stays_enabled(
    harness: BlenderHarness, files: dict[str, str]
) -> None:
    blender = harness.start("plain", layout=layout(harness, packed(files)), addons=["/addons/tint.zip"])
    blender.open_scene()
    harness.opened()
    blender.open_scene()
    blender.render(1)
    harness.opened()
    harness.saved()
    blender.close()
    assert harness.exited().cause == "closed"
    printed = harness.printed.decode()
    assert printed.count("tint registers before ''") == 1
    assert printed.count(f"tint sees {AT}/plain.blend") == 2


def a_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        zipped.writestr("tint/__init__.py", CODE)
        link = zipfile.ZipInfo("tint/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(link, "/etc")
    return out.getvalue()


def a_bomb() -> bytes:
    """A zip of a few bytes whose directory declares 3 GiB."""
    data = bytearray(packed({"tint/__init__.py": CODE, "tint/big": "x"}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (3 << 30).to_bytes(4, "little")
    return bytes(data)


HOSTILE = {
    "slip": (packed({"tint/__init__.py": CODE, "../../../tmp/evil.py": ""}), "leads out"),
    "absolute": (packed({"tint/__init__.py": CODE, "/tmp/evil.py": ""}), "leads out"),
    "backslash": (packed({"tint/__init__.py": CODE, "..\\evil.py": ""}), "leads out"),
    "link": (a_link(), "is a link"),
    "bomb": (a_bomb(), "larger than 2 GiB"),
    "many": (packed({f"tint/{n}": "" for n in range(50_001)}), "more than 50000 files"),
    "no zip": (b"PK\x03\x04 and no more", "no whole zip"),
    "no addon": (packed({"readme.txt": ""}), "neither a blender_manifest.toml"),
    "odd manifest": (packed({"blender_manifest.toml": "id = ["}), "cannot be read"),
    "odd id": (packed({"blender_manifest.toml": 'id = "../x"'}), "no id that can be imported"),
    "theme": (packed({"blender_manifest.toml": 'id = "x"\ntype = "theme"'}), "not an add-on"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_bad_addon_fails_and_says_what_is_wrong_with_it(harness: BlenderHarness, kind: str) -> None:
    data, words = HOSTILE[kind]
    blender = harness.start("plain", layout=layout(harness, data), addons=["/addons/tint.zip"])
    blender.open_scene()
    failed = harness.failed()
    assert failed.cause == "bad_addon"
    assert "tint.zip" in failed.message and words in failed.message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tint/__init__.py": CODE + "\nraise ValueError('not for this Blender')"}, "not for this Blender"),
        ({"tint.py": CODE + "\ndef register():\n    import nothing_like_it"}, "nothing_like_it"),
        (
            {
                "blender_manifest.toml": MANIFEST.replace("4.2.0", "9.9.0"),
                "__init__.py": CODE + "\nraise ValueError('too old')",
            },
            "",
        ),
    ],
)
def test_addon_failed_says_what_it_raised(harness: BlenderHarness, files: dict[str, str], words: str) -> None:
    blender = harness.start("plain", layout=layout(harness, packed(files)), addons=["/addons/tint.zip"])
    blender.open_scene()
    failed = harness.failed()
    assert failed.cause == "addon_failed"
    assert words in failed.message


def test_an_addon_leaves_nothing_for_the_next_blender(harness: BlenderHarness) -> None:
    files = layout(harness, packed({"tint.py": CODE}))
    first = harness.start("plain", layout=files, addons=["/addons/tint.zip"])
    first.open_scene()
    harness.opened()
    first.close()
    harness.exited()
    harness.printed.clear()
    second = harness.start("plain", layout=files)
    second.open_scene()
    harness.opened()
    assert b"tint" not in harness.printed
