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
    name: kind
    for name, kind in vars(msg).items()
    if isinstance(kind, type) and issubclass(kind, msg.Message) and kind is not msg.Message
}
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| ?(.*?) ?\|$", re.MULTILINE)


def _section(name: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f"\n### {name}\n")[1])[0]


def _rows(name: str) -> list[tuple[str, str, str]]:
    text = _section(name).replace(r" \| ", "/")
    return [(field, _plain(kind), rest) for field, kind, rest in ROW.findall(text)]


def _plain(kind: str) -> str:
    """Without links; choices in the order of the alphabet."""
    bare = re.sub(r"\[(\w+)\]\(#\w+\)", r"\1", kind)
    return " / ".join(sorted(bare.split("/")))


def _word(kind: msgspec.inspect.Type) -> str:
    """A type as the page says it."""
    inspect = msgspec.inspect
    match kind:
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
            (one,) = (t for t in types if not isinstance(t, inspect.NoneType))
            return f"{_word(one)} or null"
    raise AssertionError(f"the page has no word for {kind}")


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
    assert [(field, kind) for field, kind, _ in rows] == [(f.name, _word(f.type)) for f in info.fields]
    for field, (_, _, said) in zip(info.fields, rows, strict=True):
        found = re.search(r"\bdefault ([^\s:;]+)", said)
        assert (found[1] if found else None) == _default(field), field.name


def test_every_event_says_its_type() -> None:
    tags = {name: kind.__struct_config__.tag for name, kind in MESSAGES.items()}
    assert {n for n, tag in tags.items() if tag is not None} == {t.__name__ for t in msg.Event.__args__}
    assert [n for n, tag in tags.items() if tag is not None and f'"type": "{tag}"' not in _section(n)] == []


def test_every_verdict_is_explained() -> None:
    explained = set(
        re.findall(r"^\| `(\w+)` \|", PAGE.split("**Verdicts**")[1].split("**Versions.**")[0], re.M)
    )
    assert explained == set(msg.Verdict.__args__)
