"""Files that a job's scene names, compared with the uploads before any machine is paid.

A scene needs all files that its own .blend names. Files named by its linked libraries may belong to parts of
them that the scene does not use: only Blender knows, so these are warned of apart
(docs/decisions/0017-what-libraries-name-is-doubtful.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from framefarm.core.failure_codes import explain
from framefarm.core.path_matching import Uploads, placeable_aliases
from framefarm.core.paths import normalise
from framefarm.server.files.scene_reader import Dependency, SceneFacts, absolute
from framefarm.server.jobs.warnings import JobWarning, MissingFile

MOST_LIBRARIES = 2000
MOST_WARNINGS = 100
"""Most warnings of each code."""
MOST_ALIASES = 20_000
MOST_NAMED = 3
"""Most files named in one warning."""

ReadFacts = Callable[[Sequence[str]], Sequence[SceneFacts]]
"""Reads uploaded files by path; returns their facts in order."""


@dataclass
class Findings:
    """Files that a scene needs and the job lacks, and inputs under other spellings."""

    missing: dict[str, str] = field(default_factory=dict)
    """Certain: path → the data-block that names it."""
    doubtful: dict[str, dict[str, str]] = field(default_factory=dict)
    """Library → the missing files that it names, in the same shape."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Library → the reason."""
    aliases: list[tuple[str, str]] = field(default_factory=list)
    """(path as the scene names it, path as it was uploaded), which differ in case alone."""

    def warnings(self) -> list[JobWarning]:
        """Warnings for the artist; at most MOST_WARNINGS of each code, and one that counts the others."""
        made = []
        for path, wanted_by in list(self.missing.items())[:MOST_WARNINGS]:
            facts = {"path": path, "wanted_by": f" ({wanted_by})" if wanted_by else ""}
            made.append(_warning("missing_file", path, facts))
        if len(self.missing) > MOST_WARNINGS:
            rest = len(self.missing) - MOST_WARNINGS
            made.append(_warning("missing_file", "", {"path": f"{rest} more files"}))
        for library, why in list(self.unreadable.items())[:MOST_WARNINGS]:
            made.append(_warning("library_unread", library, {"path": library, "what": why.rstrip(".")}))
        for library, lost in list(self.doubtful.items())[:MOST_WARNINGS]:
            named = ", ".join(list(lost)[:MOST_NAMED]) + (", …" if len(lost) > MOST_NAMED else "")
            files = f"{len(lost)} file{'s' if len(lost) > 1 else ''}"
            made.append(
                _warning("library_files_missing", library, {"path": library, "files": files, "named": named})
            )
        return made


def find_missing(scene: SceneFacts, uploads: Uploads, read_facts: ReadFacts) -> Findings:
    """Compare the files named by the scene, its libraries and theirs with the uploads.

    Disk caches that were never baked are not among the facts.
    """
    found = Findings()
    aliases: dict[str, str] = {}
    facts = {scene.path: scene}
    seen = {scene.path}
    level = [(scene.path, scene.path)]
    while level:
        linked: dict[str, str] = {}
        for known_as, path in level:
            lost = found.missing if path == scene.path else found.doubtful.setdefault(path, {})
            if facts[path].cause is not None:
                found.unreadable[path] = facts[path].message or ""
            for dependency in _unlike(facts[path].dependencies, known_as):
                _compare(dependency, known_as, uploads, lost, aliases, linked)
        level = [(name, path) for name, path in linked.items() if name not in seen]
        level = level[: MOST_LIBRARIES - len(seen)]
        seen.update(name for name, _ in level)
        unread = [path for path in dict.fromkeys(path for _, path in level) if path not in facts]
        facts.update(zip(unread, read_facts(unread) if unread else (), strict=True))
    found.doubtful = {path: lost for path, lost in found.doubtful.items() if lost}
    found.aliases = placeable_aliases(list(aliases.items())[:MOST_ALIASES], uploads.paths)
    return found


def _unlike(dependencies: Iterable[Dependency], known_as: str) -> list[Dependency]:
    """The dependencies, of those that name the same files the first, or the first required one."""
    found: dict[tuple[str, bool, tuple[int, ...], bool], Dependency] = {}
    for dependency in sorted(dependencies, key=lambda one: not one.required):
        is_library = dependency.kind == "library"
        path = absolute(dependency.stored_path, known_as)
        key = (path, dependency.many, tuple(dependency.tiles), is_library)
        found.setdefault(key, dependency)
    return list(found.values())


def _compare(
    dependency: Dependency,
    known_as: str,
    uploads: Uploads,
    lost: dict[str, str],
    aliases: dict[str, str],
    linked: dict[str, str],
) -> None:
    """Compare one dependency of the file that Blender opens as `known_as`, which relative paths start from.

    Adds to `lost`, `aliases` and, for a library, `linked` (path as named → path as uploaded).
    """
    path = absolute(dependency.stored_path, known_as)
    if dependency.stored_path.strip("/.\\") == "":
        return
    match = uploads.find(path, many=dependency.many, tiles=dependency.tiles)
    for name, real in match.files:
        if name != real:
            aliases.setdefault(name, real)
        if dependency.kind == "library":
            linked.setdefault(name, real)
    for name in match.missing if dependency.required else ():
        if len(lost) < 10 * MOST_WARNINGS:
            lost.setdefault(name, dependency.wanted_by)


def find_missing_luts(config: str, facts: SceneFacts, uploads: Uploads) -> dict[str, str]:
    """Files that the colour configuration at `config` names and the job lacks: path → the configuration."""
    folder = config.rpartition("/")[0]
    search_path = [_folder(folder, written) for written in facts.search_path]
    name = config.rpartition("/")[2]
    lost = {}
    for lut in facts.luts:
        candidates = [_folder(searched, lut) for searched in search_path]
        if not any(path in uploads for path in candidates):
            lost[candidates[0] if candidates else lut] = f"colour configuration {name}"
    return lost


def _folder(base: str, written: str) -> str:
    try:
        return normalise(written).text
    except ValueError:
        return absolute(f"//{written}" if written else "//", f"{base}/x").rstrip("/")


def _warning(code: str, subject: str, facts: dict[str, str]) -> JobWarning:
    made = JobWarning(code=code, message=explain(code, facts), subject=subject)
    if code == "missing_file":
        user = facts.get("wanted_by", "").removeprefix(" (").removesuffix(")")
        made["missing"] = MissingFile(wanted_by=user, found_by="submit")
    return made
