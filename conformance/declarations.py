"""The declared scenes, and the right outcome of each.

A scene is a function in `conformance/scenes`, marked by `@scene(...)` with literal arguments, which
builds it in Blender. Its name is `<module>/<function>`, its docstring tells what it shows. The arguments
are read from the source, so that nothing needs to import `bpy` to list the scenes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

SCENES = Path(__file__).resolve().parent / "scenes"


def scene(**_: Any) -> Callable[[Any], Any]:
    """Mark a function as a scene; the fields of `Scene` are its arguments, as literals.

    `each`: variants of the scene, a list of values, or a dict of names with fields for each. The function
    then takes the variant's value.
    """
    return lambda build: build


@dataclass(frozen=True)
class Scene:
    """A declared scene, and its right outcome on the farm."""

    feature: str
    function: str
    name: str
    about: str
    value: Any = None
    """The variant's value, which the function takes."""
    variant: bool = False
    since: str = "4.2"
    until: str = "99.0"
    """First and last Blender that the scene is made for."""
    engine: str = "cycles"
    frames: str = "1"
    """The frames that are rendered and compared."""
    range: str = ""
    """The scene's own range, from which it is played; default: `frames`."""
    chunk: int = 0
    """Frames in a task; default: all in one."""
    submit: str = ""
    """More words for `framefarm submit`. `@x`: a path in the scene's folder."""
    by_hand: dict[str, Any] = field(default_factory=dict)
    """The settings that an artist makes in Blender for the same effect as `submit`."""
    ends: str = "success"
    """`success`; `stopped`: refused, failed or held before a machine starts; `either`."""
    starts: int = 0
    """Most attempts of a job that is to be `stopped`: some things are known only after one start."""
    says: tuple[str, ...] = ()
    """Patterns that must be said until the job has ended."""
    warns: tuple[str, ...] = ()
    """Codes of the warnings that are right. Each other one is a fault, and so is the lack of one of these."""
    warns_of: tuple[str, ...] = ()
    """Codes of the warnings that may be there or not."""
    sent: tuple[str, ...] = ()
    """Names of files that must be sent."""
    right: str = ""
    """The file in the scene's folder that plain Blender renders instead of the one that is submitted."""
    ocio: str = ""
    """The colour configuration in the scene's folder. Plain Blender then has a process of its own."""
    instead: str = ""
    """The file format that stands in for the scene's own on the farm, and so in the comparison."""
    tolerance: float = 0.0
    """Greatest difference of a channel, of its full range. Needs `reason`."""
    reason: str = ""
    differs: str = ""
    """Why the outcome is known to be another one; the table then says `differs`."""
    dark: bool = False
    """Plain Blender's picture may be black."""
    fresh: bool = False
    """Plain Blender renders it in a process of its own."""
    made_by: str = ""
    """The Blender that makes it, if not the one that renders it."""
    safe_names: bool = False
    """Blender's own names are no safe ones: the farm gives others, in the same order."""
    unnamed: bool = False
    """The names differ; the pictures are compared in the order of their names."""
    quick: bool = False
    """Belongs to the short part that `script/test` runs."""
    seconds: int = 240

    @property
    def id(self) -> str:
        return f"{self.feature}/{self.name}"

    def applies(self, version: str) -> bool:
        return _number(self.since) <= _number(version) <= _number(self.until)


def declared() -> list[Scene]:
    """All scenes, in the order of the source. Raises ValueError for a bad declaration."""
    found = [one for path in sorted(SCENES.glob("*.py")) for one in _of_module(path)]
    names = [one.id for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"declared twice: {', '.join(sorted(twice))}")
    return found


def about_feature(feature: str) -> str:
    """The first line of the docstring of a feature's module, without its full stop."""
    text = ast.get_docstring(ast.parse((SCENES / f"{feature}.py").read_text())) or feature
    return text.splitlines()[0].rstrip(".")


def _of_module(path: Path) -> Iterator[Scene]:
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "scene":
                yield from _expand(path.stem, node, {k.arg: ast.literal_eval(k.value) for k in mark.keywords})


def _expand(feature: str, node: ast.FunctionDef, given: dict[Any, Any]) -> Iterator[Scene]:
    about = " ".join((ast.get_docstring(node) or "").split()).rstrip(".")
    each = given.pop("each", None)
    name = node.name.replace("_", "-")
    base = Scene(feature, node.name, name, about)
    if not about:
        raise ValueError(f"{base.id} has no docstring")
    variants = each if isinstance(each, dict) else {value: {} for value in each or ()}
    if each is None:
        yield _with(base, given)
    for value, more in variants.items():
        slug = str(value).lower().replace("_", "-").replace(" ", "-")
        one = replace(base, name=f"{name}-{slug}", value=value, variant=True)
        yield _with(one, given | more)


def _with(base: Scene, given: dict[str, Any]) -> Scene:
    known = {one.name for one in fields(Scene)}
    if unknown := set(given) - known:
        raise ValueError(f"{base.id}: no such field: {', '.join(sorted(unknown))}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    found = replace(base, **given)
    if found.tolerance and not found.reason:
        raise ValueError(f"{base.id} has a tolerance without a reason")
    return found


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
