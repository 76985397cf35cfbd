"""What of a queue is lost if a run starts now, by the deadlines of those that wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.deadline_queue import DeadlineQueue
from service.core.request import QueuedRequest
from service.core.shortfall import Shortfall
from tests.fakes.menus import MS, cpu_menu

RUN_NS = 10 * MS
"""The cheapest run of the menu."""


def shortfall(deadlines_ms: list[float], idle: int = 1, free_at_ms: tuple[float, ...] = ()) -> Shortfall:
    queue = DeadlineQueue(2000)
    for number, deadline_ms in enumerate(deadlines_ms):
        queue.push(QueuedRequest(number, 0, round(deadline_ms * MS)))
    free_at_ns = tuple(round(at_ms * MS) for at_ms in free_at_ms)
    return Shortfall(queue, cpu_menu().cheapest, now_ns=0, overhead_ns=0, idle=idle, free_at_ns=free_at_ns)


def test_nothing_is_lost_while_all_can_be_served_in_turn() -> None:
    """Three requests of ten milliseconds each, due in time for one worker, behind one that takes ten."""
    assert shortfall([10, 20, 30]).after(RUN_NS, 1, 1) == 0.0


def test_a_long_run_costs_what_is_due_meanwhile() -> None:
    """With the only worker busy for twenty milliseconds longer than it could be, two requests are lost."""
    assert shortfall([10, 20, 30]).after(3 * RUN_NS, 1, 1) == pytest.approx(2 * 75.0)


def test_other_workers_serve_meanwhile() -> None:
    """A second idle worker takes what the first cannot."""
    assert shortfall([10, 40, 40], idle=2).after(3 * RUN_NS, 1, 1) == 0.0


def test_busy_workers_count_from_when_they_are_free() -> None:
    """A worker that is free later gives less."""
    early, late = (shortfall([10, 25, 25], free_at_ms=(free,)).after(3 * RUN_NS, 1, 1) for free in (5, 25))
    assert 0.0 < early < late


@given(
    st.lists(st.floats(10, 500), min_size=1, max_size=200),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(1, 5),
)
def test_loss_grows_with_the_end_of_a_run_and_falls_with_what_it_takes(
    deadlines_ms: list[float], first_ms: int, second_ms: int, taken: int
) -> None:
    """What the planner's rule of dominance rests on: a later end never costs less, more requests taken never more."""
    losses = shortfall(deadlines_ms, idle=2)
    early, late = sorted((first_ms * MS, second_ms * MS))
    assert 0.0 <= losses.after(early, 1, taken) <= losses.after(late, 1, taken)
    assert losses.after(late, 1, taken + 1) <= losses.after(late, 1, taken)
