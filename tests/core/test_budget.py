"""Budgets by reservation: a limit is kept whatever the sessions do, and money comes back exactly."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.budget import (
    DRAIN_LEAST_MS,
    SLICE_MS,
    BudgetBalance,
    BudgetTerms,
    Mode,
    ReserveResult,
    SessionReservation,
    cost_rounded_up,
    may_resume,
    release,
    reserve,
    settle,
    slice_micros,
)
from framefarm.core.money import affordable_ms, cost_micros

HOUR = 3_600_000
PULSE_MS, STOP_MARGIN_MS = 2000, 10_000


def terms(amount: int = 1000, mode: Mode = "drain", **at: int | None) -> BudgetTerms:
    return BudgetTerms(amount, mode, at.get("warn"), at.get("hold"), at.get("cancel"))


@pytest.mark.parametrize(
    ("warn", "hold", "cancel", "limit", "cancels"),
    [
        (80, 100, None, 1000, False),
        (80, 90, 120, 900, False),
        (None, None, 100, 1000, True),
        (None, 100, 100, 1000, True),
        (None, 100, 90, 900, True),
        (None, 90, 100, 900, False),
        (50, None, None, None, False),
    ],
)
def test_the_limit_is_the_first_of_hold_and_cancel(
    warn: int | None, hold: int | None, cancel: int | None, limit: int | None, cancels: bool
) -> None:
    budget = terms(warn=warn, hold=hold, cancel=cancel)
    assert (budget.limit_micros, budget.cancels_at_limit) == (limit, cancels)
    assert budget.warn_micros == (None if warn is None else 10 * warn)
    assert budget.cancel_micros == (None if cancel is None else 10 * cancel)


def test_thresholds_are_whole_micro_dollars_rounded_down() -> None:
    assert terms(999, warn=50).warn_micros == 499
    assert terms(99, hold=1).limit_micros == 0


@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 10_000))
def test_a_slice_is_never_more_than_there_is_nor_less_than_is_of_use(
    free: int, price: int, least: int, takers: int
) -> None:
    amount = slice_micros(free, price, least=least, takers=takers)
    assert 0 <= amount <= free
    assert amount == 0 if free < least else least <= amount <= max(least, cost_rounded_up(SLICE_MS, price))


def test_far_from_the_limit_a_slice_is_a_quarter_of_an_hour() -> None:
    assert slice_micros(10**9, 4_000_000, least=1, takers=3) == 1_000_000


@pytest.mark.parametrize(
    ("free", "least", "takers", "amount"),
    [
        (1000, 1, 2, 250),
        (1000, 1, 1, 500),
        (1000, 1, 0, 500),
        (1000, 300, 2, 300),
        (1000, 1000, 2, 1000),
        (999, 1000, 2, 0),
        (1_800_000, 1, 1, 900_000),
        (1_799_998, 1, 1, 899_999),
        (9_000_000, 1, 1, 900_000),
        (9_000_000, 1_000_000, 1, 1_000_000),
    ],
)
def test_near_the_limit_a_slice_is_half_of_a_takers_share(
    free: int, least: int, takers: int, amount: int
) -> None:
    assert slice_micros(free, HOUR, least=least, takers=takers) == amount


@pytest.mark.parametrize(
    ("ms", "price", "micros"),
    [(0, 9, 0), (1, 1, 1), (HOUR, 7, 7), (HOUR - 1, 7, 7), (HOUR + 1, 7, 8), (HOUR, 0, 0)],
)
def test_the_price_of_a_time_is_rounded_up(ms: int, price: int, micros: int) -> None:
    assert cost_rounded_up(ms, price) == micros


def stopping(limit: int | None, **more: int) -> BudgetBalance:
    return BudgetBalance("b", "stop", limit, **more)


def asked(
    purse: SessionReservation, *above: BudgetBalance, running: int = 0, takers: dict[str, int] | None = None
) -> ReserveResult:
    """Ask with a margin of 10 ms under a budget that stops, 7 ms under one that drains."""
    return reserve(purse, above, running_micros=running, stop_margin_ms=10, drain_margin_ms=7, takers=takers)


def test_free_money_is_what_is_neither_spent_nor_reserved() -> None:
    assert stopping(100, spent_micros=30, reserved_micros=20).free_micros == 50


def test_a_slice_is_taken_only_when_less_than_the_margin_is_left() -> None:
    pot, purse = stopping(10**9), SessionReservation("s", HOUR)
    assert asked(purse, pot) == ReserveResult(taken=True)
    assert (purse.held, pot.reserved_micros) == ({"b": SLICE_MS}, SLICE_MS)
    for running in (0, SLICE_MS - 11, SLICE_MS - 10):
        assert asked(purse, pot, running=running) == ReserveResult()
    assert asked(purse, pot, running=SLICE_MS - 9) == ReserveResult(taken=True)
    assert (purse.held, pot.reserved_micros) == ({"b": 2 * SLICE_MS}, 2 * SLICE_MS)


@pytest.mark.parametrize(
    ("mode", "running", "least"), [("stop", 0, 20), ("stop", 5, 25), ("drain", 0, 1007), ("drain", 5, 1012)]
)
def test_a_slice_covers_work_so_far_the_margin_and_as_much_again_or_a_second(
    mode: Mode, running: int, least: int
) -> None:
    for limit, taken in ((least, True), (least - 1, False)):
        pot, purse = BudgetBalance("b", mode, limit), SessionReservation("s", HOUR)
        assert asked(purse, pot, running=running) == ReserveResult(taken, () if taken else ("b",))
        assert purse.held["b"] == pot.reserved_micros == (least if taken else 0)


def test_sessions_that_share_a_budget_take_smaller_slices_of_that_one_alone() -> None:
    pots = [BudgetBalance(name, "stop", 100_000) for name in "ab"]
    purse = SessionReservation("s", HOUR)
    assert asked(purse, *pots, takers={"a": 5}).taken
    assert purse.held == {"a": 10_000, "b": 50_000}
    assert [pot.reserved_micros for pot in pots] == [10_000, 50_000]


def test_only_budgets_about_to_run_out_are_asked_and_every_refusal_is_named() -> None:
    purse = SessionReservation("s", HOUR, held={"full": 10})
    pots = [BudgetBalance(name, "stop", 5) for name in ("full", "empty", "bare")]
    assert asked(purse, *pots) == ReserveResult(refused=("empty", "bare"))
    assert asked(purse, BudgetBalance("warns only", "drain", None)) == ReserveResult()
    assert purse.held == {"full": 10, "empty": 0, "bare": 0, "warns only": 0}


def test_settling_takes_new_cost_out_of_what_is_held_and_counts_the_rest_as_spent() -> None:
    pots = {"a": BudgetBalance("a", "drain", 100, 1, 50), "b": BudgetBalance("b", "drain", 100, 2, 60)}
    purse = SessionReservation("s", HOUR, settled_micros=5, held={"a": 10, "b": 40})
    settle(purse, pots, 30)
    assert (purse.held, purse.settled_micros) == ({"a": 0, "b": 15}, 30)
    assert [(p.spent_micros, p.reserved_micros) for p in pots.values()] == [(26, 40), (27, 35)]
    settle(purse, pots, 30)
    assert [(p.spent_micros, p.reserved_micros) for p in pots.values()] == [(26, 40), (27, 35)]


def test_a_sessions_cap_is_what_the_tightest_stopping_budget_holds() -> None:
    pots = {
        "wide": BudgetBalance("wide", "stop", 100),
        "tight": BudgetBalance("tight", "stop", 100),
        "drains": BudgetBalance("drains", "drain", 100),
        "warns": BudgetBalance("warns", "stop", None),
    }
    held = {"wide": 30, "tight": 20, "drains": 1, "warns": 2}
    assert SessionReservation("s", HOUR, 5, held).cap_micros(pots) == 25
    assert SessionReservation("s", HOUR, 5, {"drains": 1, "warns": 2}).cap_micros(pots) is None
    assert SessionReservation("s", HOUR, 5, {}).cap_micros(pots) is None


@pytest.mark.parametrize(
    ("free", "changed", "least_ms", "goes_on"),
    [
        (3000, True, 3000, True),
        (2999, True, 3000, False),
        (900_000, False, 3000, True),
        (899_999, False, 3000, False),
        (900_001, False, 900_001, True),
        (900_000, False, 900_001, False),
    ],
)
def test_a_held_job_goes_on_from_exactly_the_money_it_needs(
    free: int, changed: bool, least_ms: int, goes_on: bool
) -> None:
    assert may_resume(stopping(free), HOUR, changed=changed, least_ms=least_ms) == goes_on


def test_a_held_job_goes_on_without_a_limit_or_a_price() -> None:
    assert may_resume(stopping(None), HOUR, changed=False, least_ms=3000)
    assert may_resume(stopping(0, spent_micros=5), 0, changed=False, least_ms=3000)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_time_that_a_cap_affords_costs_no_more_than_the_cap(micros: int, price: int) -> None:
    ms = affordable_ms(micros, price)
    assert ms is None if not price else cost_micros(ms or 0, price) <= micros


def test_money_not_spent_comes_back() -> None:
    pot = BudgetBalance("b", "stop", 10_000_000)
    purse = SessionReservation("s", HOUR)
    assert reserve(purse, [pot], running_micros=0, stop_margin_ms=10, drain_margin_ms=1).taken
    assert pot.reserved_micros == purse.held["b"] == SLICE_MS
    release(purse, {"b": pot}, 1234)
    assert (pot.spent_micros, pot.reserved_micros, purse.held) == (1234, 0, {})


def test_where_one_budget_has_nothing_no_other_is_touched() -> None:
    empty, full = (
        BudgetBalance("empty", "drain", 100, spent_micros=100),
        BudgetBalance("full", "drain", 10**9),
    )
    answer = asked(SessionReservation("s", HOUR), full, empty)
    assert (answer, full.reserved_micros) == (ReserveResult(refused=("empty",)), 0)


def test_a_machine_without_a_price_needs_no_money() -> None:
    spent = BudgetBalance("b", "stop", 100, spent_micros=100)
    assert asked(SessionReservation("s", 0), spent) == ReserveResult()


def test_a_held_job_goes_on_at_once_when_its_budget_was_changed_else_for_a_whole_slice() -> None:
    pot = BudgetBalance("b", "drain", 60_000)
    assert may_resume(pot, HOUR, changed=True, least_ms=3000)
    assert not may_resume(pot, HOUR, changed=False, least_ms=3000)
    assert may_resume(BudgetBalance("b", "drain", SLICE_MS), HOUR, changed=False, least_ms=3000)
    assert not may_resume(BudgetBalance("b", "drain", 10, spent_micros=20), HOUR, changed=True, least_ms=3000)


@dataclass
class Machine:
    """A session that renders one frame after the other, and what the farm does with it."""

    purse: SessionReservation
    above: list[BudgetBalance]
    spent: int = 0
    in_work_ms: int = 0
    state: str = "works"
    """works | drains (ends its frame) | stopping (ends within the margin) | over"""
    excess: int = 0

    def price(self, ms: int) -> int:
        return cost_micros(ms, self.purse.price_micros)


@dataclass
class Farm:
    """A farm whose leader checks every 2 s; a test decides how time passes."""

    pots: dict[str, BudgetBalance]
    machines: list[Machine]

    def pass_time(self, machine: Machine, ms: int, ends: bool) -> None:
        """`ends`: its frame is done by then, and with it its attempt."""
        if machine.state == "over":
            return
        machine.in_work_ms += ms
        if ends or machine.state == "stopping":
            self.end_attempt(machine)
            if machine.state in {"drains", "stopping"}:
                release(machine.purse, self.pots, machine.spent)
                machine.state = "over"

    def end_attempt(self, machine: Machine) -> None:
        billed = machine.in_work_ms
        cap = machine.purse.cap_micros(self.pots)
        if cap is not None:
            afford = affordable_ms(cap - machine.spent, machine.purse.price_micros)
            billed = min(billed, billed if afford is None else afford)
        cost = machine.price(billed)
        room = min((machine.purse.held[p.id] for p in machine.above), default=cost)
        room -= machine.spent - machine.purse.settled_micros
        machine.excess += max(0, cost - max(0, room))
        machine.spent += cost
        machine.in_work_ms = 0

    def check_sessions(self) -> None:
        for machine in self.machines:
            if machine.state not in {"works", "drains"}:
                continue
            settle(machine.purse, self.pots, machine.spent)
            above = [p for p in machine.above if p.mode == "stop" or machine.state == "works"]
            refused = reserve(
                machine.purse,
                above,
                running_micros=machine.price(machine.in_work_ms),
                stop_margin_ms=STOP_MARGIN_MS,
                drain_margin_ms=PULSE_MS,
            ).refused
            if refused:
                stop = any(self.pots[name].mode == "stop" for name in refused)
                machine.state = "stopping" if stop else "drains"

    def check_balances(self) -> None:
        for pot in self.pots.values():
            held = [m.purse.held[pot.id] for m in self.machines if pot.id in m.purse.held]
            assert pot.reserved_micros == sum(held) >= 0
            if pot.mode == "stop":
                assert pot.limit_micros is not None
                assert pot.spent_micros + pot.reserved_micros <= pot.limit_micros


@st.composite
def farms(draw: st.DrawFn, modes: tuple[Mode, ...]) -> Farm:
    pots = {
        str(n): BudgetBalance(str(n), draw(st.sampled_from(modes)), draw(st.integers(1, 10**7)))
        for n in range(draw(st.integers(1, 4)))
    }
    machines = []
    for n in range(draw(st.integers(1, 8))):
        above = draw(st.lists(st.sampled_from(sorted(pots)), min_size=1, max_size=3, unique=True))
        machine = Machine(SessionReservation(str(n), draw(st.integers(0, 10**8))), [pots[p] for p in above])
        first = reserve(
            machine.purse, machine.above, running_micros=0,
            stop_margin_ms=STOP_MARGIN_MS, drain_margin_ms=PULSE_MS,
        )  # fmt: skip
        if not first.refused:
            machines.append(machine)
        else:
            assert not any(machine.purse.held.values())
    return Farm(pots, machines)


STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, PULSE_MS), st.booleans()), min_size=8, max_size=8), max_size=60
)


@given(farms(("stop",)), STEPS)
def test_under_a_budget_that_stops_the_limit_is_never_passed(
    farm: Farm, steps: list[list[tuple[int, bool]]]
) -> None:
    for step in steps:
        for machine, (ms, ends) in zip(farm.machines, step, strict=False):
            before = machine.in_work_ms
            farm.pass_time(machine, ms, ends)
            assert machine.excess == 0, before
        farm.check_sessions()
        farm.check_balances()
    end_all(farm)
    for pot in farm.pots.values():
        spent = sum(m.spent for m in farm.machines if pot in m.above)
        assert (pot.spent_micros, pot.reserved_micros) == (spent, 0)
        assert spent <= (pot.limit_micros or 0)


@given(farms(("stop",)), st.lists(st.tuples(st.integers(0, 7), st.integers(0, HOUR)), max_size=10))
def test_a_machine_that_is_cut_off_for_an_hour_is_not_billed_beyond_what_it_holds(
    farm: Farm, silences: list[tuple[int, int]]
) -> None:
    for number, ms in silences:
        if number < len(farm.machines):
            farm.pass_time(farm.machines[number], ms, True)
        farm.check_sessions()
        farm.check_balances()
    end_all(farm)
    for pot in farm.pots.values():
        assert pot.spent_micros <= (pot.limit_micros or 0)


@given(farms(("drain", "stop")), STEPS)
def test_under_a_budget_that_drains_only_frames_in_work_can_be_too_much(
    farm: Farm, steps: list[list[tuple[int, bool]]]
) -> None:
    for step in steps:
        for machine, (ms, ends) in zip(farm.machines, step, strict=False):
            farm.pass_time(machine, ms, ends)
        farm.check_sessions()
        farm.check_balances()
    end_all(farm)
    for pot in farm.pots.values():
        mine = [m for m in farm.machines if pot in m.above]
        assert pot.reserved_micros == 0
        assert pot.spent_micros == sum(m.spent for m in mine)
        assert pot.spent_micros <= (pot.limit_micros or 0) + sum(m.excess for m in mine)


def end_all(farm: Farm) -> None:
    for machine in farm.machines:
        if machine.state != "over":
            farm.end_attempt(machine)
            release(machine.purse, farm.pots, machine.spent)
            machine.state = "over"


def test_a_draining_budget_gives_at_least_a_second() -> None:
    pot = BudgetBalance("b", "drain", PULSE_MS + DRAIN_LEAST_MS)
    assert reserve(
        SessionReservation("s", HOUR), [pot], running_micros=0, stop_margin_ms=9, drain_margin_ms=PULSE_MS
    ).taken
    assert reserve(
        SessionReservation("t", HOUR), [BudgetBalance("c", "drain", PULSE_MS + DRAIN_LEAST_MS - 1)],
        running_micros=0, stop_margin_ms=9, drain_margin_ms=PULSE_MS,
    ).refused  # fmt: skip
