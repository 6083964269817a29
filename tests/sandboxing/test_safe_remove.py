from __future__ import annotations

import os
from pathlib import Path

from framefarm.sandboxing.safe_remove import remove_tree


def test_folders_nested_deeper_than_python_recurses_are_removed_and_no_link_is_followed(
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(other)
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert remove_tree(work)
    assert (other / "kept").exists()
