"""Losses to waiting: none without load, all without capacity, and most where a run cannot be interrupted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.queueing_loss import Run, lost_share, poisson_tail
from tests.fakes.menus import MS


def loss(runs: list[Run], utilisation: float, *, workers: int = 2, width: int = 1) -> float:
    core_ns = sum(run.share * run.run_ns * run.threads for run in runs)
    return lost_share(runs, workers=workers, width=width, utilisation=utilisation, core_ns=core_ns)


def run(budget_ms: float, run_ms: float = 10, *, share: float = 1.0, threads: int = 1) -> Run:
    return Run(share, round(run_ms * MS), threads, round(budget_ms * MS))


def test_nothing_is_lost_where_budgets_outlast_every_run() -> None:
    """With budgets of twenty runs and half the cores busy, waits cost next to nothing."""
    assert loss([run(200)], 0.5) < 0.001


def test_a_budget_without_slack_is_lost_as_often_as_all_servers_are_busy() -> None:
    """Who cannot wait at all loses whenever no server is free: half the time where one server is half busy."""
    assert loss([run(10)], 0.5, workers=1) == pytest.approx(0.5)
    assert loss([run(10)], 0.5, workers=4) < loss([run(10)], 0.5, workers=1)


def test_a_long_run_costs_short_budgets_that_meet_it() -> None:
    """With a fifth of requests on runs ten times as long, short budgets are lost more often at the same utilisation."""
    short = [run(15, share=1.0)]
    mixed = [run(15, share=0.8), run(500, 100, share=0.2)]
    assert loss(mixed, 0.5) / 0.8 > 2 * loss(short, 0.5)


def test_whoever_needs_all_cores_waits_for_all_of_them() -> None:
    """A run on two cores among runs on one is lost more often than its neighbours."""
    wide = loss([run(12, 10, share=0.5), run(8, 6, share=0.5, threads=2)], 0.5)
    assert wide > loss([run(12, 10, share=0.5), run(12, 10, share=0.5)], 0.5)


def test_beyond_capacity_the_loss_is_more_than_all() -> None:
    """Where more is asked than can be done, the loss exceeds one, and the more so the more is asked."""
    assert 1.0 <= loss([run(200)], 1.0) < loss([run(200)], 2.0)


@given(mean=st.floats(0, 20), at_least=st.integers(0, 30))
def test_the_poisson_tail_is_the_sum_of_its_terms(mean: float, at_least: int) -> None:
    """It agrees with the distribution summed from the other end."""
    terms = (math.exp(-mean) * mean**k / math.factorial(k) for k in range(at_least, at_least + 120))
    assert poisson_tail(mean, at_least) == pytest.approx(sum(terms), abs=1e-9)
