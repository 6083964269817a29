"""docs/events.md names exactly the types of events that the farm writes, and its snippets work."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from framefarm.protocol.api_webhooks import WebhookWithSecret
from framefarm.server import schema
from framefarm.server.webhooks.sender import headers_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "events.md").read_text()
SECRET = "whsec_" + "A" * 43 + "="


def written() -> set[str]:
    """Types in the code: the third argument of `state.emit(tx, actor, "job.status", …)`."""
    types: set[str] = set()
    for path in Path(schema.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "emit"
            ):
                types |= texts(node.args[2], tree)
    return types


def texts(value: ast.expr, tree: ast.Module) -> set[str]:
    """The texts that an argument can be: a literal, or all that are assigned to its name in the module."""
    if isinstance(value, ast.Name):
        assigned = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == value.id for target in node.targets)
        ]
        assert assigned, f"{value.id}: no event type is assigned to it"
        return {text for expression in assigned for text in texts(expression, tree)}
    if isinstance(value, ast.IfExp):
        return texts(value.body, tree) | texts(value.orelse, tree)
    assert isinstance(value, ast.Constant) and isinstance(value.value, str), ast.unparse(value)
    return {value.value}


def test_the_table_has_exactly_the_types_of_the_code() -> None:
    assert len(written()) >= 16
    assert written() == set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", PAGE, re.M))


def test_the_example_of_a_webhook_has_the_models_fields() -> None:
    (block,) = [b for b in re.findall(r"```json\n(.*?)```", PAGE, re.S) if "whsec_" in b]
    assert set(WebhookWithSecret.model_validate_json(block).model_dump()) == set(
        re.findall(r'^  "(\w+)"', block, re.M)
    )


def test_the_snippet_and_the_library_accept_our_signature_and_no_other() -> None:
    (snippet,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def verify" in b]
    names: dict[str, Any] = {}
    exec(snippet, names)
    body, now = b'{"a": 1}', int(time.time())
    headers = headers_of(SECRET, "dlv_1", now, body)
    assert names["verify"](SECRET, headers, body)
    assert not names["verify"](SECRET, headers, body + b" ")
    assert not names["verify"](SECRET, headers_of(SECRET, "dlv_1", now - 900, body), body)
    assert Webhook(SECRET).verify(body, headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)
