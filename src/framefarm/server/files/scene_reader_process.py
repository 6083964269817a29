"""Process that reads .blend files and colour configurations (`.ocio`) in a sandbox.

`scene_reader.read_scenes` starts it as `python -m framefarm.server.files.scene_reader_process` through
`sandboxing.module_call`. Its order is `{"files": [{"path", "descriptor"}], "file_seconds"}`, with a limit in
seconds of processor time for each file. It answers with one line of JSON per file, in order, in the shape of
`scene_reader.SceneFacts`. It imports little, for a fast start, and reads only the given descriptors: it opens
none of the paths that it finds.
"""

from __future__ import annotations

import json
import os
import signal
from typing import IO

from framefarm.blend import linked_needs, path_references, scenes
from framefarm.blend.file import ODD_BLOCK, Blend, NotReadable, text
from framefarm.blend.references import Reference
from framefarm.core import ocio
from framefarm.sandboxing import module_entry
from framefarm.server.json_types import Json

MAX_OCIO_BYTES = 16 << 20


class TooLong(Exception):
    """One file used up its limit of processor time."""


def main() -> None:
    """Read the files of the order, and write one answer for each."""
    order = module_entry.begin()
    signal.signal(signal.SIGVTALRM, _too_long)
    for ordered in order["files"]:
        descriptor = ordered["descriptor"]
        file = None if descriptor is None else os.fdopen(descriptor, "rb", buffering=1 << 16)
        signal.setitimer(signal.ITIMER_VIRTUAL, order["file_seconds"])
        facts = _answer(ordered["path"], file)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        module_entry.answer(json.dumps(facts))
        if file is not None:
            file.close()
    os._exit(0)


def _too_long(*_: object) -> None:
    raise TooLong


def _answer(path: str, file: IO[bytes] | None) -> Json:
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    try:
        if file is None:
            raise NotReadable("is missing")
        if name.lower().endswith(".ocio"):
            return {"path": path, **colours(file)}
        return {"path": path, **read(file, name)}
    except NotReadable as error:
        reason = str(error)
    except TooLong:
        reason = "takes too long to read"
    except MemoryError:
        reason = "needs too much memory to read"
    except (*ODD_BLOCK, RecursionError):
        reason = "is damaged: its data contradicts itself"
    return {"path": path, "cause": "unreadable_scene", "message": f"{name} {reason}."}


def read(file: IO[bytes], name: str) -> Json:
    """All facts of one .blend, as fields of `SceneFacts`. Names of disk caches are derived from `name`.

    Raises NotReadable for an incomplete or other file, and one of `ODD_BLOCK` for contradictory data.
    """
    blend = Blend(file)
    major, minor = divmod(blend.version, 100)
    found = scenes.scenes(blend)
    references, unread = path_references.path_references(blend, name)
    return {
        "blender_version": f"{major}.{minor}",
        "scenes": found,
        "active_scene": next((s["name"] for s in found if s["is_active"]), None),
        "cameras": scenes.cameras(blend),
        "parts": linked_needs.parts(blend),
        "dependencies": [_dependency(reference) for reference in references],
        "unread_blocks": unread,
    }


def _dependency(reference: Reference) -> Json:
    return {
        "stored_path": text(reference.stored),
        "kind": reference.kind,
        "many": reference.many,
        "tiles": reference.tiles,
        "wanted_by": reference.wanted_by,
        "required": reference.required,
    }


def colours(file: IO[bytes]) -> Json:
    """Search path and file names of an OpenColorIO configuration. Raises NotReadable if it is too large."""
    raw = file.read(MAX_OCIO_BYTES + 1)
    if len(raw) > MAX_OCIO_BYTES:
        raise NotReadable(f"is larger than {MAX_OCIO_BYTES >> 20} MiB")
    search_path, files = ocio.references(raw.decode("utf-8", "replace"))
    return {"search_path": search_path, "luts": files}


if __name__ == "__main__":
    main()
