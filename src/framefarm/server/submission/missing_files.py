"""What a job's scene wants, held against what was uploaded, before a machine is paid.

What the scene's own file names is certain to be wanted. What its linked libraries name may belong to parts of
them that the scene does not use: nobody but Blender knows, so this is told apart
(docs/decisions/0017-what-libraries-name-is-doubtful.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from framefarm.core.failure_codes import explain
from framefarm.core.path_matching import Uploads, placeable_aliases
from framefarm.core.paths import normalise
from framefarm.server.files.scene_reader import Dependency, SceneFacts, absolute

BLENDERS_OWN = "/datafiles/assets/"
"""Brushes that 4.3 and later link from the artist's installation; every Blender has its own."""
MOST_LIBRARIES = 2000
MOST_TOLD = 100
MOST_ALIASES = 20_000
NAMED = 3

Reading = Callable[[Sequence[str]], Sequence[SceneFacts]]
"""Reads uploaded .blends, in order."""


@dataclass
class Needs:
    """`aliases` pairs (as the scene names it, as it was uploaded): names that differ in case alone."""

    missing: dict[str, str] = field(default_factory=dict)
    """Certain: path → the data-block that names it."""
    doubtful: dict[str, dict[str, str]] = field(default_factory=dict)
    """Library → what it names and nobody uploaded, in the same shape."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Library → why."""
    aliases: list[tuple[str, str]] = field(default_factory=list)

    def warnings(self) -> list[dict[str, str]]:
        """For the artist; bounded."""
        told = []
        for path, wanted_by in list(self.missing.items())[:MOST_TOLD]:
            facts = {"path": path, "wanted_by": f" ({wanted_by})" if wanted_by else ""}
            told.append(_warning("missing_file", path, facts))
        if len(self.missing) > MOST_TOLD:
            told.append(_warning("missing_file", "", {"path": f"{len(self.missing) - MOST_TOLD} more files"}))
        for library, why in list(self.unreadable.items())[:MOST_TOLD]:
            told.append(_warning("library_unread", library, {"path": library, "what": why.rstrip(".")}))
        for library, lost in list(self.doubtful.items())[:MOST_TOLD]:
            named = ", ".join(list(lost)[:NAMED]) + (", …" if len(lost) > NAMED else "")
            files = f"{len(lost)} file{'s' if len(lost) > 1 else ''}"
            told.append(
                _warning("library_files_missing", library, {"path": library, "files": files, "named": named})
            )
        return told


def look(scene: SceneFacts, uploads: Uploads, reading: Reading) -> Needs:
    """Follow the scene and the libraries that it links, and theirs. Disk caches that nobody baked are not
    among what the reader tells."""
    needs = Needs()
    aliases: dict[str, str] = {}
    facts = {scene.path: scene}
    seen = {scene.path}
    level = [(scene.path, scene.path)]
    while level:
        linked: dict[str, str] = {}
        for known_as, path in level:
            lost = needs.missing if path == scene.path else needs.doubtful.setdefault(path, {})
            if facts[path].cause is not None:
                needs.unreadable[path] = facts[path].message or ""
            for wanted in facts[path].dependencies:
                _take(wanted, known_as, uploads, lost, aliases, linked)
        level = [(name, path) for name, path in linked.items() if name not in seen]
        level = level[: MOST_LIBRARIES - len(seen)]
        seen.update(name for name, _ in level)
        unread = [path for path in dict.fromkeys(path for _, path in level) if path not in facts]
        facts.update(zip(unread, reading(unread) if unread else (), strict=True))
    needs.doubtful = {path: lost for path, lost in needs.doubtful.items() if lost}
    needs.aliases = placeable_aliases(list(aliases.items())[:MOST_ALIASES], uploads.paths)
    return needs


def _take(
    wanted: Dependency,
    known_as: str,
    uploads: Uploads,
    lost: dict[str, str],
    aliases: dict[str, str],
    linked: dict[str, str],
) -> None:
    """One path of a file that Blender opens as `known_as`: what is relative is relative to that."""
    path = absolute(wanted.stored_path, known_as)
    if wanted.stored_path.strip("/.\\") == "" or BLENDERS_OWN in path:
        return
    found = uploads.find(path, many=wanted.many, tiles=wanted.tiles)
    for name, real in found.files:
        if name != real:
            aliases.setdefault(name, real)
        if wanted.kind == "library":
            linked.setdefault(name, real)
    for name in found.missing:
        if len(lost) < 10 * MOST_TOLD:
            lost.setdefault(name, wanted.wanted_by)


def look_at_colours(config: str, facts: SceneFacts, uploads: Uploads) -> dict[str, str]:
    """Files of the colour configuration that nobody uploaded, with what names them."""
    folder = config.rpartition("/")[0]
    places = [_folder(folder, written) for written in facts.search_path]
    name = config.rpartition("/")[2]
    lost = {}
    for lut in facts.luts:
        spots = [_folder(place, lut) for place in places]
        if not any(spot in uploads for spot in spots):
            lost[spots[0]] = f"colour configuration {name}"
    return lost


def _folder(base: str, written: str) -> str:
    try:
        return normalise(written).text
    except ValueError:
        return absolute(f"//{written}" if written else "//", f"{base}/x").rstrip("/")


def _warning(code: str, subject: str, facts: dict[str, Any]) -> dict[str, str]:
    return {"code": code, "message": explain(code, facts), "subject": subject}
