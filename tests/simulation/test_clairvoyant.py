"""The clairvoyant schedule: a real one, no worse than what it started from, no better than the bound."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.menu import Menu
from service.core.request import Plan
from tests.fakes.menus import MS, choice, cpu_menu, gpu_menu
from tests.simulation.arrivals import arrivals
from tests.simulation.brute_force import best_effective_accuracy
from tests.simulation.clairvoyant import Clairvoyant
from tests.simulation.simulator import Arrival
from tests.simulation.upper_bound import upper_bound

MENUS = {"cpu": cpu_menu, "gpu": gpu_menu}


def wide_menu() -> Menu:
    return Menu(
        [*cpu_menu().choices, choice("small", 75.0, {1: 6}, threads=2), choice("large", 80, {1: 30}, threads=2)]
    )


def assert_is_a_schedule(search: Clairvoyant, menu: Menu, workers: int, found: list[Arrival]) -> None:
    """Every run is whole, in time for all its members, long enough, and alone on its workers."""
    answered: list[int] = []
    busy: dict[int, list[tuple[int, int]]] = {worker: [] for worker in range(workers)}
    for run in search.timetable.runs():
        assert run.choice in menu.choices
        assert len(run.workers) == len(set(run.workers)) == run.choice.threads
        assert run.end_ns - run.start_ns == run.choice.latency_ns(len(run.members))
        for member in run.members:
            assert found[member].at_ns <= run.start_ns
            assert run.end_ns <= found[member].at_ns + found[member].budget_ns
        for worker in run.workers:
            busy[worker].append((run.start_ns, run.end_ns))
        answered.extend(run.members)
    assert sorted(answered) == sorted(search.served)
    assert len(answered) == len(set(answered))
    for runs in busy.values():
        runs.sort()
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(runs))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate_per_s=st.sampled_from([20, 100, 400]),
    menu=st.sampled_from([cpu_menu, gpu_menu, wide_menu]),
    workers=st.integers(2, 4),
)
def test_it_is_a_schedule_below_the_bound(seed: int, rate_per_s: float, menu: object, workers: int) -> None:
    """Whatever the search did, runs overlap nowhere and keep their deadlines, and the bound is not passed."""
    built = menu()
    found = arrivals(seed, rate_per_s=rate_per_s, duration_s=0.5, cv2=4)
    if not found:
        return
    search = Clairvoyant(built, workers, found, seed)
    reached = search.solve(rounds=3)
    assert_is_a_schedule(search, built, workers, found)
    assert reached == pytest.approx(sum(c.accuracy for c in search.served.values()) / len(found))
    assert reached <= upper_bound(built, workers, found) + 1e-6


@settings(max_examples=30, deadline=None)
@given(
    found=st.lists(
        st.builds(Arrival, at_ns=st.integers(0, 60).map(MS.__mul__), budget_ns=st.integers(8, 120).map(MS.__mul__)),
        min_size=1,
        max_size=4,
    )
)
def test_it_never_beats_the_best_schedule(found: list[Arrival]) -> None:
    """On a few requests the best of all schedules is known, and the search stays at or below it."""
    menu = cpu_menu()
    reached = Clairvoyant(menu, 2, found).solve(rounds=10)
    assert reached <= best_effective_accuracy(menu, 2, found) + 1e-6


def test_it_finds_the_best_schedule_where_the_order_matters() -> None:
    """It waits with an idle worker for a short request to come, which no policy that sees only the present does."""
    menu = Menu([choice("only", 80, {1: 10})])
    found = [Arrival(0, 40 * MS), Arrival(5 * MS, 11 * MS)]
    assert Clairvoyant(menu, 1, found).solve(rounds=20) == pytest.approx(80)


@pytest.mark.parametrize("kind", MENUS)
def test_it_keeps_what_it_adopts(kind: str) -> None:
    """Starting from a schedule, the result is no worse than that schedule and keeps to its arrivals."""
    menu = MENUS[kind]()
    found = [Arrival(index * 8 * MS, 60 * MS) for index in range(20)]
    plans = [(a.at_ns, Plan("large", 1, (index + 1,), 50 * MS)) for index, a in enumerate(found) if index % 7 == 0]
    plans = [(at_ns, Plan(p.variant, 1, p.request_ids, menu.choices[0].latency_ns(1))) for at_ns, p in plans]
    search = Clairvoyant(menu, 2, found)
    search.adopt(plans)
    adopted = search.effective_accuracy()
    assert adopted == pytest.approx(len(plans) * 80 / len(found))
    assert_is_a_schedule(search, menu, 2, found)
    assert search.solve(rounds=5) >= adopted
    assert_is_a_schedule(search, menu, 2, found)
