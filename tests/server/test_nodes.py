"""Machines that are set aside, tried again, returned; and machines that are taken away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from structlog.testing import capture_logs
from test_billing import books_agree
from test_leases import DispatchHarness
from test_metrics import metrics
from typer.testing import CliRunner

from framefarm.cli.main import build
from framefarm.core.errors import NotFound
from framefarm.server import schema
from framefarm.server.accounts.tables import audit
from framefarm.server.database import sqlite_url
from framefarm.server.engines.base import Notice
from framefarm.server.jobs.tables import job_state, tasks
from framefarm.server.nodes import service as nodes
from framefarm.server.operator.commands import COMMANDS
from framefarm.server.sessions.tables import attempts, sessions


@pytest.fixture
def bench(site: ApiClient) -> DispatchHarness:
    return DispatchHarness(site, cores=1)


def operator(bench: DispatchHarness, name: str, **said: Any) -> dict[str, Any]:
    context = bench.site.context
    return context.db.write_now(COMMANDS[name], context, said)


def node(bench: DispatchHarness, name: str = "fake-node") -> dict[str, Any]:
    return next(n for n in operator(bench, "node.list")["nodes"] if n["node"] == name)


def fail(bench: DispatchHarness, cause: str = "disk_full", **more: Any) -> str:
    """A new job, whose first attempt on the machine fails; it is cancelled then."""
    job = str(bench.site.submit(frame_range="1", **more)["id"])
    (one,) = bench.start(1)
    one.render_failed(cause)
    bench.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    one.sync()
    bench.engine.die(one.spec.id)
    bench.clock.now_ms += 10
    return job


def succeed(bench: DispatchHarness) -> None:
    job = str(bench.site.submit(frame_range="1")["id"])
    assert bench.finish(job) == "success"
    for one in bench.alive():
        bench.engine.die(one.spec.id)


def test_machine_failing_different_jobs_is_set_aside_and_shown(bench: DispatchHarness) -> None:
    fail(bench)
    fail(bench, "blender_broken")
    bench.turn()
    assert node(bench)["state"] == "in_use"
    fail(bench)
    job = bench.site.submit(frame_range="1")["id"]
    with capture_logs() as logs:
        bench.turn()
    seen = node(bench)
    assert (seen["state"], seen["sessions"], seen["market"]) == ("set_aside", 0, "any")
    reason = (
        "3 different jobs failed on it, with no success between: Disk full (2), "
        "Blender could not be driven (1)."
    )
    assert seen["reason"] == reason
    assert bench.alive() == []
    assert [x["node"] for x in logs if x["event"] == "node_set_aside"] == ["fake-node"]
    (row,) = bench.site.rows(audit, audit.c.action == "node.set_aside")
    assert (row["actor"], row["target"], row["account_id"]) == ("system", "fake-node", None)
    waits = bench.site.get(f"/api/jobs/{job}")["waiting_for"]
    assert waits == (
        f"a {bench.site.instance} machine: machine fake-node is set aside, tried again at {seen['until']}"
    )
    assert metrics(bench.site)["framefarm_nodes"][(("state", "set_aside"),)] == 1


def test_after_its_pause_it_is_tried_with_one_session_and_returned_by_a_frame(bench: DispatchHarness) -> None:
    bench.engine.cores = 2
    for _ in range(3):
        fail(bench)
    job = bench.site.submit(frame_range="1-8", chunk_size=2)["id"]
    bench.turn()
    bench.silence(50)
    assert bench.alive() == []
    bench.silence(20)
    (one,) = bench.alive()
    assert node(bench)["state"] == "on_trial"
    one.hello()
    one.sync()
    bench.clock.now_ms += 10
    one.render()
    one.send()
    bench.turn()
    assert node(bench) | {"since": 0} == {
        "node": "fake-node", "zone": None, "market": "any", "present": True, "state": "in_use",
        "reason": None, "since": 0, "until": None, "leaves": None, "sessions": 1,
    }  # fmt: skip
    assert bench.finish(job) == "success"


def test_a_failure_on_trial_sets_it_aside_for_twice_as_long(bench: DispatchHarness) -> None:
    for _ in range(3):
        fail(bench)
    bench.turn()
    bench.silence(70)
    fail(bench)
    began = bench.clock.now_ms
    bench.turn()
    row = bench.site.row(nodes.nodes)
    assert (row["standing"], row["until_ms"] - began, row["times"]) == ("set_aside", 120_000, 2)


def test_a_success_between_keeps_it_in_use(bench: DispatchHarness) -> None:
    fail(bench)
    fail(bench)
    succeed(bench)
    fail(bench)
    bench.turn()
    assert node(bench)["state"] == "in_use"
    fail(bench)
    fail(bench)
    bench.turn()
    assert node(bench)["state"] == "set_aside"


def test_what_was_asked_for_speaks_against_no_machine(bench: DispatchHarness) -> None:
    for _ in range(5):
        fail(bench, "unknown_camera")
    bench.turn()
    assert node(bench)["state"] == "in_use"


def test_one_job_whose_sessions_are_unfit_speaks_against_no_machine_and_three_do(
    bench: DispatchHarness,
) -> None:
    def unfit() -> None:
        bench.turn()
        (one,) = bench.alive()
        one.hello()
        one.unfit()
        bench.engine.die(one.spec.id)
        bench.clock.now_ms += 120_000

    for tries in (3, 3, 1):
        job = bench.site.submit(frame_range="1")["id"]
        for _ in range(tries):
            unfit()
            assert node(bench)["state"] == "in_use"
        bench.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    bench.turn()
    seen = node(bench)
    assert (seen["state"], "Machine unfit" in seen["reason"]) == ("set_aside", True)


def test_a_job_leaves_a_machine_that_is_unfit_for_it_and_tries_it_again_less_and_less(
    bench: DispatchHarness,
) -> None:
    job = bench.site.submit(frame_range="1")["id"]
    pauses = []
    for _ in range(4):
        bench.turn()
        (one,) = bench.alive()
        one.hello()
        one.unfit()
        bench.engine.die(one.spec.id)
        began = bench.clock.now_ms
        bench.turn()
        waits = bench.site.get(f"/api/jobs/{job}")["waiting_for"]
        assert "its last session on machine fake-node ended badly (Machine unfit), tried again at" in waits
        while not bench.alive():
            bench.clock.now_ms += 500
            bench.turn()
        pauses.append(bench.clock.now_ms - began)
    assert pauses == [1000, 2000, 4000, 8000]
    (one,) = bench.alive()
    one.hello()
    one.unfit()
    bench.engine.die(one.spec.id)
    bench.engine.nodes.append(("other", ""))
    bench.turn()
    (two,) = bench.alive()
    assert two.spec.node == "other"


def test_sessions_that_a_machine_itself_ended_speak_against_it(bench: DispatchHarness) -> None:
    for _ in range(3):
        job = bench.site.submit(frame_range="1")["id"]
        (one,) = bench.start(1)
        one.outbox += [one.opened()]
        one.unfit("disk_full")
        bench.engine.die(one.spec.id)
        bench.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    bench.turn()
    assert "Disk full (3)" in node(bench)["reason"]


def test_sessions_of_a_machine_that_is_set_aside_drain_and_others_are_used(bench: DispatchHarness) -> None:
    bench.engine.nodes = [("a", ""), ("b", "")]
    job = bench.site.submit(frame_range="1-4")["id"]
    one, two = bench.start(2)
    shut = operator(bench, "node.set_aside", node=one.spec.node, reason="a new disk")
    assert (shut["state"], shut["reason"], shut["until"]) == ("set_aside", "a new disk", None)
    bench.turn()
    assert bench.session(one)["drain"] and not bench.session(two)["drain"]
    (row,) = bench.site.rows(audit, audit.c.action == "node.set_aside")
    assert row["actor"] == "operator"
    bench.engine.nodes = [(one.spec.node, "")]
    while one.render():
        pass
    one.send()
    bench.engine.die(one.spec.id)
    bench.engine.die(two.spec.id)
    bench.turn()
    assert "a new disk" not in bench.site.get(f"/api/jobs/{job}")["waiting_for"]
    assert "until the farm's operator returns it" in bench.site.get(f"/api/jobs/{job}")["waiting_for"]
    bench.silence(7200)
    assert bench.alive() == []
    assert operator(bench, "node.return", node=one.spec.node)["state"] == "in_use"
    assert bench.finish(job) == "success"


def test_a_machine_that_nobody_knows_is_named_with_those_there_are(bench: DispatchHarness) -> None:
    bench.turn()
    with pytest.raises(NotFound, match="no machine other; there are: fake-node"):
        operator(bench, "node.return", node="other")


def test_what_was_lost_while_the_farm_was_away_speaks_against_no_machine(bench: DispatchHarness) -> None:
    bench.engine.cores = 4
    for _ in range(3):
        bench.site.submit(frame_range="1")
    for one in bench.start(3):
        one.desk.begin_without_frame(one.now_ms())
        one.outbox += [one.begun()]
        one.send()
        bench.engine.die(one.spec.id)
    bench.clock.now_ms += 3_600_000
    bench.turn()
    assert {a["outcome"] for a in bench.site.rows(attempts)} >= {"lost"}
    assert node(bench)["state"] == "in_use"


def test_the_command_lists_machines_of_a_farm_that_does_not_run(tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "farm")]
    run = CliRunner().invoke
    assert run(build(), ["admin", "node", "list", *data]).exit_code == 0
    with sa.create_engine(sqlite_url(tmp_path / "farm" / "framefarm.db")).begin() as conn:
        conn.execute(
            sa.insert(nodes.nodes).values(
                name="m1", zone="z", market="any", present=True, standing="in_use", since_ms=0,
                counted_from_ms=0, times=0,
            )
        )  # fmt: skip
    aside = run(build(), ["admin", "node", "set-aside", "m1", "--reason", "dust", *data, "--json"])
    assert json.loads(aside.stdout)["state"] == "set_aside"
    (row,) = json.loads(run(build(), ["admin", "node", "list", *data, "--json"]).stdout)["nodes"]
    assert (row["node"], row["zone"], row["reason"], row["sessions"]) == ("m1", "z", "dust", 0)
    assert "reason=dust" in run(build(), ["admin", "node", "list", *data]).stdout
    back = run(build(), ["admin", "node", "return", "m1", *data, "--json"])
    assert json.loads(back.stdout)["state"] == "in_use"
    lost = run(build(), ["admin", "node", "return", "m9", *data])
    assert (lost.exit_code, "there are: m1" in lost.stderr) == (1, True)


# ------------------------------------------------------------------------- taken away


def test_machine_taken_away_drains_then_preempts_before_the_deadline(bench: DispatchHarness) -> None:
    job = bench.site.submit(frame_range="1-4", chunk_size=4, preemptible=True)["id"]
    (one,) = bench.start(1)
    one.render()
    one.send()
    deadline = bench.clock.now_ms + 120_000
    bench.engine.noticed = [Notice("fake-node", deadline)]
    bench.turn()
    assert (bench.session(one)["drain"], bench.session(one)["preempt_ms"]) == (True, None)
    assert node(bench)["leaves"] is not None
    bench.call(one, seconds=80)
    assert bench.session(one)["preempt_ms"] is None
    bench.call(one, seconds=10)
    assert bench.session(one)["preempt_ms"] == deadline - 5000
    assert one.desk.preempted or one.sync() is None
    one.send()
    bench.engine.die(one.spec.id)
    bench.turn()
    (ended,) = bench.site.rows(attempts)
    assert (ended["outcome"], ended["frames_done"]) == ("preempted", 1)
    assert ended["message"] == "Its machine was taken away by its provider."
    row = bench.site.row(tasks, tasks.c.job_id == job)
    assert (row["status"], row["preemptions"], row["losses"]) == ("pending", 0, 0)
    assert bench.alive() == []
    assert "taken away by its provider" in bench.site.get(f"/api/jobs/{job}")["waiting_for"]
    bench.engine.noticed, bench.engine.nodes = [], [("other", "")]
    assert bench.finish(job) == "success"
    books_agree(bench.site)


@pytest.mark.parametrize("preemptible", [True, False])
def test_without_a_frame_it_spends_a_retry_or_is_the_farms_loss(
    bench: DispatchHarness, preemptible: bool
) -> None:
    job = bench.site.submit(frame_range="1", preemptible=preemptible, preemptible_retries=1)["id"]
    (one,) = bench.start(1)
    one.desk.begin_without_frame(one.now_ms())
    bench.engine.noticed = [Notice("fake-node", bench.clock.now_ms + 20_000)]
    bench.turn()
    one.sync()
    one.send()
    assert one.desk.done
    bench.engine.die(one.spec.id)
    bench.turn()
    assert [a["outcome"] for a in bench.site.rows(attempts)] == ["preempted"]
    row = bench.site.row(tasks, tasks.c.job_id == job)
    assert (row["status"], row["preemptions"], row["losses"]) == (
        "pending",
        int(preemptible),
        1 - preemptible,
    )


def test_one_that_does_not_go_is_stopped_before_its_machine_is_taken(bench: DispatchHarness) -> None:
    bench.site.submit(frame_range="1")
    (one,) = bench.start(1)
    one.desk.begin_without_frame(one.now_ms())
    bench.engine.noticed = [Notice("fake-node", bench.clock.now_ms + 15_000)]
    bench.turn()
    bench.clock.now_ms += 10_000
    bench.turn()
    assert bench.engine.stopped == [one.spec.id]


# --------------------------------------------------------------------------- migration

FILLED = (
    "accounts", "users", "projects", "instance_types", "jobs", "job_state", "sessions", "attempts",
)  # fmt: skip


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_migration_0007_keeps_the_sessions_and_attempts_there_are(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "sqlite":
        url = sqlite_url(tmp_path / "old.db")
    else:
        url = request.getfixturevalue("postgres")(False)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    schema.upgrade(engine, "0006")
    with engine.begin() as conn:
        old = sa.MetaData()
        old.reflect(conn)
        for name in (
            "accounts",
            "users",
            "projects",
            "instance_types",
            "jobs",
            "job_state",
            "sessions",
            "attempts",
        ):
            conn.execute(sa.insert(old.tables[name]).values(_row(old.tables[name])))
    schema.upgrade(engine)
    with engine.connect() as conn:
        kept = conn.execute(sa.select(sessions)).mappings().one()
        assert (kept["id"], kept["taken"]) == ("id", False)
        assert conn.execute(sa.select(attempts.c.outcome)).scalar() == "lost"
        assert conn.execute(sa.select(sa.func.count()).select_from(nodes.nodes)).scalar() == 0
    engine.dispose()


def _row(table: sa.Table) -> dict[str, Any]:
    """A value for each column that needs one."""
    values: dict[str, Any] = {}
    words = {"state": "ended", "outcome": "lost"}
    for column in table.columns:
        if column.nullable and column.name != "outcome":
            continue
        kind = column.type
        if isinstance(kind, sa.Boolean):
            values[column.name] = False
        elif isinstance(kind, sa.Integer | sa.Float | sa.Double):
            values[column.name] = 0
        elif isinstance(kind, sa.JSON):
            values[column.name] = {}
        else:
            values[column.name] = "id" if column.name.endswith("id") else words.get(column.name, column.name)
    return values


# ------------------------------------------------------------------- a scene that fails alike


def fails_on(bench: DispatchHarness, where: str, cause: str) -> None:
    """The job's next try is on that machine, and fails."""
    bench.engine.nodes = [(where, "")]
    bench.clock.now_ms += 100_000
    (one,) = bench.start(1)
    assert one.spec.node == where
    one.render_failed(cause, "Blender crashed.")
    bench.engine.die(one.spec.id)
    bench.turn()


def test_a_task_that_fails_alike_on_two_machines_stops_early(bench: DispatchHarness) -> None:
    job = bench.site.submit(frame_range="1", task_retries=9)["id"]
    fails_on(bench, "a", "crashed")
    fails_on(bench, "a", "crashed")
    row = bench.site.row(tasks)
    assert (row["status"], row["failures"], row["reason"]) == ("pending", 2, "Blender crashed.")
    fails_on(bench, "b", "crashed")
    seen = bench.site.get(f"/api/jobs/{job}/tasks/0")
    why = "It failed alike on 2 machines, so the fault is with the scene: it is not tried again."
    assert (seen["status"], seen["reason"]) == ("failed", f"Blender crashed. {why}")
    assert bench.site.status(job) == "failed"
    assert bench.site.row(job_state)["rows_failed"] == 1


def test_a_person_who_retries_it_gives_it_all_its_tries_anew(bench: DispatchHarness) -> None:
    job = bench.site.submit(frame_range="1", task_retries=9)["id"]
    fails_on(bench, "a", "crashed")
    fails_on(bench, "b", "crashed")
    assert bench.site.status(job) == "failed"
    assert bench.site.ask("POST", f"/api/jobs/{job}/retry", json={}).status_code == 200
    fails_on(bench, "a", "crashed")
    fails_on(bench, "a", "crashed")
    assert bench.site.row(tasks)["status"] == "pending"


def test_what_must_end_so_everywhere_is_tried_twice(bench: DispatchHarness) -> None:
    bench.site.submit(frame_range="1", task_retries=9)
    fails_on(bench, "a", "no_camera")
    assert bench.site.row(tasks)["status"] == "pending"
    fails_on(bench, "a", "no_camera")
    assert bench.site.row(tasks)["status"] == "failed"


def test_a_machines_own_fault_uses_the_tasks_tries_up(bench: DispatchHarness) -> None:
    bench.site.submit(frame_range="1", task_retries=2)
    for where in ("a", "b"):
        fails_on(bench, where, "blender_broken")
        assert bench.site.row(tasks)["status"] == "pending"
    fails_on(bench, "c", "blender_broken")
    row = bench.site.row(tasks)
    assert (row["status"], row["reason"]) == ("failed", "Blender crashed.")
