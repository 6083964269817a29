"""Nodes that are set aside, get a trial and return to use; and nodes that depart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from dispatch_harness import DispatchHarness
from structlog.testing import capture_logs
from test_billing import books_agree
from test_metrics import metrics
from typer.testing import CliRunner

from framefarm.cli.main import build
from framefarm.core.errors import NotFound
from framefarm.server import schema
from framefarm.server.accounts.tables import audit
from framefarm.server.database import sqlite_url
from framefarm.server.engines.base import Notice
from framefarm.server.jobs.tables import job_state, jobs, tasks
from framefarm.server.nodes import service as nodes
from framefarm.server.operator.commands import COMMANDS
from framefarm.server.sessions.tables import attempts, sessions


@pytest.fixture
def harness(site: ApiClient) -> DispatchHarness:
    return DispatchHarness(site, cores=1)


def operator(harness: DispatchHarness, name: str, **options: Any) -> dict[str, Any]:
    context = harness.site.context
    return context.db.write_now(COMMANDS[name], context, options)


def node(harness: DispatchHarness, name: str = "fake-node") -> dict[str, Any]:
    return next(n for n in operator(harness, "node.list")["nodes"] if n["node"] == name)


def fail(harness: DispatchHarness, cause: str = "disk_full", **more: Any) -> str:
    """Submit a job, fail its first attempt on the node, and cancel it; returns its id."""
    job = str(harness.site.submit(frame_range="1", **more)["id"])
    (one,) = harness.start(1)
    one.render_failed(cause)
    harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    one.sync()
    harness.engine.die(one.spec.id)
    harness.clock.now_ms += 10
    return job


def succeed(harness: DispatchHarness) -> None:
    job = str(harness.site.submit(frame_range="1")["id"])
    assert harness.finish(job) == "success"
    for one in harness.alive():
        harness.engine.die(one.spec.id)


def test_machine_failing_different_jobs_is_set_aside_and_shown(harness: DispatchHarness) -> None:
    fail(harness)
    fail(harness, "staging_failed")
    harness.turn()
    assert node(harness)["state"] == "in_use"
    fail(harness)
    job = harness.site.submit(frame_range="1")["id"]
    with capture_logs() as logs:
        harness.turn()
    seen = node(harness)
    assert (seen["state"], seen["sessions"], seen["market"]) == ("set_aside", 0, "any")
    reason = (
        "3 unlike jobs failed on it, with no success between: Disk full (2), Output cannot be stored (1)."
    )
    assert seen["reason"] == reason
    assert harness.alive() == []
    assert [x["node"] for x in logs if x["event"] == "node_set_aside"] == ["fake-node"]
    (row,) = harness.site.rows(audit, audit.c.action == "node.set_aside")
    assert (row["actor"], row["target"], row["account_id"]) == ("system", "fake-node", None)
    waits = harness.site.get(f"/api/jobs/{job}")["waiting_for"]
    assert waits == (
        f"a {harness.site.instance} machine: machine fake-node is set aside, tried again at {seen['until']}"
    )
    assert metrics(harness.site)["framefarm_nodes"][(("state", "set_aside"),)] == 1


def test_node_gets_a_trial_session_after_its_pause_and_returns_with_a_frame(
    harness: DispatchHarness,
) -> None:
    harness.engine.cores = 2
    for _ in range(3):
        fail(harness)
    job = harness.site.submit(frame_range="1-8", chunk_size=2)["id"]
    harness.turn()
    harness.silence(50)
    assert harness.alive() == []
    harness.silence(20)
    (one,) = harness.alive()
    assert node(harness)["state"] == "on_trial"
    one.hello()
    one.sync()
    harness.clock.now_ms += 10
    one.render()
    one.send()
    harness.turn()
    assert node(harness) | {"since": 0} == {
        "node": "fake-node", "zone": None, "market": "any", "present": True, "state": "in_use",
        "reason": None, "since": 0, "until": None, "leaves": None, "sessions": 1,
    }  # fmt: skip
    assert harness.finish(job) == "success"


def test_failure_on_trial_sets_the_node_aside_for_twice_as_long(harness: DispatchHarness) -> None:
    for _ in range(3):
        fail(harness)
    harness.turn()
    harness.silence(70)
    fail(harness)
    began = harness.clock.now_ms
    harness.turn()
    row = harness.site.row(nodes.nodes)
    assert (row["standing"], row["until_ms"] - began, row["times"]) == ("set_aside", 120_000, 2)


def test_success_between_failures_keeps_the_node_in_use(harness: DispatchHarness) -> None:
    fail(harness)
    fail(harness)
    succeed(harness)
    fail(harness)
    harness.turn()
    assert node(harness)["state"] == "in_use"
    fail(harness)
    fail(harness)
    harness.turn()
    assert node(harness)["state"] == "set_aside"


def scene_of(harness: DispatchHarness, job: str, sha256: str) -> None:
    change = sa.update(jobs).where(jobs.c.id == job).values(scene={"sha256": sha256})
    harness.site.context.db.write_now(lambda tx: tx.conn.execute(change))


@pytest.mark.parametrize(("cause", "scenes"), [("frames_missing", "abc"), ("disk_full", "aaa")])
def test_resubmissions_of_one_scene_and_faults_of_jobs_count_against_no_node(
    harness: DispatchHarness, cause: str, scenes: str
) -> None:
    harness.engine.nodes.append(("other", ""))
    for scene in scenes:
        scene_of(harness, fail(harness, cause), scene)
    harness.turn()
    assert {n["state"] for n in operator(harness, "node.list")["nodes"]} == {"in_use"}


def test_unlike_scenes_that_fail_on_one_node_and_render_on_another_set_it_aside(
    harness: DispatchHarness,
) -> None:
    harness.engine.nodes.append(("other", ""))
    for scene in "abc":
        job = fail(harness, "crashed")
        scene_of(harness, job, scene)
        [tried] = harness.site.rows(attempts, attempts.c.job_id == job)
        elsewhere = {**tried, "id": f"att_{scene}", "node": "another", "frames_done": 1, "cause": None}
        insert = sa.insert(attempts).values({**elsewhere, "outcome": "success"})
        harness.site.context.db.write_now(lambda tx, insert=insert: tx.conn.execute(insert))
        failed_on = tried["node"]
        others = sa.update(attempts).where(attempts.c.cause == "crashed").values(node=failed_on)
        harness.site.context.db.write_now(lambda tx, others=others: tx.conn.execute(others))
    harness.turn()
    assert node(harness, failed_on)["state"] == "set_aside"
    assert "Blender crashed (3)" in node(harness, failed_on)["reason"]


def test_requested_ends_of_sessions_count_against_no_node(harness: DispatchHarness) -> None:
    for _ in range(5):
        fail(harness, "unknown_camera")
    harness.turn()
    assert node(harness)["state"] == "in_use"


def test_unfit_sessions_of_three_jobs_count_against_a_node_and_of_one_job_do_not(
    harness: DispatchHarness,
) -> None:
    def unfit() -> None:
        harness.turn()
        (one,) = harness.alive()
        one.hello()
        one.unfit()
        harness.engine.die(one.spec.id)
        harness.clock.now_ms += 120_000

    for tries in (3, 3, 1):
        job = harness.site.submit(frame_range="1")["id"]
        for _ in range(tries):
            unfit()
            assert node(harness)["state"] == "in_use"
        harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    harness.turn()
    seen = node(harness)
    assert (seen["state"], "Machine unfit" in seen["reason"]) == ("set_aside", True)


def test_a_job_leaves_a_machine_that_is_unfit_for_it_and_tries_it_again_less_and_less(
    harness: DispatchHarness,
) -> None:
    job = harness.site.submit(frame_range="1")["id"]
    pauses = []
    for _ in range(4):
        harness.turn()
        (one,) = harness.alive()
        one.hello()
        one.unfit()
        harness.engine.die(one.spec.id)
        began = harness.clock.now_ms
        harness.turn()
        waits = harness.site.get(f"/api/jobs/{job}")["waiting_for"]
        assert "its last session on machine fake-node ended badly (Machine unfit), tried again at" in waits
        while not harness.alive():
            harness.clock.now_ms += 500
            harness.turn()
        pauses.append(harness.clock.now_ms - began)
    assert pauses == [1000, 2000, 4000, 8000]
    (one,) = harness.alive()
    one.hello()
    one.unfit()
    harness.engine.die(one.spec.id)
    harness.engine.nodes.append(("other", ""))
    harness.turn()
    (two,) = harness.alive()
    assert two.spec.node == "other"


def test_sessions_ended_by_their_node_count_against_it(harness: DispatchHarness) -> None:
    for _ in range(3):
        job = harness.site.submit(frame_range="1")["id"]
        (one,) = harness.start(1)
        one.outbox += [one.opened()]
        one.unfit("disk_full")
        harness.engine.die(one.spec.id)
        harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    harness.turn()
    assert "Disk full (3)" in node(harness)["reason"]


def test_sessions_of_a_machine_that_is_set_aside_drain_and_others_are_used(harness: DispatchHarness) -> None:
    harness.engine.nodes = [("a", ""), ("b", "")]
    job = harness.site.submit(frame_range="1-4")["id"]
    one, two = harness.start(2)
    shut = operator(harness, "node.set_aside", node=one.spec.node, reason="a new disk")
    assert (shut["state"], shut["reason"], shut["until"]) == ("set_aside", "a new disk", None)
    harness.turn()
    assert harness.session(one)["drain"] and not harness.session(two)["drain"]
    (row,) = harness.site.rows(audit, audit.c.action == "node.set_aside")
    assert row["actor"] == "operator"
    harness.engine.nodes = [(one.spec.node, "")]
    while one.render():
        pass
    one.send()
    harness.engine.die(one.spec.id)
    harness.engine.die(two.spec.id)
    harness.turn()
    assert "a new disk" not in harness.site.get(f"/api/jobs/{job}")["waiting_for"]
    assert "until the farm's operator returns it" in harness.site.get(f"/api/jobs/{job}")["waiting_for"]
    harness.silence(7200)
    assert harness.alive() == []
    assert operator(harness, "node.return", node=one.spec.node)["state"] == "in_use"
    assert harness.finish(job) == "success"


def test_unknown_node_is_refused_with_the_known_names(harness: DispatchHarness) -> None:
    harness.turn()
    with pytest.raises(NotFound, match="no machine other; there are: fake-node"):
        operator(harness, "node.return", node="other")


def test_losses_while_the_farm_was_away_count_against_no_node(harness: DispatchHarness) -> None:
    harness.engine.cores = 4
    for _ in range(3):
        harness.site.submit(frame_range="1")
    for one in harness.start(3):
        one.desk.begin_without_frame(one.now_ms())
        one.outbox += [one.begun()]
        one.send()
        harness.engine.die(one.spec.id)
    harness.clock.now_ms += 3_600_000
    harness.turn()
    assert {a["outcome"] for a in harness.site.rows(attempts)} >= {"lost"}
    assert node(harness)["state"] == "in_use"


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


def test_machine_taken_away_drains_then_preempts_before_the_deadline(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-4", chunk_size=4, preemptible=True)["id"]
    (one,) = harness.start(1)
    one.render()
    one.send()
    deadline = harness.clock.now_ms + 120_000
    harness.engine.noticed = [Notice("fake-node", deadline)]
    harness.turn()
    assert (harness.session(one)["drain"], harness.session(one)["preempt_ms"]) == (True, None)
    assert node(harness)["leaves"] is not None
    harness.call(one, seconds=80)
    assert harness.session(one)["preempt_ms"] is None
    harness.call(one, seconds=10)
    assert harness.session(one)["preempt_ms"] == deadline - 5000
    assert one.desk.preempted or one.sync() is None
    one.send()
    harness.engine.die(one.spec.id)
    harness.turn()
    (ended,) = harness.site.rows(attempts)
    assert (ended["outcome"], ended["frames_done"]) == ("preempted", 1)
    assert ended["message"] == "Its machine was taken away by its provider."
    row = harness.site.row(tasks, tasks.c.job_id == job)
    assert (row["status"], row["preemptions"], row["losses"]) == ("pending", 0, 0)
    assert harness.alive() == []
    assert "taken away by its provider" in harness.site.get(f"/api/jobs/{job}")["waiting_for"]
    harness.engine.noticed, harness.engine.nodes = [], [("other", "")]
    assert harness.finish(job) == "success"
    books_agree(harness.site)


@pytest.mark.parametrize("preemptible", [True, False])
def test_departure_without_a_frame_spends_a_retry_or_is_a_loss_of_the_farm(
    harness: DispatchHarness, preemptible: bool
) -> None:
    job = harness.site.submit(frame_range="1", preemptible=preemptible, preemptible_retries=1)["id"]
    (one,) = harness.start(1)
    one.desk.begin_without_frame(one.now_ms())
    harness.engine.noticed = [Notice("fake-node", harness.clock.now_ms + 20_000)]
    harness.turn()
    one.sync()
    one.send()
    assert one.desk.done
    harness.engine.die(one.spec.id)
    harness.turn()
    assert [a["outcome"] for a in harness.site.rows(attempts)] == ["preempted"]
    row = harness.site.row(tasks, tasks.c.job_id == job)
    assert (row["status"], row["preemptions"], row["losses"]) == (
        "pending",
        int(preemptible),
        1 - preemptible,
    )


def test_session_that_does_not_leave_is_stopped_before_the_departure(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1")
    (one,) = harness.start(1)
    one.desk.begin_without_frame(one.now_ms())
    harness.engine.noticed = [Notice("fake-node", harness.clock.now_ms + 15_000)]
    harness.turn()
    harness.clock.now_ms += 10_000
    harness.turn()
    assert harness.engine.stopped == [one.spec.id]


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


def fails_on(harness: DispatchHarness, where: str, cause: str) -> None:
    """Fail the job's next attempt, on the node `where`."""
    harness.engine.nodes = [(where, "")]
    harness.clock.now_ms += 100_000
    (one,) = harness.start(1)
    assert one.spec.node == where
    one.render_failed(cause, "Blender crashed.")
    harness.engine.die(one.spec.id)
    harness.turn()


def test_a_task_that_fails_alike_on_two_machines_stops_early(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1", task_retries=9)["id"]
    fails_on(harness, "a", "crashed")
    fails_on(harness, "a", "crashed")
    row = harness.site.row(tasks)
    assert (row["status"], row["failures"], row["reason"]) == ("pending", 2, "Blender crashed.")
    fails_on(harness, "b", "crashed")
    seen = harness.site.get(f"/api/jobs/{job}/tasks/0")
    why = "It failed alike on 2 machines, so the fault is with the scene: it is not tried again."
    assert (seen["status"], seen["reason"]) == ("failed", f"Blender crashed. {why}")
    assert harness.site.status(job) == "failed"
    assert harness.site.row(job_state)["rows_failed"] == 1


def test_retry_by_a_user_restores_all_attempts_of_a_task(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1", task_retries=9)["id"]
    fails_on(harness, "a", "crashed")
    fails_on(harness, "b", "crashed")
    assert harness.site.status(job) == "failed"
    assert harness.site.ask("POST", f"/api/jobs/{job}/retry", json={}).status_code == 200
    fails_on(harness, "a", "crashed")
    fails_on(harness, "a", "crashed")
    assert harness.site.row(tasks)["status"] == "pending"


@pytest.mark.parametrize(("cause", "times"), [("wrong_frame", 2), ("no_camera", 1)])
def test_failure_that_no_node_can_avoid_is_attempted_twice_or_once_if_the_scene_was_not_opened(
    harness: DispatchHarness, cause: str, times: int
) -> None:
    job = harness.site.submit(frame_range="1", task_retries=9)["id"]
    for _ in range(times):
        assert harness.site.status(job) == "pending"
        fails_on(harness, "a", cause)
    assert harness.site.row(tasks)["status"] == "failed"
    assert harness.site.ask("POST", f"/api/jobs/{job}/retry", json={}).status_code == 200


def test_faults_of_nodes_use_up_the_attempts_of_a_task(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1", task_retries=2)
    for where in ("a", "b"):
        fails_on(harness, where, "blender_broken")
        assert harness.site.row(tasks)["status"] == "pending"
    fails_on(harness, "c", "blender_broken")
    row = harness.site.row(tasks)
    assert (row["status"], row["reason"]) == ("failed", "Blender crashed.")
