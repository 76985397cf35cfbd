"""Arrivals that a run is expected to cost: more the longer workers are busy and the more is queued."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.core.outlook import Outlook
from tests.fakes.menus import MS

BUDGETS = [budget_ms * MS for budget_ms in (12, 15, 20, 30, 50, 80, 120, 200, 350, 500)]


def outlook(free_after_ms: list[int], arrivals_per_s: float = 80.0) -> Outlook:
    return Outlook(
        free_after_ns=sorted(at_ms * MS for at_ms in free_after_ms),
        width=1,
        widths=((1, 10 * MS),),
        run_ns=10 * MS,
        run_ns_per_image=10 * MS,
        arrivals_per_ns=arrivals_per_s / 1e9,
        accuracy=75.0,
    )


def test_an_idle_machine_costs_nobody() -> None:
    """All servers free and nothing queued: nobody waits."""
    assert outlook([0, 0]).missed(0.0, BUDGETS) == 0.0


def test_a_backlog_costs_more_than_none() -> None:
    """What is queued is served before who comes later."""
    none, some, much = (outlook([10]).missed(backlog_ms * MS, BUDGETS) for backlog_ms in (0, 50, 400))
    assert none < some < much


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=4),
    st.integers(0, 2000),
    st.floats(1, 500),
    st.floats(0, 20),
)
def test_a_loss_is_exact_as_far_as_it_matters(
    free_after_ms: list[int], backlog_ms: int, arrivals_per_s: float, enough: float
) -> None:
    """Up to `enough` the loss is the one without that limit; above it both are above it."""
    ahead = outlook(free_after_ms, arrivals_per_s)
    exact, limited = (ahead.missed(backlog_ms * MS, BUDGETS, limit) for limit in (float("inf"), enough))
    assert limited == exact if exact <= enough * 0.999 else limited >= enough * 0.999
    assert limited <= exact
