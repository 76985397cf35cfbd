"""The queue against a plain sorted list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.deadline_queue import PRIORITY_GRAIN_NS, DeadlineQueue
from service.core.request import QueuedRequest, RoutingPolicy


def request(request_id: int, deadline_ns: int, priority: int = 0) -> QueuedRequest:
    return QueuedRequest(request_id, 0, deadline_ns, RoutingPolicy(priority=priority))


@given(st.lists(st.integers(0, 10**9), max_size=60), st.data())
def test_iterates_in_deadline_order_whatever_is_removed(deadlines: list[int], data: st.DataObject) -> None:
    """The queue holds exactly what was pushed and not removed, earliest deadline first."""
    queue = DeadlineQueue(size_max=60)
    for request_id, deadline_ns in enumerate(deadlines):
        queue.push(request(request_id, deadline_ns))
    removed = data.draw(st.sets(st.sampled_from(range(len(deadlines))))) if deadlines else set()
    for request_id in removed:
        found = queue.remove(request_id)
        assert found is not None
        assert found.request_id == request_id
    expected = sorted((d, i) for i, d in enumerate(deadlines) if i not in removed)
    assert [(r.deadline_ns, r.request_id) for r in queue] == expected
    assert len(queue) == len(expected)
    assert all((i in queue) == (i not in removed) for i in range(len(deadlines)))


def test_removing_what_is_not_there_is_no_error() -> None:
    """Removing an unknown id answers None, so that a settled request can be cancelled twice."""
    assert DeadlineQueue(size_max=1).remove(7) is None


def test_push_beyond_the_bound_is_a_programmers_error() -> None:
    """The queue never grows beyond its bound: the scheduler must have asked `is_full`."""
    queue = DeadlineQueue(size_max=1)
    queue.push(request(1, 10))
    assert queue.is_full
    with pytest.raises(AssertionError, match="full queue of 1"):
        queue.push(request(2, 10))


def test_priority_decides_within_equal_slack_only() -> None:
    """Within one grain of deadlines the higher priority comes first; an earlier grain always comes first."""
    queue = DeadlineQueue(size_max=4)
    queue.push(request(1, 10))
    queue.push(request(2, 20, priority=9))
    queue.push(request(3, PRIORITY_GRAIN_NS + 5, priority=9))
    assert [r.request_id for r in queue] == [2, 1, 3]


@given(deadlines=st.lists(st.integers(0, 10**8), max_size=40), deadline_ns=st.integers(0, 10**8), pinned=st.booleans())
def test_counts_those_due_by(deadlines: list[int], deadline_ns: int, *, pinned: bool) -> None:
    """`count_due_by` is the position a newcomer with that deadline would take: after those due at the same time."""
    queue = DeadlineQueue(size_max=40)
    for request_id, due_ns in enumerate(deadlines, start=1):
        queue.push(QueuedRequest(request_id, 0, due_ns, RoutingPolicy(variant="lite0" if pinned else None)))
    assert queue.is_plain == (not pinned or not deadlines)
    assert queue.count_due_by(deadline_ns) == sum(due_ns <= deadline_ns for due_ns in deadlines)


@given(st.lists(st.integers(0, 10**8), max_size=40), st.sets(st.integers(0, 50), max_size=8), st.integers(0, 40))
def test_tells_when_those_at_places_are_due(deadlines: list[int], places: set[int], removed: int) -> None:
    """Deadlines by place are those of the requests there, whoever has left since."""
    queue = DeadlineQueue(size_max=40)
    for request_id, due_ns in enumerate(deadlines):
        queue.push(request(request_id, due_ns, priority=due_ns % 3))
    queue.remove(removed)
    assert queue.due_at(sorted(places)) == [queue[at].deadline_ns for at in sorted(places) if at < len(queue)]


def test_repr_tells_how_full_it_is() -> None:
    """The repr shows length and bound, for assertion messages."""
    assert repr(DeadlineQueue(size_max=3)) == "<DeadlineQueue 0/3>"
