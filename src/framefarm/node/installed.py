"""A Blender that has started on this node, and the release of a Blender program."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from framefarm.core.errors import InvalidInput
from framefarm.node import install_steps
from framefarm.protocol.node import PackageKind


@dataclass(frozen=True)
class Installed:
    """A Blender that has started on this node. `release`: as `4.2.23`. `path`: for `bpy` the Python of its
    environment, else the program. `lacks`: codes of core/blender_features.py, None if they were not tried."""

    kind: PackageKind
    id: str
    release: str
    path: str
    lacks: list[str] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def release_of_program(program: str, field: str) -> str:
    """The release that a Blender program prints, as `4.2.1` or `2.93`.

    Raises:
        InvalidInput: it is not a Blender; it names `field`.
        RuntimeProblem: it does not start on this node.
    """
    output = install_steps.start([program, "--background", "--version"], f"The program {program}")
    match = re.search(r"^Blender (\d+\.\d+(?:\.\d+)?)", output, re.MULTILINE)
    if match is None:
        raise InvalidInput.of(field, "is not a Blender: it does not print its version", program)
    return match[1]
