"""Rules for lookups: which of the files that Blender looked for in vain a scene really lacks.

Blender and its libraries look for some files that need not exist: another form of a file that is there, a
cache that was never baked, a module of Python. Paths are those in the sandbox. Text only, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

SUFFIXES = (
    ".abc", ".aif", ".aiff", ".avi", ".blend", ".bmp", ".bw", ".cin", ".dds", ".dpx", ".exr", ".fbx", ".flac",
    ".gif", ".glb", ".gltf", ".hdr", ".ies", ".jp2", ".jpeg", ".jpg", ".m4a", ".m4v", ".mdd", ".mkv", ".mov",
    ".mp3", ".mp4", ".mpeg", ".mpg", ".mtlx", ".mxf", ".obj", ".ogg", ".ogv", ".osl", ".oso", ".otf",
    ".pc2", ".pfb", ".ply", ".png", ".psd", ".rgb", ".rgba", ".sgi", ".stl", ".tga", ".tif", ".tiff", ".ttc",
    ".ttf", ".usd", ".usda", ".usdc", ".usdz", ".vdb", ".wav", ".webm", ".webp", ".woff2",
)  # fmt: skip
"""Ends of the names of files that artists make. Outside of the job's own folders only such files count:
libraries also look there for their settings and plug-ins."""
_NEVER = re.compile(
    r"""\.(?:py[cdo]?|so(?:\.\d+)*|pth|zip|toml|cfg|ini|conf)\Z    # Python, its modules and their settings
    |/__pycache__(?:/|\Z)
    |\.blend(?:\d+|@)\Z                                            # Blender's own copies of a scene
    |/BL_proxy/|\.blen_tc\Z                                        # proxies of movies, a choice of speed
    |/blendcache_[^/]*/|\.bphys\Z                                  # caches that were perhaps never baked
    |/(?:config|data|mesh|noise|particles|guiding)/[a-z_]+_\d{4,}\.(?:uni|vdb|raw|bobj\.gz|gz)\Z
    |\.mtl\Z                                                      # materials of OBJ: nodes take its meshes
    |<(?:UDIM|UVTILE)>                                             # a token, no name
    |/(?:stdosl|oslutil|stdcycles|vector[24]|color[24]|matrix33|(?:node|mx)_\w+)\.h\Z  # Blender's own
    |\.(?:cube|3dl|1dlut|3dlut|spi1d|spi3d|spimtx|csp|lut|clf|ctf|cdl|cc|ccc|look|vf|mga|m3d|itx|iridas_\w+)\Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Names that tell nothing about the scene. Tables of colour are looked for along a search path."""
_FORMS = {
    ".oso": (".osl",),
    ".tx": (".exr", ".hdr", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".tga", ".webp"),
}
"""End of a name → ends of the files that it is made from, and that Blender takes instead."""
_NUMBER = re.compile(r"(?<!\d)\d++(?=\D*\Z)")
_STAGE = re.compile(r"\.usd[acz]?\Z", re.IGNORECASE)
_BEHIND_STAGE = re.compile(r"\.(?:usd[acz]?|abc|mtlx|vdb|png|jpe?g|exr|hdr|tiff?|tga)\Z", re.IGNORECASE)
_SCENE = re.compile(r"\.blend\Z", re.IGNORECASE)


def lacking(missed: Iterable[str], exists: Callable[[str], bool]) -> list[str]:
    """The paths of `missed` that the scene lacks, sorted. `exists`: whether a file is there now."""
    paths = set(missed)
    kept = []
    for path in sorted(paths):
        if _NEVER.search(path):
            continue
        stem, dot, suffix = path.rpartition(".")
        forms = [stem + form for form in _FORMS.get((dot + suffix).lower(), ())]
        if exists(path) or any(form in paths or exists(form) for form in forms):
            continue
        kept.append(path)
    return kept


def counts_at_opening(path: str, users: Mapping[str, str]) -> bool:
    """Whether a path that was missed while the scene opened says something about the frames to render.

    Not libraries, of which Blender itself lists those that it misses, and not one file of a sequence: Blender
    then shows the frame at which the scene was saved.
    """
    sequence = sequence_of(path)
    return not _SCENE.search(path) and (sequence == path or sequence not in users)


def wanted_by(path: str, users: Mapping[str, str]) -> str:
    """The one that wants `path`, by a table of known paths and their users; empty if it is not known.

    A file of a numbered sequence, or a tile, is wanted by the user of any other file of it. A layer or a
    texture behind a USD file is wanted by its user, if there is only one.
    """
    known = users.get(path) or users.get(sequence_of(path))
    if known:
        return known
    readers = {user for other, user in users.items() if _STAGE.search(other)}
    return readers.pop() if len(readers) == 1 and _BEHIND_STAGE.search(path) else ""


def by_sequence(users: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A table for `wanted_by` from pairs (path, user); the first of several users counts."""
    table: dict[str, str] = {}
    for path, user in users:
        table.setdefault(path, user)
        table.setdefault(sequence_of(path), user)
    return table


def sequence_of(path: str) -> str:
    """`path` with `#` for the number or the token of its name: equal for all files of one sequence."""
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        stem, suffix = name, ""
    plain = re.sub(r"<UDIM>|<UVTILE>|u\d+_v\d+", "#", stem)
    return folder + slash + (plain if plain != stem else _NUMBER.sub("#", stem)) + dot + suffix


def is_lasting(path: str, known: Collection[str]) -> bool:
    """Whether a path that was missed in one frame is missed in the later ones, too: its name has no number,
    or the scene names it just so (`known`), or it is a tile."""
    sequence = sequence_of(path)
    if sequence == path or path in known:
        return True
    return any("<" in other and sequence_of(other) == sequence for other in known)
