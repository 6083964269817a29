"""docs/traced-paths.md has the rows of the table of paths, and the table has every path of real files'
structs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from framefarm.blend.file import Blend
from framefarm.blend.path_table import NO_INPUTS, READ_THERE, READERS
from framefarm.node import blender_installs

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "traced-paths.md").read_text()
TESTS = (ROOT / "tests" / "client" / "test_traced_scenes.py").read_text()
PATH_BYTES = 256
"""From this length on, an array of text may be a path; names are shorter."""
PATH_LIKE = re.compile(r"path|dir(ectory)?\Z|file(name)?\Z|bake_dir|cache_?dir")
NO_PATHS = re.compile(
    r"rna_path|\w*active_catalog_path|context_data_path|info|\w*str(ing)?|idname|name\w*|\w*slot_name|description"
    r"|expression|message|text|profile|filter_byname|list_id|prompt"
)
"""Members whose names tell that they are no paths of files."""


def test_every_struct_that_is_read_has_a_row_with_an_existing_test() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `(\w+)` \|$", PAGE, re.MULTILINE))
    assert sorted(rows) == sorted(READERS)
    assert {test for test in rows.values() if f"def {test}(" not in TESTS} == set()


def test_every_struct_that_is_read_with_another_is_named() -> None:
    (paragraph,) = re.findall(r"^Some structs are read with.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", paragraph)) == {*READ_THERE, *READ_THERE.values()}


def test_every_struct_that_is_no_input_has_a_row_with_its_reason() -> None:
    assert dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", PAGE, re.MULTILINE)) == NO_INPUTS


@pytest.mark.blender
@pytest.mark.parametrize("blender", blender_installs.installed(), ids=lambda b: b.id)
def test_every_path_in_a_blenders_own_structs_is_in_the_table(
    tmp_path: Path, blender: blender_installs.Installed
) -> None:
    """A Blender with a new struct that holds a path fails here until somebody has decided about it."""
    script = tmp_path / "save.py"
    script.write_text(f"import bpy\nbpy.ops.wm.save_as_mainfile(filepath={str(tmp_path / 'a.blend')!r})\n")
    subprocess.run([blender.path, str(script)], check=True, capture_output=True, timeout=120)
    with (tmp_path / "a.blend").open("rb") as file:
        dna = Blend(file).dna
    undecided = set()
    for struct in dna.structs:
        for name, member in struct.members.items():
            text = name.decode()
            is_text = member.type == "char" and (member.is_pointer or member.count >= 64)
            may_be = PATH_LIKE.search(text) or (not member.is_pointer and member.count >= PATH_BYTES)
            if is_text and may_be and not NO_PATHS.fullmatch(text):
                undecided.add(struct.name)
    assert undecided - {*READERS, *READ_THERE, *NO_INPUTS} == set()
