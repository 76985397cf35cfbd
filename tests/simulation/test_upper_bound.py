"""The upper bound: never below the best schedule there is, and equal to it where that is easy to see."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.menu import Menu
from tests.fakes.menus import MS, choice
from tests.simulation.brute_force import best_effective_accuracy
from tests.simulation.simulator import Arrival
from tests.simulation.upper_bound import upper_bound

ROUNDING = 1e-6

arrivals = st.lists(
    st.builds(Arrival, at_ns=st.integers(0, 30).map(lambda ms: ms * MS), budget_ns=st.integers(3, 60).map(MS.__mul__)),
    min_size=1,
    max_size=4,
)


def batching_menu() -> Menu:
    """Two variants, batches that save time, and a wide way of the faster one."""
    return Menu(
        [
            choice("small", 75, {1: 6, 2: 8}),
            choice("small", 75, {1: 4, 2: 5.5}, threads=2),
            choice("large", 80, {1: 20, 2: 28}),
        ]
    )


def one_variant(latency_ms: float = 10) -> Menu:
    return Menu([choice("only", 80, {1: latency_ms})])


def at(at_ms: float, budget_ms: float) -> Arrival:
    return Arrival(round(at_ms * MS), round(budget_ms * MS))


@settings(max_examples=60, deadline=None)
@given(found=arrivals, workers=st.integers(1, 3))
def test_no_schedule_beats_the_bound(found: list[Arrival], workers: int) -> None:
    """The best of all schedules of a few requests, found by trying every one, is not above the bound."""
    menu = batching_menu()
    assert best_effective_accuracy(menu, workers, found) <= upper_bound(menu, workers, found) + ROUNDING


@settings(max_examples=60, deadline=None)
@given(found=arrivals)
def test_no_schedule_of_single_runs_beats_the_bound(found: list[Arrival]) -> None:
    """The same on one worker without batches, where the condition against cut runs is at its sharpest."""
    menu = Menu([choice("small", 75, {1: 6}), choice("large", 80, {1: 25})])
    assert best_effective_accuracy(menu, 1, found) <= upper_bound(menu, 1, found) + ROUNDING


@pytest.mark.parametrize(("budget_ms", "expected"), [(3.9, 0), (4, 75), (6, 75), (19.9, 75), (20, 80)])
def test_a_lone_request_gets_the_best_that_fits(budget_ms: float, expected: float) -> None:
    """With nobody else around, the bound is the most accurate variant whose fastest way fits the budget."""
    assert upper_bound(batching_menu(), 2, [at(5, budget_ms)]) == pytest.approx(expected)


def test_requests_far_apart_all_get_the_best() -> None:
    """Requests that never meet do not compete: the bound is the best variant for all."""
    found = [at(1000 * index, 30) for index in range(5)]
    assert upper_bound(batching_menu(), 1, found) == pytest.approx(80)


def test_capacity_is_shared() -> None:
    """Ten requests that are due when two runs can be over earn two runs' worth, and four on two workers."""
    found = [at(0, 20)] * 10
    assert upper_bound(one_variant(), 1, found) == pytest.approx(80 * 2 / 10)
    assert upper_bound(one_variant(), 2, found) == pytest.approx(80 * 4 / 10)


def test_a_batch_must_fit_the_budget() -> None:
    """Only a run within the budget counts: a tight request cannot be charged a share of a large, late batch."""
    menu = Menu([choice("only", 80, {1: 10, 8: 20})])
    assert upper_bound(menu, 1, [at(0, 20)] * 8) == pytest.approx(80)
    assert upper_bound(menu, 1, [at(0, 10)] * 8) == pytest.approx(10)


def test_a_long_run_is_not_cut_around_a_short_one() -> None:
    """A run that must cover the middle of its window leaves no room there, although time enough is left at its ends."""
    menu = Menu([choice("short", 10, {1: 10}), choice("long", 80, {1: 60})])
    found = [at(0, 100), at(45, 10)]
    assert best_effective_accuracy(menu, 1, found) == pytest.approx(80 / 2)
    assert upper_bound(menu, 1, found) == pytest.approx(80 / 2)
    assert upper_bound(menu, 2, found) == pytest.approx((80 + 10) / 2)


@pytest.mark.parametrize("window", [(0, 68), (-2, 58)])
def test_runs_that_just_fit_side_by_side_are_both_allowed(window: tuple[float, float]) -> None:
    """A long run that can end exactly where a short one starts, or start exactly where it ends, costs it nothing."""
    menu = Menu([choice("short", 75, {1: 10}), choice("long", 80, {1: 30})])
    found = [at(100 + window[0], window[1] - window[0]), at(128, 10)]
    assert best_effective_accuracy(menu, 1, found) == pytest.approx((80 + 75) / 2)
    assert upper_bound(menu, 1, found) == pytest.approx((80 + 75) / 2)


@settings(max_examples=30, deadline=None)
@given(found=arrivals)
def test_more_workers_and_finer_slots_go_the_right_way(found: list[Arrival]) -> None:
    """Another worker never lowers the bound; finer slots never raise it."""
    menu = batching_menu()
    assert upper_bound(menu, 1, found) <= upper_bound(menu, 2, found) + ROUNDING
    assert upper_bound(menu, 1, found, slot_ns=5 * MS) <= upper_bound(menu, 1, found, slot_ns=20 * MS) + ROUNDING


def test_no_arrivals_earn_nothing() -> None:
    """Without arrivals, and with hopeless ones only, the bound is zero rather than an error."""
    assert upper_bound(one_variant(), 1, []) == 0
    assert upper_bound(one_variant(), 1, [at(0, 5)]) == 0
