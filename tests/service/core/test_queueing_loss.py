"""Losses to waiting: none without load, all without capacity, and most where a run cannot be interrupted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.queueing_loss import least_lost, lost_share, poisson_tail
from service.core.run_mix import Mix, Service, Unusual
from tests.fakes.menus import MS


def service(*requests: tuple[float, float], unusual: tuple[tuple[float, float], ...] = ()) -> Service:
    """Each of `requests` with a budget and a run of so many milliseconds; `unusual` ones by runs on two cores."""
    lengths = [round(run_ms * MS) for _, run_ms in (*requests, *unusual)]
    return Service(
        {run_ns: lengths.count(run_ns) for run_ns in lengths},
        sorted(round(budget_ms * MS) for budget_ms, _ in requests),
        fastest_ns=min(round(run_ms * MS) for _, run_ms in requests),
        unusual=[Unusual(round(budget_ms * MS), round(run_ms * MS), 2) for budget_ms, run_ms in unusual],
    )


def lost(
    served: Service,
    utilisation: float,
    *,
    workers: int = 2,
    requests: int = 0,
    mix: Mix | None = None,
    blocking: bool = True,
) -> float:
    """Of so many `requests`, of all who are served by default."""
    count = requests or len(served.budgets_ns)
    core_ns = (served.busy_ns + sum(who.run_ns for who in served.unusual)) / count
    return lost_share(
        mix or Mix(served, served, 1.0),
        requests=count,
        workers=workers,
        width=1,
        utilisation=utilisation,
        core_ns=core_ns,
        blocking=blocking,
    )


def test_nothing_is_lost_where_budgets_outlast_every_run() -> None:
    """With budgets of twenty runs and half the cores busy, waits cost next to nothing."""
    assert lost(service((200, 10)), 0.5) < 0.001


def test_a_budget_without_slack_is_lost_as_often_as_all_servers_are_busy() -> None:
    """Who cannot wait at all loses whenever no server is free: half the time where one server is half busy."""
    hasty = service((10, 10))
    assert lost(hasty, 0.5, workers=1) == pytest.approx(0.5)
    assert lost(hasty, 0.5, workers=4) < lost(hasty, 0.5, workers=1)


def test_without_blocking_only_the_queue_loses_anybody() -> None:
    """There a budget without slack costs next to nothing, until the server is nearly always busy."""
    hasty = service((10, 10))
    assert lost(hasty, 0.5, workers=1, blocking=False) < 0.01
    assert lost(hasty, 0.99, workers=1, blocking=False) > 0.6


def test_a_long_run_costs_short_budgets_that_meet_it() -> None:
    """With a fifth of requests on runs ten times as long, short budgets are lost more often at the same utilisation."""
    short, mixed = service((15, 10)), service(*[(15, 10)] * 4, (500, 100))
    assert lost(mixed, 0.5) / 0.8 > 2 * lost(short, 0.5)


def test_whoever_needs_all_cores_waits_for_all_of_them() -> None:
    """A run on two cores among runs on one is lost more often than its neighbours."""
    wide = lost(service((12, 10), unusual=((8, 6),)), 0.5)
    assert wide > lost(service((12, 10), (12, 10)), 0.5)


def test_who_is_not_served_is_not_lost_to_waiting() -> None:
    """Of twice as many requests, half of them never served, half the share is lost by waiting."""
    hasty = service((10, 10), (30, 10))
    assert lost(hasty, 0.5, requests=4) == pytest.approx(lost(hasty, 0.5) / 2)


def test_a_mix_of_two_alike_is_either_of_them() -> None:
    """In whatever shares: nothing depends on how the same way to serve is told apart."""
    served = service((15, 10), (40, 10), (500, 60), unusual=((8, 6),))
    again = service((15, 10), (40, 10), (500, 60), unusual=((8, 6),))
    for share in (0.75, 0.5, 0.25):
        assert lost(served, 0.6, mix=Mix(served, again, share)) == pytest.approx(lost(served, 0.6))


def test_beyond_capacity_the_loss_is_more_than_all() -> None:
    """Where more is asked than can be done, the loss exceeds one, and the more so the more is asked."""
    patient = service((200, 10))
    assert 1.0 <= lost(patient, 1.0) < lost(patient, 2.0)


@given(
    requests=st.lists(st.tuples(st.floats(5, 100), st.floats(5, 100)), min_size=1, max_size=8),
    utilisation=st.floats(0.01, 0.99),
    workers=st.integers(1, 4),
)
def test_no_fewer_are_lost_than_at_least(requests: list[tuple[float, float]], utilisation: float, workers: int) -> None:
    """By the sum of all chances to be outlasted alone, before anybody's own is looked at."""
    served = service(*[(max(budget_ms, run_ms), run_ms) for budget_ms, run_ms in requests])
    count = len(requests)
    least = least_lost(sum(Mix(served, served, 1.0).rests()), count, servers=workers, utilisation=utilisation)
    assert least / count <= lost(served, utilisation, workers=workers) * (1 + 1e-9)


@given(mean=st.floats(0, 20), at_least=st.integers(0, 30))
def test_the_poisson_tail_is_the_sum_of_its_terms(mean: float, at_least: int) -> None:
    """It agrees with the distribution summed from the other end."""
    terms = (math.exp(-mean) * mean**k / math.factorial(k) for k in range(at_least, at_least + 120))
    assert poisson_tail(mean, at_least) == pytest.approx(sum(terms), abs=1e-9)
