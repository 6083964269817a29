"""Calls to a farm that does not answer, or late."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from framefarm.node.server_client import ServerClient, ServerUnreachable
from framefarm.protocol import node as msg


def test_a_farm_that_takes_calls_and_never_answers_is_given_up_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        (tmp_path / "endpoint").write_text(f"http://127.0.0.1:{mute.getsockname()[1]}")
        slot = msg.Slot(
            session="s", token="t", endpoint_file=str(tmp_path / "endpoint"), directory=str(tmp_path),
            node="here", cores=(0,), memory_bytes=1 << 30, uid=70_000,
        )  # fmt: skip
        client = ServerClient(slot, lambda: 1.5)
        waited: list[float] = []
        once = ServerClient._request_once

        def recording(
            self: ServerClient, method: str, name: str, body: bytes | None, seconds: float
        ) -> tuple[int, bytes]:
            waited.append(seconds)
            return once(self, method, name, body, seconds)

        monkeypatch.setattr(ServerClient, "_request_once", recording)
        with pytest.raises(ServerUnreachable):
            client.sync(msg.Sync(seen=0, wait_seconds=20.0))
        assert max(waited) <= 1.5


def test_an_answer_that_waited_in_a_frozen_machine_is_as_old_as_its_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("framefarm.node.server_client.time.monotonic", lambda: now[0])
    slot = msg.Slot(
        session="s", token="t", endpoint_file=str(tmp_path / "endpoint"), directory=str(tmp_path),
        node="here", cores=(0,), memory_bytes=1 << 30, uid=70_000,
    )  # fmt: skip
    client = ServerClient(slot, lambda: 60.0)

    def frozen_for_five_seconds(*_: object) -> tuple[int, bytes]:
        now[0] += 5
        return 200, msgspec.json.encode(msg.DesiredState(version=1, tasks=[]))

    monkeypatch.setattr(client, "_request_once", frozen_for_five_seconds)
    client.sync(msg.Sync(seen=0, wait_seconds=1.0))
    assert client.silent_seconds == 5
