"""Who of those waiting would be in time if nobody else came: the runs to come, one after another, as on a timetable.

The door counts (`admission.py`): so many are due earlier, so much work, so many workers. That is quick, and wrong by a
run or two: whoever is due soonest may need all cores at once, or its slack makes everybody's batch small, or no worker
is left free for it while it is being decoded. Where few wait, a run or two is what a deadline depends on.

List scheduling (Graham 1966), as the planner would: when a worker is free, the earliest deadline that is decoded by
then, by the narrowest run that is in time; with whoever fits into its batch where batches pay. A worker idles for
somebody who is still being decoded and due sooner only where the planner would (`promises.py`).
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from service.core.menu import Menu
from service.core.promises import Promised
from service.core.request import RoutingPolicy

PAYS = 1 + 1e-6
"""What is worth exactly its price pays: under a flood that is the cheapest choice."""

_Kind = tuple[str | None, float | None]
_PLAIN: _Kind = (None, None)


class _Run(NamedTuple):
    threads: int
    starts_ns: int
    latency_ns: int


class Timetable:
    """The runs to come on workers that are free at given times, of requests that are queued or being decoded."""

    def __init__(self, menu: Menu, *, price: float, now_ns: int, overhead_ns: int, free_at_ns: Iterable[int]) -> None:
        """`price`: top-1 points that a core-nanosecond is worth; `free_at_ns`: when each worker is free."""
        cheapest = menu.cheapest
        self._menu = menu
        self._price = price
        self._now_ns = now_ns
        self._overhead_ns = overhead_ns
        self._free_at_ns = sorted([max(now_ns, at_ns) for at_ns in free_at_ns])
        self._batching = cheapest.batch_sizes[-1] > 1
        self._worth = max(0.0, cheapest.accuracy - price * cheapest.core_ns_per_image)
        # What a run may take of the cores: what it earns pays for, and the cheapest always.
        least_ns = min([threads * latency_ns for threads, latency_ns in menu.fastest_by_width])
        pays_ns = max(least_ns, cheapest.accuracy * PAYS / price) if price and not self._batching else math.inf
        workers = len(self._free_at_ns)
        self._widths = [pair for pair in menu.fastest_by_width if pair[0] <= workers]
        paying = [pair for pair in self._widths if pair[0] * pair[1] <= pays_ns]
        self._by_policy: dict[_Kind, Sequence[tuple[int, int]]] = {_PLAIN: paying}

    def all_surely_kept(self, waiting: Sequence[Promised]) -> bool:
        """Whether all are in time even one after another from when the last is decoded: the quick way to know."""
        if self._batching:
            return False
        longest_ns, workers = 0, 1
        for widths in [self._runs_of(policy) for policy in {_kind(one): one.policy for one in waiting}.values()]:
            if not widths:
                return False
            workers, longest_ns = max(workers, widths[0][0]), max(longest_ns, widths[0][1])
        starts_ns = max(self._free_at_ns[workers - 1], *[one.ready_ns for one in waiting])
        return starts_ns + longest_ns * len(waiting) + self._overhead_ns <= min(waiting).deadline_ns

    def kept(self, waiting: Sequence[Promised]) -> set[int]:
        """The ids of those that would be in time."""
        now_ns, free_at_ns, kept = self._now_ns, self._free_at_ns, set[int]()
        queue = sorted([one for one in waiting if one.ready_ns <= now_ns])
        decoding = sorted([one for one in waiting if one.ready_ns > now_ns], key=_ready_ns)
        lone = waiting[0] if len(waiting) == 1 else None
        while queue or decoding:
            if not decoding and not self._batching and lone is None:
                self._keep_in_turn(queue, free_at_ns, kept)
                break
            now_ns = free_at_ns[0] if queue else max(free_at_ns[0], decoding[0].ready_ns)
            decoded = bisect_right(decoding, now_ns, key=_ready_ns)
            for one in decoding[:decoded]:
                insort(queue, one)
            del decoding[:decoded]
            head = queue[0]
            at_once = head is lone and now_ns == max(head.ready_ns, self._now_ns) and _kind(head) == _PLAIN
            run = self._run(head, now_ns, free_at_ns, self._widths if at_once else None)
            if run is None:
                del queue[0]
                continue
            size = 1
            if self._batching:
                run, size = self._batch(run, queue, free_at_ns)
            after_ns = _after(run, free_at_ns)
            if decoding and (soonest := min(decoding)) < head:
                its_run = self._run(soonest, soonest.ready_ns, free_at_ns)
                if (
                    its_run is not None
                    and self._run(soonest, soonest.ready_ns, after_ns) is None
                    and self._is_waited_for(soonest, now_ns, free_at_ns)
                ):
                    decoding.remove(soonest)
                    kept.add(soonest.request_id)
                    free_at_ns = _after(its_run, free_at_ns)
                    continue
            kept.update([one.request_id for one in queue[:size]])
            del queue[:size]
            free_at_ns = after_ns
        return kept

    def _keep_in_turn(self, queue: Sequence[Promised], free_at_ns: Sequence[int], kept: set[int]) -> None:
        """The same where nobody is being decoded and no run is shared: what a full queue comes to."""
        free_ns, overhead_ns, by_policy = list(free_at_ns), self._overhead_ns, self._by_policy
        for deadline_ns, request_id, _, policy in queue:
            latest_ns = deadline_ns - overhead_ns
            for threads, latency_ns in by_policy.get((policy.variant, policy.min_accuracy)) or self._runs_of(policy):
                ends_ns = free_ns[threads - 1] + latency_ns
                if ends_ns <= latest_ns:
                    del free_ns[:threads]
                    for _ in range(threads):
                        insort(free_ns, ends_ns)
                    kept.add(request_id)
                    break

    def _runs_of(self, policy: RoutingPolicy) -> Sequence[tuple[int, int]]:
        """The runs to choose from, narrowest first, as (workers, nanoseconds); none if it allows none here."""
        key = (policy.variant, policy.min_accuracy)
        found = self._by_policy.get(key)
        if found is None:
            workers = len(self._free_at_ns)
            found = [pair for pair in self._menu.fastest_by_width_for(policy) if pair[0] <= workers]
            self._by_policy[key] = found
        return found

    def _is_waited_for(self, promised: Promised, now_ns: int, free_at_ns: Sequence[int]) -> bool:
        idle = bisect_right(free_at_ns, now_ns)
        return self._worth > self._price * (promised.ready_ns - now_ns) * idle

    def _run(
        self, one: Promised, now_ns: int, free_at_ns: Sequence[int], widths: Sequence[tuple[int, int]] | None = None
    ) -> _Run | None:
        """The narrowest of `widths` by which this one is in time; of those that pay, if they are not given."""
        if widths is None:
            widths = self._runs_of(one.policy)
        latest_ns = one.deadline_ns - self._overhead_ns
        for threads, latency_ns in widths:
            starts_ns = max(now_ns, free_at_ns[threads - 1])
            if starts_ns + latency_ns <= latest_ns:
                return _Run(threads, starts_ns, latency_ns)
        return None

    def _batch(self, run: _Run, queue: Sequence[Promised], free_at_ns: Sequence[int]) -> tuple[_Run, int]:
        """That run with as many of the queue as its head's slack allows; other free workers take their part."""
        choice = self._menu.cheapest_at(run.threads)
        slack_ns = queue[0].deadline_ns - self._overhead_ns - run.starts_ns
        sharing = max(1, bisect_right(free_at_ns, run.starts_ns) // run.threads)
        size = min(choice.batch_sizes[-1], choice.batch_size_max(slack_ns), -(-len(queue) // sharing))
        return (run._replace(latency_ns=choice.latency_ns(size)), size) if size > 1 else (run, 1)


def _kind(one: Promised) -> _Kind:
    policy = one.policy
    return policy.variant, policy.min_accuracy


def _ready_ns(one: Promised) -> int:
    return one.ready_ns


def _after(run: _Run, free_at_ns: Sequence[int]) -> list[int]:
    """When workers are free, rising, if the first ones take this run."""
    ends_ns = run.starts_ns + run.latency_ns
    return sorted([*free_at_ns[run.threads :], *[ends_ns] * run.threads])
