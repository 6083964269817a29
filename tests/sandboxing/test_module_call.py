"""Whether our own Python can be shut in: asked again after a try that failed."""

from __future__ import annotations

from typing import Any

import pytest

from framefarm.sandboxing import module_call


def test_a_try_that_was_killed_does_not_open_the_sandbox_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [module_call.Answer(b"", True, -9), module_call.Answer(b"ready\n", True, 0)]

    def answered(*_: Any, **__: Any) -> module_call.Answer:
        return answers.pop(0)

    monkeypatch.setattr(module_call, "run_module", answered)
    module_call._try_once.cache_clear()
    try:
        assert "code -9" in (module_call.unready() or "")
        assert module_call.unready() is None
        assert module_call.unready() is None
        assert answers == []
    finally:
        module_call._try_once.cache_clear()
