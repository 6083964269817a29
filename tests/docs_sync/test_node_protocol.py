"""docs/node-protocol.md has every message with its fields, types and defaults, as in protocol/node.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from framefarm.protocol import node as msg

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "node-protocol.md").read_text()
MESSAGES = {
    name: message
    for name, message in vars(msg).items()
    if isinstance(message, type) and issubclass(message, msg.Message) and message is not msg.Message
}
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| ?(.*?) ?\|$", re.MULTILINE)


def _section(name: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f"\n### {name}\n")[1])[0]


def _rows(name: str) -> list[tuple[str, str, str]]:
    text = _section(name).replace(r" \| ", "/")
    return [(field, _plain(type_), rest) for field, type_, rest in ROW.findall(text)]


def _plain(type_: str) -> str:
    """A type's words without links, with choices in the order of the alphabet."""
    bare = re.sub(r"\[(\w+)\]\(#\w+\)", r"\1", type_)
    return " / ".join(sorted(bare.split("/")))


def _word(type_: msgspec.inspect.Type) -> str:
    """A type in the words of the page."""
    inspect = msgspec.inspect
    match type_:
        case inspect.StrType():
            return "string"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "boolean"
        case inspect.LiteralType(values):
            return " / ".join(f"`{v}`" for v in values)
        case inspect.StructType(cls):
            return cls.__name__
        case inspect.DictType():
            return "map of strings"
        case inspect.ListType(item) | inspect.VarTupleType(item):
            return _many(item)
        case inspect.UnionType(types) if any(isinstance(t, inspect.NoneType) for t in types):
            (given,) = (t for t in types if not isinstance(t, inspect.NoneType))
            return f"{_word(given)} or null"
    raise AssertionError(f"the page has no word for {type_}")


def _many(item: msgspec.inspect.Type) -> str:
    if isinstance(item, msgspec.inspect.UnionType):
        return "events, in order"
    if isinstance(item, msgspec.inspect.LiteralType):
        return "verdicts"
    return f"{_word(item)}s"


def _default(field: msgspec.inspect.Field) -> str | None:
    if field.required:
        return None
    value: Any = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value in ("", (), []):
        return "empty" if value == "" else "none"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_messages_fields_are_documented_as_they_are(name: str) -> None:
    info = msgspec.inspect.type_info(MESSAGES[name])
    assert isinstance(info, msgspec.inspect.StructType)
    rows = _rows(name)
    assert rows
    assert [(field, type_) for field, type_, _ in rows] == [(f.name, _word(f.type)) for f in info.fields]
    for field, (_, _, meaning) in zip(info.fields, rows, strict=True):
        default = re.search(r"\bdefault ([^\s:;]+)", meaning)
        assert (default[1] if default else None) == _default(field), field.name


def test_every_event_is_shown_with_its_type() -> None:
    tags = {name: message.__struct_config__.tag for name, message in MESSAGES.items()}
    assert {n for n, tag in tags.items() if tag is not None} == {t.__name__ for t in msg.Event.__args__}
    assert [n for n, tag in tags.items() if tag is not None and f'"type": "{tag}"' not in _section(n)] == []


def test_every_verdict_is_explained() -> None:
    explained = set(
        re.findall(r"^\| `(\w+)` \|", PAGE.split("**Verdicts**")[1].split("**Versions.**")[0], re.M)
    )
    assert explained == set(msg.Verdict.__args__)
