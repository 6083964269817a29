"""`framefarm serve` as a process: open files, port, signals, restarts and the operator's socket."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from running_farm import FRAMEFARM, RunningFarm

from framefarm.server.operator import control_socket

pytestmark = pytest.mark.blender


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, scene: bytes) -> Iterator[RunningFarm]:
    """A farm with a long lease, so that calls are held open for long."""
    farm = RunningFarm(tmp_path_factory.mktemp("farm"), lease_seconds="60")
    farm.open(scene)
    yield farm
    farm.stop()


@pytest.fixture
def rendering(farm: RunningFarm) -> Iterator[dict[str, Any]]:
    """A job of 900 frames that is being rendered, with a frame done. Cancelled afterwards."""
    job = farm.submit(frame_range="1-900", output_path="gs://renders/manners", samples=400)
    farm.until(lambda: farm.done(job["id"]), "a frame is done")
    yield job
    farm.client.patch(f"/api/jobs/{job['id']}", json={"action": "cancel"})
    farm.wait(job["id"], "cancelled")


def open_files(pid: int) -> set[str]:
    """Files that a process has open: paths, and sockets by their inode."""
    names = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.add(os.readlink(link))
        except FileNotFoundError:
            continue
    return names


def audited(farm: RunningFarm, action: str) -> int:
    """Number of audit entries for an action."""
    with sqlite3.connect(f"file:{farm.data}/framefarm.db?mode=ro", uri=True) as db:
        count: int = db.execute("SELECT count(*) FROM audit WHERE action = ?", (action,)).fetchone()[0]
    return count


def test_no_process_of_a_render_holds_anything_of_the_servers(
    farm: RunningFarm, rendering: dict[str, Any]
) -> None:
    assert farm.server_pid is not None
    servers = {name for name in open_files(farm.server_pid) if name.startswith("socket:")}
    assert servers
    others = farm.processes()
    names = {p.name() for p in others}
    assert len(others) >= 2, names
    for process in others:
        theirs = open_files(process.pid)
        assert not theirs & servers, (process.name(), theirs & servers)
        ours = {str(farm.data / name) for name in ("lock", "secret.key", "control.sock", "framefarm.db")}
        assert not {name for name in theirs if name.removesuffix("-wal").removesuffix("-shm") in ours}


def test_second_server_on_the_same_directory_is_refused(farm: RunningFarm) -> None:
    second = subprocess.run(
        [FRAMEFARM, "serve", "--data", str(farm.data), "--listen", "127.0.0.1:0"],
        env=farm.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert "Traceback" not in second.stderr
    assert farm.client.get("/readyz").status_code == 200


def test_a_port_in_use_is_named_in_the_error(farm: RunningFarm, tmp_path: Path) -> None:
    taken = urlsplit(str(farm.client.base_url)).netloc
    second = subprocess.run(
        [FRAMEFARM, "serve", "--data", str(tmp_path / "other"), "--listen", taken],
        env=farm.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (second.returncode, "Traceback" in second.stderr) == (1, False)
    assert f"cannot listen on {taken}" in second.stderr


def test_a_killed_farm_frees_port_and_database_at_once(farm: RunningFarm, rendering: dict[str, Any]) -> None:
    address = urlsplit(str(farm.client.base_url))
    runners = {p.pid for p in farm.processes()}
    farm.kill()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.hostname, address.port))
        sock.listen()
    with sqlite3.connect(farm.data / "framefarm.db", timeout=0, isolation_level=None) as db:
        db.execute("BEGIN EXCLUSIVE")
        db.execute("ROLLBACK")
    assert control_socket.running_pid(farm.data) is None
    assert runners & {p.pid for p in farm.processes()}, "renders go on"
    farm.start(listen=address.netloc)
    done = farm.done(rendering["id"])
    farm.until(lambda: len(farm.done(rendering["id"])) > len(done) + 1, "the render goes on")
    assert {a["outcome"] for a in farm.all(f"/api/jobs/{rendering['id']}/attempts")} <= {"success", None}


def test_server_stopped_and_its_renders_are_not(farm: RunningFarm, rendering: dict[str, Any]) -> None:
    runners = {p.pid for p in farm.processes()}
    assert farm.process is not None
    farm.process.terminate()
    assert farm.process.wait(10) == 0
    assert runners & {p.pid for p in farm.processes()}
    assert not (farm.data / control_socket.SOCKET).exists()
    farm.start()
    done = farm.done(rendering["id"])
    farm.until(lambda: len(farm.done(rendering["id"])) > len(done) + 1, "the render goes on")
    attempts = farm.all(f"/api/jobs/{rendering['id']}/attempts")
    assert {a["outcome"] for a in attempts} <= {"success", None}
    assert len({a["session"] for a in attempts}) <= 2, "the sessions were taken back"


def credit(farm: RunningFarm, amount: str) -> Any:
    return control_socket.run(farm.data, "credit.add", {"account": "studio", "amount": amount})


def test_operators_commands_work_at_once_and_whether_the_farm_runs_or_not(farm: RunningFarm) -> None:
    def balance() -> int:
        (account,) = control_socket.run(farm.data, "account.list", {})["accounts"]
        return int(account["balance_micros"])

    def together() -> None:
        at_once = threading.Barrier(8)

        def one(_: int) -> None:
            at_once.wait(30)
            credit(farm, "0.25")

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(8)))

    before, rows = balance(), audited(farm, "ledger.post")
    together()
    assert balance() == before + 2_000_000
    farm.kill()
    together()
    assert balance() == before + 4_000_000
    starting = threading.Thread(target=farm.start)
    starting.start()
    credit(farm, "1")  # while the farm starts: the command runs before it or waits for it
    starting.join()
    assert balance() == before + 5_000_000
    assert audited(farm, "ledger.post") == rows + 17


def test_a_refused_operators_command_says_why_and_leaves_the_farm_well(farm: RunningFarm) -> None:
    for name, arguments, words in (
        ("credit.add", {"account": "nobody", "amount": "1"}, "no account"),
        ("credit.add", {"account": "studio", "amount": "lots"}, "amount"),
        ("no.such", {}, "no such command"),
        ("user.add", {"account": "studio"}, "its log has the error"),
    ):
        with pytest.raises(control_socket.OperatorError) as refused:
            control_socket.run(farm.data, name, arguments)
        assert words in str(refused.value)
    assert credit(farm, "0.01")["kind"] == "credit"
    mode = (farm.data / control_socket.SOCKET).stat().st_mode & 0o777
    assert mode == 0o600
    assert farm.data.stat().st_mode & 0o777 == 0o700


def test_a_stop_does_not_wait_for_a_scene_that_is_being_read(farm: RunningFarm) -> None:
    assert farm.process is not None
    server = psutil.Process(farm.process.pid)

    def reader() -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in server.children(recursive=True):
                if "framefarm.server.files.scene_reader_process" in process.cmdline():
                    process.suspend()
                    return process
        return None

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(farm.submit, frame_range="1", output_path="gs://renders/stopped")
        frozen = farm.until(reader, "the scene is being read")
        job = submitted.result()
    farm.process.send_signal(signal.SIGTERM)
    assert farm.process.wait(20) == 0
    assert not frozen.is_running()
    farm.start()
    farm.wait(job["id"], "success")
