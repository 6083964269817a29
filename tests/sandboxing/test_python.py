"""Whether our own Python can be shut in: asked again after a try that failed."""

from __future__ import annotations

from typing import Any

import pytest

from framefarm.sandboxing import python


def test_a_try_that_was_killed_does_not_open_the_sandbox_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [python.Answer(b"", True, -9), python.Answer(b"ready\n", True, 0)]

    def answered(*_: Any, **__: Any) -> python.Answer:
        return answers.pop(0)

    monkeypatch.setattr(python, "run_module", answered)
    python._try_once.cache_clear()
    try:
        assert "code -9" in (python.unready() or "")
        assert python.unready() is None
        assert python.unready() is None
        assert answers == []
    finally:
        python._try_once.cache_clear()
