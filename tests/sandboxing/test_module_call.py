"""Checking whether our own Python can run in a sandbox, repeated after a failure."""

from __future__ import annotations

from typing import Any

import pytest

from framefarm.sandboxing import module_call


def test_a_failed_sandbox_check_is_repeated_and_a_success_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = [module_call.ModuleResult(b"", True, -9), module_call.ModuleResult(b"ready\n", True, 0)]

    def next_result(*_: Any, **__: Any) -> module_call.ModuleResult:
        return results.pop(0)

    monkeypatch.setattr(module_call, "run_module", next_result)
    module_call._check_ready.cache_clear()
    try:
        assert "code -9" in (module_call.unready() or "")
        assert module_call.unready() is None
        assert module_call.unready() is None
        assert results == []
    finally:
        module_call._check_ready.cache_clear()
