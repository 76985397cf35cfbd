"""Requests that were admitted and are still being decoded: what a run that starts now would cost those due before it.

The door promised each of them a run as soon as it is decoded. It is not in the queue yet, so a patient request that is
would get all cores meanwhile, and an urgent one would find them taken. By the earliest deadline first it is the patient
one that should wait: until then a run is taken only if the promises due before it can still be kept.

List scheduling of few requests: each takes the narrowest run that is in time, from when it should be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from service.core.menu import Menu
from service.core.request import RoutingPolicy

_LOOKED_AT_MAX = 8
"""More at once are looked at no closer: then the queue decides, in which they soon are."""


class Promised(NamedTuple):
    """A request between the door and the queue, in the order of deadlines. `ready_ns`: when it should be decoded."""

    deadline_ns: int
    request_id: int
    ready_ns: int
    policy: RoutingPolicy


class Promises:
    """Those due before the head of the queue, and which of them workers can still serve in time."""

    def __init__(
        self,
        promised: Sequence[Promised],
        menu: Menu,
        *,
        price: float,
        now_ns: int,
        overhead_ns: int,
        free_at_ns: Sequence[int],
    ) -> None:
        """`promised` in the order of deadlines; `free_at_ns`: when each worker is free, rising.

        `price`: top-1 points that a core-nanosecond is worth. A promise is worth what it earns beyond that: who is
        lost leaves the core time to others. In a flood it is nothing, where it only matters how many are served.
        """
        cheapest = menu.cheapest
        self._worth = max(0.0, cheapest.accuracy - price * cheapest.core_ns_per_image)
        self._promised = promised[:_LOOKED_AT_MAX]
        self._menu = menu
        self._now_ns = now_ns
        self._overhead_ns = overhead_ns
        self._free_at_ns = free_at_ns

    def broken(self, ends_ns: int, threads: int) -> float:
        """Top-1 points lost if the first `threads` workers are busy until `ends_ns`, and would not be otherwise."""
        if not self._worth or not self._kept:
            return 0.0
        free_at_ns = sorted([*self._free_at_ns[threads:], *[ends_ns] * threads])
        kept = self._keep(free_at_ns, [promise for promise, _ in self._kept])
        return (len(self._kept) - len(kept)) * self._worth

    @property
    def ready_ns(self) -> int:
        """When the first of those that can be kept should be decoded; now, if there is none."""
        return max(self._now_ns, min((promise.ready_ns for promise, _ in self._kept), default=self._now_ns))

    @property
    def kept_by_ns(self) -> int:
        """When the last of those that can be kept is done, if nothing else is begun; now, if there is none."""
        return max((done_ns for _, done_ns in self._kept), default=self._now_ns)

    @cached_property
    def _kept(self) -> list[tuple[Promised, int]]:
        return self._keep(list(self._free_at_ns), self._promised)

    def _keep(self, free_at_ns: list[int], promised: Sequence[Promised]) -> list[tuple[Promised, int]]:
        """Those that can be kept with workers free at these times, rising, and when each is done."""
        kept = []
        for promise in promised:
            latest_ns = promise.deadline_ns - self._overhead_ns
            for threads, latency_ns in self._menu.fastest_by_width_for(promise.policy):
                if threads > len(free_at_ns):
                    break
                done_ns = max(promise.ready_ns, free_at_ns[threads - 1]) + latency_ns
                if done_ns <= latest_ns:
                    free_at_ns = sorted([*free_at_ns[threads:], *[done_ns] * threads])
                    kept.append((promise, done_ns))
                    break
        return kept
