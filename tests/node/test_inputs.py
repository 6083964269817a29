"""A session's inputs as a tree of links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.paths import normalise_all
from framefarm.node.inputs import SYSTEM_FOLDERS, BadInputs, Layout, lay_out
from framefarm.node.sandbox import Bind
from framefarm.protocol.node import Input


def stored(folder: Path, path: str, content: bytes = b"bytes", mode: int = 0o644) -> Input:
    folder.mkdir(exist_ok=True)
    source = folder / str(len(list(folder.iterdir())))
    source.write_bytes(content)
    source.chmod(mode)
    return Input(path=path, sha256="", size=len(content), source=str(source))


def test_files_are_links_below_folders_that_anyone_may_read(tmp_path: Path) -> None:
    os.umask(0o077)
    try:
        item = stored(tmp_path / "store", "/projects/film/tex/a.png")
        layout = lay_out([item], tmp_path / "tree")
    finally:
        os.umask(0o022)
    assert layout.binds == (Bind(f"{tmp_path}/tree/projects", "/projects"),)
    assert layout.remap == ()
    target = tmp_path / "tree/projects/film/tex/a.png"
    assert target.samefile(item.source)
    assert all(p.stat().st_mode & 0o777 == 0o755 for p in (target.parent, target.parents[2]))


@pytest.mark.parametrize(
    "path",
    ["/etc/x/a", "/usr/a", "/tmp/a", "/output/a", "/inputs/a", "/lib64/a", "/proc/a", "/run/a/b", "/a"],
)  # fmt: skip
def test_a_system_folder_is_remapped(tmp_path: Path, path: str) -> None:
    layout = lay_out([stored(tmp_path / "store", path)], tmp_path / "tree")
    assert layout.in_sandbox(path) == "/inputs" + path
    [bind] = layout.binds
    assert (bind.source, bind.target) == (f"{tmp_path}/tree", "/inputs")


def test_a_reserved_folder_is_remapped_whole(tmp_path: Path) -> None:
    item = stored(tmp_path / "store", "/opt/textures/a")
    assert (
        lay_out([item], tmp_path / "tree", reserved=["/opt/python"]).in_sandbox(item.path)
        == "/inputs" + item.path
    )


def test_without_bubblewrap_everything_is_in_the_tree(tmp_path: Path) -> None:
    layout = lay_out([stored(tmp_path / "store", "/projects/a")], tmp_path / "tree", "none")
    assert layout.in_sandbox("/projects/a") == f"{tmp_path}/tree/projects/a"
    assert layout.in_sandbox("/projectsother/a") == "/projectsother/a"


@pytest.mark.parametrize(
    "path", ["a/b", "/a/../b", "/a//b", "/a/./b", "/a/b/", "/", "", "/a\0b", "/" + "x" * 256]
)
def test_a_path_that_is_not_plain_is_refused(tmp_path: Path, path: str) -> None:
    item = Input(path=path, sha256="", size=0, source="/dev/null")
    with pytest.raises(BadInputs):
        lay_out([item], tmp_path / "tree")


@pytest.mark.parametrize("paths", [("/p/a", "/p/a/b"), ("/p/a/b", "/p/a"), ("/p/a", "/p/a")])
def test_an_input_may_not_be_anothers_folder(tmp_path: Path, paths: tuple[str, str]) -> None:
    with pytest.raises(BadInputs):
        lay_out([stored(tmp_path / "store", path) for path in paths], tmp_path / "tree")


def test_a_wrong_size_is_refused(tmp_path: Path) -> None:
    item = stored(tmp_path / "store", "/p/a")
    Path(item.source).write_bytes(b"other bytes")
    with pytest.raises(BadInputs, match="11 bytes, but 5"):
        lay_out([item], tmp_path / "tree")


def test_missing_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputs, match="not on this machine"):
        lay_out([Input(path="/p/a", sha256="", size=1, source=str(tmp_path / "no"))], tmp_path / "tree")


def test_a_link_in_the_store_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    size = os.stat("/etc/passwd").st_size
    with pytest.raises(BadInputs):
        lay_out([Input(path="/p/a", sha256="", size=size, source=str(tmp_path / "link"))], tmp_path / "tree")


def test_a_file_that_blenders_user_cannot_read_is_copied_and_stays_as_it_was(tmp_path: Path) -> None:
    item = stored(tmp_path / "store", "/p/a", mode=0o600)
    lay_out([item], tmp_path / "tree")
    target = tmp_path / "tree/p/a"
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"bytes", 0o644)
    assert Path(item.source).stat().st_mode & 0o777 == 0o600


def test_a_file_on_another_disk_is_copied(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"framefarm-test-{os.getpid()}"
    other.write_bytes(b"far away")
    try:
        lay_out([Input(path="/p/a", sha256="", size=8, source=str(other))], tmp_path / "tree")
    finally:
        other.unlink()
    assert (tmp_path / "tree/p/a").read_bytes() == b"far away"


def test_many_top_folders_do_not_become_many_binds(tmp_path: Path) -> None:
    items = [stored(tmp_path / "store", f"/top{n}/a") for n in range(500)]
    layout = lay_out(items, tmp_path / "tree")
    assert len(layout.binds) <= 201
    assert layout.in_sandbox("/top499/a") == "/inputs/top499/a"


@given(st.lists(st.text("ab/.", min_size=1, max_size=12), max_size=8))
def test_no_input_is_linked_outside_the_tree(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "source").write_bytes(b"")
    items = [Input(path="/" + p, sha256="", size=0, source=str(folder / "source")) for p in paths]
    try:
        layout = lay_out(items, folder / "tree")
    except BadInputs:
        layout = Layout(folder / "tree")
    assert {p.name for p in folder.iterdir()} == {"source", "tree"}
    assert all(Path(b.source).is_relative_to(folder / "tree") for b in layout.binds)


def test_windows_paths_are_where_blender_looks_for_them(tmp_path: Path) -> None:
    paths = ["C:/proj/a.blend", "D:/tex/b.png", "//srv/share/c.png", "//usr/share/d.png"]
    layout = lay_out([stored(tmp_path / "store", path) for path in paths], tmp_path / "tree")
    assert [layout.in_sandbox(path) for path in paths] == [
        "/c/proj/a.blend", "/d/tex/b.png", "/srv/share/c.png", "/inputs/usr/share/d.png",
    ]  # fmt: skip
    targets = {bind.target: bind.source.removeprefix(str(tmp_path)) for bind in layout.binds}
    assert targets == {
        "/c": "/tree/c", "/d": "/tree/d", "/srv": "/tree/srv", "/\\\\srv": "/tree/srv",
        "/\\\\usr": "/tree/usr", "/inputs": "/tree",
    }  # fmt: skip
    bare = lay_out([stored(tmp_path / "more", path) for path in paths], tmp_path / "bare", "none")
    assert bare.in_sandbox("C:/proj/a.blend") == f"{tmp_path}/bare/c/proj/a.blend"
    assert bare.in_sandbox("//usr/share/d.png") == f"{tmp_path}/bare/usr/share/d.png"


names = st.sampled_from(
    ["usr", "etc", "run", "tmp", "output", "inputs", "lib64", "proc", "opt", "c", "film", "a"]
)
starts = st.sampled_from(["/", "C:/", "//"])


@given(st.lists(st.tuples(starts, st.lists(names, min_size=3, max_size=5)), min_size=1, max_size=8))
def test_every_accepted_input_has_its_own_path_and_no_system_folder_is_covered(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, list[str]]]
) -> None:
    paths, errors = normalise_all([start + "/".join(parts) for start, parts in drawn])
    if errors:
        return
    folder = tmp_path_factory.mktemp("layout")
    items = [stored(folder / "store", path, path.encode()) for path in paths]
    layout = lay_out(items, folder / "tree", reserved=["/opt/python"])
    in_sandbox = [layout.in_sandbox(path) for path in paths]
    assert len(set(in_sandbox)) == len(in_sandbox)
    for place in in_sandbox:
        assert place.startswith("/inputs/") or not place.startswith(
            ("/usr/", "/etc/", "/run/", "/tmp/", "/output/", "/lib", "/proc/", "/opt/")
        )
    assert not {b.target for b in layout.binds} & {"/", *SYSTEM_FOLDERS} - {"/inputs"}
    seen = sorted(layout.binds, key=lambda bind: len(bind.target), reverse=True)
    for path, place in zip(paths, in_sandbox, strict=True):
        bind = next(b for b in seen if place.startswith(b.target + "/"))
        real = Path(bind.source + place.removeprefix(bind.target))
        assert real.read_text() == path
        assert real.resolve().is_relative_to(folder / "tree")
