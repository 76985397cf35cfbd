"""Requests waiting for a worker: earliest deadline first, bounded. Decides nothing about variants.

Kept as one sorted list: at the bound of a few thousand entries an insertion is one short memmove, and the
planner gets what a heap cannot give, the queue in order and by position.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence

from service.core.request import QueuedRequest

PRIORITY_GRAIN_NS = 5_000_000
"""Deadlines within one grain count as equal slack, so that a priority can decide between them."""

_Key = tuple[int, int, int, int]


def _key(request: QueuedRequest) -> _Key:
    grain = request.deadline_ns // PRIORITY_GRAIN_NS
    return (grain, -request.policy.priority, request.deadline_ns, request.request_id)


class DeadlineQueue:
    """An earliest-deadline-first queue of at most `size_max` requests."""

    def __init__(self, size_max: int) -> None:
        """`size_max`: the bound, in requests; a push beyond it is a programmer's error."""
        self.size_max = size_max
        self._keys: list[_Key] = []
        self._requests: list[QueuedRequest] = []
        self._due_ns = array("q")
        self._key_by_id: dict[int, _Key] = {}
        self._special = 0
        self.is_plain = True
        """Whether every request may take any choice, wants no target and has no priority: then order is by deadline."""

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[QueuedRequest]:
        return iter(self._requests)

    def __getitem__(self, position: int) -> QueuedRequest:
        return self._requests[position]

    def between(self, first: int, end: int) -> list[QueuedRequest]:
        """Those at position `first` and after, before `end`."""
        return self._requests[first:end]

    def due_at(self, positions: Sequence[int]) -> list[int]:
        """The deadlines of those at these `positions`, rising, as far as there are so many."""
        due_ns = self._due_ns
        return [due_ns[position] for position in positions[: bisect.bisect_left(positions, len(due_ns))]]

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._key_by_id

    def __repr__(self) -> str:
        return f"<DeadlineQueue {len(self)}/{self.size_max}>"

    @property
    def is_full(self) -> bool:
        """Whether one more push would break the bound."""
        return len(self._requests) >= self.size_max

    def push(self, request: QueuedRequest) -> None:
        """Enqueue `request`; its id must not be queued already and the queue must not be full."""
        assert not self.is_full, f"push to a full queue of {self.size_max}"
        assert request.request_id not in self._key_by_id, f"request {request.request_id} is queued twice"
        key = _key(request)
        position = bisect.bisect_left(self._keys, key)
        self._keys.insert(position, key)
        self._requests.insert(position, request)
        self._due_ns.insert(position, request.deadline_ns)
        self._key_by_id[request.request_id] = key
        self._special += not request.policy.is_plain
        self.is_plain = not self._special

    def remove(self, request_id: int) -> QueuedRequest | None:
        """Take the request out, wherever it stands; None if it is not here."""
        key = self._key_by_id.pop(request_id, None)
        if key is None:
            return None
        position = bisect.bisect_left(self._keys, key)
        del self._keys[position], self._due_ns[position]
        request = self._requests.pop(position)
        self._special -= not request.policy.is_plain
        self.is_plain = not self._special
        return request

    def count_due_by(self, deadline_ns: int) -> int:
        """How many queued requests come before a newcomer of priority 0 that is due at `deadline_ns`."""
        if self.is_plain:
            return bisect.bisect_right(self._due_ns, deadline_ns)
        return bisect.bisect_left(self._keys, (deadline_ns // PRIORITY_GRAIN_NS, 0, deadline_ns + 1, 0))
