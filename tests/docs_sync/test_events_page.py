"""docs/events.md names every type of event that the farm writes, and its snippets are right."""

from __future__ import annotations

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
    """The types in the code: `state.emit(tx, actor, "job.status", …)`."""
    found = set()
    for path in Path(schema.__file__).parent.rglob("*.py"):
        for call in re.findall(r"\.emit\((.{0,120})", path.read_text(), re.S):
            found |= set(re.findall(r'"([a-z]+\.[a-z_]+)"', call)[:1])
    return found


def test_every_type_of_event_is_in_the_table() -> None:
    assert len(written()) >= 8
    assert written() <= set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", PAGE, re.M))


def test_the_example_of_a_webhook_has_the_models_fields() -> None:
    (block,) = [b for b in re.findall(r"```json\n(.*?)```", PAGE, re.S) if "whsec_" in b]
    assert set(WebhookWithSecret.model_validate_json(block).model_dump()) == set(
        re.findall(r'^  "(\w+)"', block, re.M)
    )


def test_the_snippet_and_the_library_agree_on_what_we_sign() -> None:
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
