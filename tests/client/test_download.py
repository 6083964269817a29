from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from fake_farm import FakeFarm
from hypothesis import given
from hypothesis import strategies as st

from framefarm.client import Client, Incomplete
from framefarm.client.download import DownloadResult, download, list_files, safe_parts


def fetch(fake: FakeFarm, folder: Path) -> DownloadResult:
    client = Client(fake.url, "t0k")
    return download(client, list_files(client, "job_1"), folder)


def file_entry(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest(), "url": "/signed/0", **more}


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def test_files_are_stored_completely_under_their_names(fake: FakeFarm, tmp_path: Path) -> None:
    fake.rendered("shot_0001.png", b"one")
    fake.rendered("Depth/pass_0001.exr", b"two" * 1_000_000)
    result = fetch(fake, tmp_path / "new" / "out")
    assert result.problems == []
    assert (tmp_path / "new/out/Depth/pass_0001.exr").read_bytes() == b"two" * 1_000_000
    assert files_below(tmp_path / "new/out") == ["Depth/pass_0001.exr", "shot_0001.png"]


def test_a_second_run_fetches_only_what_is_missing_or_changed(fake: FakeFarm, tmp_path: Path) -> None:
    for number in range(3):
        fake.rendered(f"{number}.png", f"picture {number}".encode())
    fetch(fake, tmp_path)
    (tmp_path / "1.png").write_bytes(b"pictura 1")
    (tmp_path / "2.png").unlink()
    result = fetch(fake, tmp_path)
    assert (result.already_there, result.fetched) == (["0.png"], ["1.png", "2.png"])
    assert (tmp_path / "1.png").read_bytes() == b"picture 1"


def test_files_that_no_download_wrote_are_kept(fake: FakeFarm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "Depth").mkdir(parents=True)
    for name in ("1.png", "1.png.before-1", "Depth/1.exr", "other.png"):
        (out / name).write_bytes(b"my own")
    fake.rendered("1.png", b"farm's")
    fake.rendered("2.png", b"farm's")
    fake.rendered("Depth/1.exr", b"farm's")
    assert fetch(fake, out).kept == [("1.png", "1.png.before-2"), ("Depth/1.exr", "1.exr.before-1")]
    for name in ("1.png.before-2", "Depth/1.exr.before-1", "other.png", "1.png.before-1"):
        assert (out / name).read_bytes() == b"my own"
    (out / "2.png").write_bytes(b"painted over")
    for name in ("1.png", "2.png"):
        fake.rendered(name, b"again")  # as after a retry of the frames
    result = fetch(fake, out)
    assert (result.kept, result.problems) == ([("2.png", "2.png.before-1")], [])
    assert (out / "2.png.before-1").read_bytes() == b"painted over"
    assert {(out / name).read_bytes() for name in ("1.png", "2.png")} == {b"again"}


@pytest.mark.parametrize("received", [b"pictures 1", b"picture", b"", b"picture 1 and more"])
def test_a_file_with_a_wrong_checksum_is_not_stored(fake: FakeFarm, tmp_path: Path, received: bytes) -> None:
    fake.rendered("1.png", b"picture 1!")
    fake.rendered("2.png", b"picture 2!")
    fake.spoiled["1.png"] = received
    result = fetch(fake, tmp_path)
    assert [path for path, _ in result.problems] == ["1.png"]
    assert files_below(tmp_path) == ["2.png"]
    with pytest.raises(Incomplete):
        result.check()


LEADING_ELSEWHERE = ["", "/etc/passwd", "../up.png", "a/../../up.png", "a//b", ".", "a/."]
OTHERWISE_NAMED = {
    "C:/x": "C_/x", "C:x": "C_x", "a\\b": "a_b", "nul": "_nul", "a/CON.png": "a/_CON.png",
    "lpt¹.txt": "_lpt¹.txt",
    "stream.png:hidden": "stream.png_hidden", "a.png.": "a.png_", "a ": "a_", "a\nb": "a_b",
    'Shot 12: "dusk"?_0001.png': "Shot 12_ _dusk___0001.png", "a\x1b[2J": "a_[2J",
}  # fmt: skip


@pytest.mark.parametrize("name", LEADING_ELSEWHERE)
def test_a_file_whose_name_leads_elsewhere_is_not_fetched(fake: FakeFarm, tmp_path: Path, name: str) -> None:
    fake.rendered("good.png", b"x")
    fake.listed = [file_entry(name)]
    result = fetch(fake, tmp_path / "out")
    assert [path for path, _ in result.problems] == [name]
    assert files_below(tmp_path) == ["out/good.png"]


def test_names_that_not_every_system_takes_are_replaced_and_told(fake: FakeFarm, tmp_path: Path) -> None:
    for number, name in enumerate(OTHERWISE_NAMED):
        fake.rendered(name, str(number).encode())
    fake.rendered("a/plain.png", b"plain")
    result = fetch(fake, tmp_path / "out")
    assert result.problems == []
    told = dict(result.renamed)
    assert told.keys() == OTHERWISE_NAMED.keys()
    twins = {"a\\b", "a\nb"}  # both become a_b: one of them has its hash in its name
    assert {n: told[n] for n in told if n not in twins} == {
        n: safe for n, safe in OTHERWISE_NAMED.items() if n not in twins
    }
    for number, name in enumerate(OTHERWISE_NAMED):
        assert (tmp_path / "out" / told[name]).read_bytes() == str(number).encode()
    again = fetch(fake, tmp_path / "out")
    assert again.fetched == [] and again.renamed == result.renamed


def test_of_two_frames_with_one_path_the_later_one_is_fetched(fake: FakeFarm, tmp_path: Path) -> None:
    fake.rendered("Shot/a0101.png", b"later")
    [later] = fake.file_entries()
    result = download(Client(fake.url, "t0k"), [later | {"sha256": "0" * 64, "size": 3}, later], tmp_path)
    assert result.problems == []
    assert (tmp_path / "Shot/a0101.png").read_bytes() == b"later"


@given(st.text(alphabet=st.sampled_from("ab./\\:~ C\x00é*"), max_size=12) | st.text(max_size=12))
def test_every_accepted_name_stays_below_the_folder(name: str) -> None:
    try:
        parts = safe_parts(name)
    except ValueError:
        return
    for path_type in (PurePosixPath, PureWindowsPath):
        joined = path_type("/root", *parts)
        assert joined.parts[1:] == ("root", *parts)
        assert ".." not in joined.parts


def test_nothing_is_written_through_a_link(fake: FakeFarm, tmp_path: Path) -> None:
    fake.rendered("linked/a.png", b"one")
    fake.rendered("b.png", b"two")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "out" / "b.png").symlink_to(tmp_path / "victim")
    result = fetch(fake, tmp_path / "out")
    assert [path for path, _ in result.problems] == ["linked/a.png"]
    assert files_below(tmp_path / "elsewhere") == []
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert (tmp_path / "out" / "b.png").read_bytes() == b"two"


def test_names_that_differ_in_case_only_do_not_overwrite_each_other(fake: FakeFarm, tmp_path: Path) -> None:
    fake.rendered("a.png", b"one")
    fake.rendered("A.png", b"two")
    result = fetch(fake, tmp_path)
    [(path, name)] = result.renamed
    assert path == "A.png" and name.casefold() != "a.png"
    assert (tmp_path / "a.png").read_bytes() == b"one"
    assert (tmp_path / name).read_bytes() == b"two"


def test_a_file_replaced_by_another_job_is_reported_with_that_job(fake: FakeFarm, tmp_path: Path) -> None:
    fake.listed = [file_entry("a.png", url=None, replaced_by="job_2")]
    assert "job_2" in fetch(fake, tmp_path).problems[0][1]


def test_a_fetch_that_breaks_off_is_repeated(fake: FakeFarm, tmp_path: Path) -> None:
    fake.rendered("a.png", b"one")
    client = Client(fake.url, "t0k")
    files = list_files(client, "job_1")
    fake.failures = [(0, {}, {}), (500, {}, {})]
    counts: list[int] = []
    assert download(client, files, tmp_path, on_bytes=counts.append).fetched == ["a.png"]
    assert sum(counts) == 3
