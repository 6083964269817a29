"""Each invariant check of script/chaos finds its violation in a database that was tampered with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient, a_farm, a_site

sys.path.append(str(Path(__file__).parents[2] / "chaos"))
import invariants
from recorder import BegunFrame
from workload import KnownJob

from framefarm.core.frames import FrameSet
from framefarm.server.billing import service as billing


@pytest.fixture
def night(tmp_path: Path) -> Iterator[tuple[ApiClient, KnownJob]]:
    """A farm with one finished job that violates no invariant."""
    with a_farm(tmp_path, None) as context, a_site(context) as site:
        fields = site.payload(frame_range="1-4", chunk_size=2, job_title="chaos 0", output_path="chaos/0")
        body = site.submit(**fields)
        site.render(body["id"])
        context.db.write_now(billing.charge_job, site.account_id, body["id"])
        context.db.write_now(billing.post, site.account_id, "credit", 5, "a gift", "operator")
        known = KnownJob(body["id"], "chaos 0", FrameSet.of([1, 2, 3, 4]), body["priority"], status="success")
        yield site, known


def tampered(site: ApiClient, statement: str) -> invariants.FarmDatabase:
    site.context.db.write_now(lambda tx: tx.conn.execute(sa.text(statement)).rowcount)
    return invariants.FarmDatabase(site.context.data)


def begun(database: invariants.FarmDatabase, **more: Any) -> BegunFrame:
    a = database.all("SELECT * FROM attempts")[0]
    row = {
        "session": a["session_id"], "attempt": "att_other", "frame": 1, "revision": 0,
        "at_ms": a["assigned_ms"] + 60_000, "silent_ms": 100,
    }  # fmt: skip
    return BegunFrame(**(row | more))


Check = Callable[[invariants.FarmDatabase, KnownJob], Iterator[str]]
FRAMES: Check = lambda database, job: invariants.frames_once(database, [job])  # noqa: E731
MONEY: Check = lambda database, job: invariants.money(database)  # noqa: E731
AGAIN: Check = lambda database, job: invariants.not_begun_again(database, [])  # noqa: E731
KNOWN: Check = lambda database, job: invariants.acknowledged(database, [job], {}, [])  # noqa: E731
TAMPERED = [
    (FRAMES, "DELETE FROM frames WHERE frame = 2", "not every frame is committed: 3 of 4"),
    (FRAMES, "UPDATE frames SET revision = 1 WHERE frame = 2", "by no attempt of its task and revision"),
    (FRAMES, "UPDATE frames SET attempt_id = 'att_none' WHERE frame = 2", "by no attempt of its task"),
    (FRAMES, "DELETE FROM files WHERE frame = 2", "frame 2 has 0 pictures"),
    (FRAMES, "UPDATE files SET published_ms = NULL WHERE frame = 2", "was never published"),
    (FRAMES, "UPDATE job_state SET frames_done = 5", "counts 5 frames done, has 4"),
    (FRAMES, "UPDATE job_state SET rows_success = 1", "counts 1 tasks success, has 2"),
    (FRAMES, "UPDATE attempts SET frames_done = 3", "counts 3 frames, committed 2"),
    (AGAIN, "UPDATE attempts SET assigned_ms = assigned_ms + 3600000", "which was committed before"),
    (MONEY, "UPDATE attempts SET cost_micros = cost_micros + 1", "the ledger has"),
    (MONEY, "UPDATE attempts SET outcome = 'lost', billed_ms = 7", "was lost and is billed"),
    (MONEY, "UPDATE attempts SET outcome = NULL", "has not ended"),
    (MONEY, "UPDATE attempts SET billed_ms = 3600000", "is billed for longer than it lasted"),
    (MONEY, "UPDATE ledger_transactions SET amount_micros = amount_micros - 1", "has the balance"),
    (MONEY, "UPDATE ledger_postings SET amount_micros = amount_micros - 1", "sum to -2"),
    (KNOWN, "UPDATE job_state SET priority = 1", "its priority is 1, 50 was acknowledged"),
    (KNOWN, "UPDATE jobs SET deleted_ms = 5", "should be not deleted"),
    (KNOWN, "DELETE FROM job_state", "chaos 0 is not in the database"),
]


@pytest.mark.parametrize(("check", "statement", "sentence"), TAMPERED, ids=[t[1] for t in TAMPERED])
def test_a_tampered_book_is_found(
    night: tuple[ApiClient, KnownJob], check: Check, statement: str, sentence: str
) -> None:
    site, job = night
    whole = " ".join(check(invariants.FarmDatabase(site.context.data), job))
    assert sentence not in whole
    assert sentence in " ".join(check(tampered(site, statement), job))


def test_a_committed_frame_begun_again_is_found_only_on_a_connected_machine(
    night: tuple[ApiClient, KnownJob],
) -> None:
    database = invariants.FarmDatabase(night[0].context.data)
    assert list(invariants.not_begun_again(database, [begun(database)])) != []
    assert list(invariants.not_begun_again(database, [begun(database, silent_ms=3000)])) == []
    assert list(invariants.not_begun_again(database, [begun(database, revision=1)])) == []
    assert list(invariants.not_begun_again(database, [begun(database, at_ms=0)])) == []


def test_work_assigned_during_a_hold_or_after_a_cancel_is_found(night: tuple[ApiClient, KnownJob]) -> None:
    site, job = night
    database = invariants.FarmDatabase(site.context.data)
    assert list(invariants.acknowledged(database, [job], {}, [])) == []
    job.holds = [(0, 1 << 60)]
    assert any("was held" in s for s in invariants.acknowledged(database, [job], {}, []))
    job.holds, job.cancelled_ms = [], 5
    found = list(invariants.acknowledged(database, [job], {}, []))
    assert any("was cancelled and is success" in s for s in found) and any("was held" in s for s in found)


def test_lost_uploads_projects_and_frames_to_do_again_are_found(night: tuple[ApiClient, KnownJob]) -> None:
    site, job = night
    job.redone = {2: 5}
    database = invariants.FarmDatabase(site.context.data)
    found = list(invariants.acknowledged(database, [job], {"/a": "0" * 64}, ["gone", "default"]))
    assert found == [
        "chaos 0: frame 2 was not rendered again",
        "the content of upload /a is not stored",
        "the project gone is not in the database",
    ]


def test_leftovers_are_found(tmp_path: Path) -> None:
    for name in (
        "sessions/ses_1/runner.log",
        "store/staging/acc/att_1/1.0",
        "store/incoming/tmp1",
        "outputs/.x.part",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(invariants.no_leftovers(tmp_path, {"/"}, {"/", "/mnt"}, ["7 blender"], ["bwrap-1"]))
    assert len(found) == 9 and any("att_1/1.0" in s for s in found) and any(".x.part" in s for s in found)
