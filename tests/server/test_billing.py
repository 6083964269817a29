"""Billing: attempts are metered, the ledger is append only, and all sums agree to the micro-dollar."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from api_client import ApiClient
from fake_runner import FakeRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framefarm.server.billing import service as billing
from framefarm.server.billing.tables import ledger_postings, ledger_transactions
from framefarm.server.sessions.tables import attempts

HOUR_MS = 3_600_000


class FakeClock:
    """Clock of the database that the test advances: only time that passes may be billed."""

    def __init__(self, site: ApiClient) -> None:
        self.now_ms = 1_800_000_000_000
        site.context.db.clock_ms = self

    def __call__(self) -> int:
        return self.now_ms


def works(clock: FakeClock, runner: FakeRunner, ms: int) -> None:
    """Render the runner's next task in `ms` milliseconds, which cost as many micro-dollars."""
    task = runner.sync().tasks[0]
    runner.report(runner.started(task))
    clock.now_ms += ms
    runner.report(*[runner.saved(task, f) for f in task.frames], runner.ended(task, ms=ms))


def books_agree(site: ApiClient) -> int:
    """Check every sum of the ledger; returns the account's balance."""
    entries = sorted(site.rows(ledger_transactions), key=lambda e: e["number"])
    total = 0
    for number, entry in enumerate(entries, 1):
        total += entry["amount_micros"]
        assert (entry["number"], entry["balance_micros"]) == (number, total)
    sides: dict[str, int] = defaultdict(int)
    for posting in site.rows(ledger_postings):
        sides[posting["transaction_id"]] += posting["amount_micros"]
    assert set(sides) == {e["id"] for e in entries}
    assert set(sides.values()) <= {0}
    balance = site.context.db.read_now(billing.balance, site.account_id)
    assert balance == total
    return balance


def test_a_finished_job_is_charged_the_sum_of_its_attempts(site: ApiClient) -> None:
    clock = FakeClock(site)
    job = site.submit(frame_range="1-3")["id"]
    runner = site.runner(job)
    for ms in (1001, 17, 250_000):
        works(clock, runner, ms)
    site.publish()
    assert site.status(job) == "success"
    spent = sum(a["cost_micros"] for a in site.rows(attempts))
    assert spent == 251_018
    (entry,) = site.rows(ledger_transactions)
    assert (entry["kind"], entry["amount_micros"], entry["job_id"]) == ("charge", -spent, job)
    assert {a["charge_id"] for a in site.rows(attempts)} == {entry["id"]}
    assert site.get(f"/api/jobs/{job}")["cost"]["amount_micros"] == spent
    assert books_agree(site) == -spent


def test_a_runner_cannot_bill_more_time_than_has_passed(site: ApiClient) -> None:
    clock = FakeClock(site)
    runner = site.runner(site.submit(frame_range="1")["id"])
    (task,) = runner.sync().tasks
    clock.now_ms += 5
    runner.report(runner.started(task), runner.saved(task, 1), runner.ended(task, ms=10 * HOUR_MS))
    assert site.row(attempts)["billed_ms"] == 5


def test_a_preempted_attempt_is_billed_until_its_last_committed_frame(site: ApiClient) -> None:
    """One second in work, of which the first frame took 300 ms; the lost part of the second frame is free."""
    clock = FakeClock(site)
    job = site.submit(frame_range="1-2", chunk_size=2)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task))
    clock.now_ms += 1000
    runner.clock_ms = 300
    runner.report(runner.saved(task, 1))
    runner.clock_ms = 0
    runner.report(runner.ended(task, "preempted", ms=1000))
    assert site.row(attempts, attempts.c.outcome == "preempted")["billed_ms"] == 300


def test_clock_set_back_while_a_task_renders_stops_no_report(site: ApiClient) -> None:
    clock = FakeClock(site)
    job = site.submit(frame_range="1")["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    clock.now_ms -= HOUR_MS
    assert runner.render(task, ms=1000).verdicts == ["applied"] * 3
    assert site.row(attempts)["billed_ms"] == 0


def test_attempts_lost_by_the_farm_cost_nothing(site: ApiClient) -> None:
    clock = FakeClock(site)
    runner = site.runner(site.submit(frame_range="1")["id"])
    (task,) = runner.sync().tasks
    runner.report(runner.started(task))
    clock.now_ms += 100_000
    runner.lose()
    assert site.row(attempts)["cost_micros"] == 0


def test_a_long_job_is_charged_at_the_hours_turn_once(site: ApiClient) -> None:
    clock = FakeClock(site)
    job = site.submit(frame_range="1-9")["id"]
    runner = site.runner(job)
    works(clock, runner, 1000)
    assert site.rows(ledger_transactions) == []
    clock.now_ms += HOUR_MS
    assert site.context.db.write_now(billing.charge_due) == 1
    assert site.context.db.write_now(billing.charge_due) == 0
    assert books_agree(site) == -1000


def test_the_current_period_counts_what_is_not_charged_yet(site: ApiClient) -> None:
    clock = FakeClock(site)
    runner = site.runner(site.submit(frame_range="1-9")["id"])
    works(clock, runner, 1234)
    usage = site.context.db.read_now(billing.current_period, site.account_id)
    assert (usage.total, usage.unposted, usage.balance, usage.frames) == (1234, 1234, 0, 1)


def test_one_account_sees_nothing_of_anothers_money(site: ApiClient, other: ApiClient) -> None:
    clock = FakeClock(site)
    runner = site.runner(site.submit(frame_range="1")["id"])
    works(clock, runner, 1234)
    site.publish()
    assert len(site.get("/api/billing/transactions")["data"]) == 1
    assert other.get("/api/billing/transactions")["data"] == []
    assert other.context.db.read_now(billing.balance, other.account_id) == 0


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["payment", "credit", "charge", "refund", "adjustment"]),
            st.integers(-(10**12), 10**12),
        ),
        max_size=6,
    )
)
def test_books_agree_after_any_entries(site: ApiClient, posted: list[tuple[str, int]]) -> None:
    before = books_agree(site)
    for kind, amount in posted:
        site.context.db.write_now(billing.post, site.account_id, kind, amount, "test", "operator")
    assert books_agree(site) == before + sum(amount for _, amount in posted)


def test_charges_that_race_with_ending_attempts_miss_none_and_take_none_twice(site: ApiClient) -> None:
    job = site.submit(frame_range="1-60")["id"]
    runner = site.runner(job)
    rendered = threading.Event()

    def charge() -> int:
        charges = 0
        while not rendered.is_set():
            charges += site.context.db.write_now(billing.charge_job, site.account_id, job) is not None
        return charges

    site.context.db.clock_ms = itertools.count(1_800_000_000_000, 1000).__next__
    with ThreadPoolExecutor(2) as pool:
        charging = [pool.submit(charge) for _ in range(2)]
        try:
            while wanted := runner.sync().tasks:
                runner.render(wanted[0], ms=7)
        finally:
            rendered.set()
        assert sum(c.result() for c in charging) >= 1
    site.publish()
    assert site.status(job) == "success"
    assert books_agree(site) == -sum(a["cost_micros"] for a in site.rows(attempts)) == -60 * 7
