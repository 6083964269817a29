"""Features that a scene needs for what it links: followed through its libraries and theirs."""

from __future__ import annotations

import msgspec

from framefarm.core.path_matching import Uploads
from framefarm.server.files.scene_reader import Link, Need, Part, Scene, SceneFacts, absolute
from framefarm.server.submission.missing_files import ReadFacts

MOST_PARTS = 100_000
MOST_NEEDS = 50


def with_libraries(chosen: SceneFacts, scene: Scene, uploads: Uploads, read_facts: ReadFacts) -> Scene:
    """The scene of the file `chosen`, with the needs of all that it links, named with their library.

    A library that was not uploaded, or can't be read, needs nothing: warnings tell of it.
    """
    needs = {need.feature: need for need in scene.needs}
    waiting = [(chosen.path, link) for link in scene.links]
    seen: set[tuple[str, str]] = set()
    while waiting and len(seen) < MOST_PARTS:
        known_as, link = waiting.pop()
        library = _find(known_as, link, uploads)
        if library is None:
            continue
        path, real = library
        [facts] = read_facts([real])
        for part in _parts(facts, path, link.name, seen):
            waiting += [(path, further) for further in part.links]
            for need in part.needs if len(needs) < MOST_NEEDS else ():
                what = f"{need.what} of {real.rpartition('/')[2]}"
                needs.setdefault(need.feature, Need(need.feature, what))
    return msgspec.structs.replace(scene, needs=list(needs.values()), links=[])


def _find(known_as: str, link: Link, uploads: Uploads) -> tuple[str, str] | None:
    """(path as it is named, path as it was uploaded) of the link's library."""
    match = uploads.find(absolute(link.library, known_as), many=False, tiles=[])
    return match.files[0] if match.files else None


def _parts(facts: SceneFacts, path: str, name: str, seen: set[tuple[str, str]]) -> list[Part]:
    """The named part of a library and those within it that are not `seen`, which gets them."""
    found, waiting = [], [name]
    while waiting:
        one = waiting.pop()
        part = facts.parts.get(one)
        if part is not None and (path, one) not in seen:
            seen.add((path, one))
            found.append(part)
            waiting += part.inside
    return found
