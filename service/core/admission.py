"""The door: refuse at once what cannot be served in time, and what would break promises already made.

A request that was admitted should make its deadline. So one more is taken only if, with everybody served by the
cheapest choice and the earliest deadline first, it makes its own and everybody who is due after it still makes theirs.
Only by runs that the planner would start for it: at a high price of core time none that is wider, or a smaller batch,
than what it earns pays for. Requests that are being decoded count as well as those queued.

List scheduling (Graham 1966): on W workers that are free at given times, a run with work W' before it starts no later
than (sum of free times + W') / W.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.core.deadline_queue import DeadlineQueue
from service.core.menu import Choice, Menu
from service.core.promises import Promised
from service.core.request import RoutingPolicy

NS_PER_MS = 1_000_000
_NEAR = 48
_LOOKAHEAD_RATIO = 1.1
_COST_WEIGHT = 1 / 32
_PAYS = 1 + 1e-6  # what is worth exactly its price pays: under a flood that is the cheapest choice


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why a request is refused.

    `needed_ns`: the nanoseconds, from being decoded, that would have been enough. `retry_after_ns`: set where the
    request could make its deadline, but only at the cost of others: the server is overloaded, come back then.
    """

    reason: str
    needed_ns: int
    retry_after_ns: int | None = None


@dataclass(frozen=True, slots=True)
class _Door:
    """What one newcomer finds: when it is ready and workers are free (rising), and the price of core time for it."""

    policy: RoutingPolicy
    ready_ns: int
    free_ns: Sequence[int]
    price: float


class Admission:
    """Keeps the deadlines of requests between the door and the queue, and judges newcomers."""

    def __init__(self, menu: Menu, queue: DeadlineQueue, overhead_ns: int) -> None:
        """`overhead_ns`: from the end of a run until its answers are ready to be written."""
        self._menu = menu
        self._queue = queue
        self.overhead_ns = overhead_ns
        self._expected: list[int] = []
        self._promised: list[Promised] = []
        self._promise_by_id: dict[int, Promised] = {}
        self._mean_cost_ns: float | None = None

    def adopt(self, menu: Menu) -> None:
        """Judge by `menu` from now on; requests are taken to be as much dearer than its cheapest choice as before."""
        if self._mean_cost_ns is not None:
            self._mean_cost_ns *= menu.cheapest.core_ns_per_image / self._menu.cheapest.core_ns_per_image
        self._menu = menu

    @property
    def expected(self) -> int:
        """Requests that passed the door and are not queued yet."""
        return len(self._expected)

    @property
    def policies(self) -> Iterable[RoutingPolicy]:
        """Those of them."""
        return [promise.policy for promise in self._promised]

    def expected_before(self, deadline_ns: int) -> int:
        """Of those, how many are due by `deadline_ns`; one at least if there are any, since one has been begun."""
        return max(bisect.bisect_right(self._expected, deadline_ns), min(1, len(self._expected)))

    def promised_before(self, deadline_ns: int) -> Sequence[Promised]:
        """Of those, the ones that are due before `deadline_ns`, in the order of deadlines."""
        return self._promised[: bisect.bisect_left(self._expected, deadline_ns)]

    def expect(self, request_id: int, deadline_ns: int, policy: RoutingPolicy, ready_ns: int) -> None:
        """A request passed the door, and should be decoded at `ready_ns`; it will be submitted, or forgotten."""
        promise = Promised(deadline_ns, request_id, ready_ns, policy)
        at = bisect.bisect_right(self._expected, deadline_ns)
        self._expected.insert(at, deadline_ns)
        self._promised.insert(at, promise)
        self._promise_by_id[request_id] = promise
        cost_ns = min(choice.core_ns_per_image for choice in self._menu.allowed(policy))
        before_ns = self._mean_cost_ns
        self._mean_cost_ns = cost_ns if before_ns is None else before_ns + (cost_ns - before_ns) * _COST_WEIGHT

    def forget(self, request_id: int) -> None:
        """The request is queued now, or gone. Forgetting one that was never expected does nothing."""
        promise = self._promise_by_id.pop(request_id, None)
        if promise is not None:
            at = self._promised.index(promise, bisect.bisect_left(self._expected, promise.deadline_ns))
            del self._expected[at], self._promised[at]

    def due_by(self, deadline_ns: int) -> int:
        """Requests, queued or expected, that are due by `deadline_ns`."""
        return self._queue.count_due_by(deadline_ns) + bisect.bisect_right(self._expected, deadline_ns)

    def judge(
        self,
        deadline_ns: int,
        policy: RoutingPolicy,
        *,
        ready_ns: int,
        free_at_ns: Sequence[int],
        price: float = 0.0,
    ) -> Infeasible | None:
        """None to admit; `ready_ns` is when the request could be in the queue, `free_at_ns` when workers are free.

        `price`: top-1 points a core-nanosecond is worth at the current load.
        """
        run_ns = self._menu.fastest_ns(policy) + self.overhead_ns
        if ready_ns + run_ns > deadline_ns:
            return Infeasible("no allowed variant can make the budget", run_ns)
        free_ns = sorted(max(at_ns, ready_ns) for at_ns in free_at_ns)
        ahead = self.due_by(deadline_ns)
        door = _Door(
            policy, ready_ns, free_ns, price if policy.variant is None and policy.min_accuracy is None else 0.0
        )
        done_ns = self._done_ns(door, ahead)
        if done_ns > deadline_ns:
            wait_ns = done_ns - ready_ns - run_ns
            return Infeasible(f"the queue ahead takes about {wait_ns / NS_PER_MS:.1f} ms", done_ns - ready_ns)
        late_by_ns = self._worst_lateness_ns(deadline_ns, free_ns)
        if late_by_ns > 0:
            needed_ns = self._done_ns(door, self._waiting) - ready_ns
            return Infeasible("it would cost requests already admitted their deadlines", needed_ns, late_by_ns)
        return None

    @property
    def _waiting(self) -> int:
        return len(self._queue) + self.expected

    def _done_ns(self, door: _Door, ahead: int) -> int:
        """When the soonest of the allowed runs would be done; a run on several cores waits until that many are free.

        Of those ahead, whole batches go first, and the rest share the newcomer's.
        """
        free_ns, waiting = door.free_ns, self._waiting
        fitting = [choice for choice in self._menu.allowed(door.policy) if choice.threads <= len(free_ns)]
        batches = {choice.batch_sizes[-1] for choice in fitting}
        starts_ns = {size: self._start_ns(free_ns, ahead - ahead % size) for size in batches}
        done_ns = []
        for choice in fitting:
            start_ns = max(starts_ns[choice.batch_sizes[-1]], free_ns[choice.threads - 1])
            # What would start at once, with nobody waiting, is run whatever it costs.
            free = not door.price or (start_ns == door.ready_ns and not waiting)
            run_ns = choice.alone_ns if free else _paying_ns(choice, door.price, waiting)
            if run_ns is not None:
                done_ns.append(start_ns + run_ns)
        if not done_ns:
            start_ns = self._start_ns(free_ns, ahead)
            done_ns = [max(start_ns, free_ns[choice.threads - 1]) + choice.alone_ns for choice in fitting]
        return min(done_ns) + self.overhead_ns

    def _start_ns(self, free_ns: Sequence[int], ahead: int) -> int:
        """When a run with `ahead` requests before it starts at the latest."""
        if not ahead:
            return free_ns[0]
        return max(free_ns[0], int((sum(free_ns) + self.work_ns(ahead)) / len(free_ns)))

    def work_ns(self, count: int) -> float:
        """Core time that `count` waiting requests take at least: in batches, and pins and floors reckoned in."""
        return self._menu.cheapest.work_ns(count) * self._dearer

    @property
    def _dearer(self) -> float:
        """How much more core time requests take than the cheapest choice's, since some are pinned."""
        return max(1.0, (self._mean_cost_ns or 0.0) / self._menu.cheapest.core_ns_per_image)

    def _worst_lateness_ns(self, deadline_ns: int, free_ns: Sequence[int]) -> int:
        """By how much the request behind the newcomer that is hit worst would be late; looks at spaced positions.

        Each shares a batch with those before it, and the newcomer is among those.
        """
        cheapest, dearer, workers, free_sum_ns = self._menu.cheapest, self._dearer, len(free_ns), sum(free_ns)
        run_ns, worst_ns = cheapest.alone_ns, 0
        for due_ns in self._later(deadline_ns):
            work_ns = cheapest.work_ns(self.due_by(due_ns) + 1) * dearer
            done_ns = int((free_sum_ns + work_ns + (workers - 1) * run_ns) / workers)
            worst_ns = max(worst_ns, max(free_ns[0] + run_ns, done_ns) + self.overhead_ns - due_ns)
        return worst_ns

    def _later(self, deadline_ns: int) -> list[int]:
        """Deadlines at geometrically spaced places behind `deadline_ns`."""
        queued, expected = self._queue, self._expected
        due = [queued[at].deadline_ns for at in _spaced(queued.count_due_by(deadline_ns), len(queued))]
        due += [expected[at] for at in _spaced(bisect.bisect_right(expected, deadline_ns), len(expected))]
        return due


def _spaced(start: int, stop: int) -> list[int]:
    """Positions from `start` to `stop`: the nearest one by one, then ever further apart."""
    found = list(range(start, min(stop, start + _NEAR)))
    position = float(start + _NEAR)
    while position < stop:
        found.append(int(position))
        position += max(1.0, (position - start) * (_LOOKAHEAD_RATIO - 1.0))
    return found


def _paying_ns(choice: Choice, price: float, waiting: int) -> int | None:
    """Nanoseconds of the smallest run of `choice` that earns its core time, at most of all who wait; or None."""
    for size in choice.batch_sizes:
        if price * choice.latency_ns(size) * choice.threads <= size * choice.accuracy * _PAYS:
            return choice.latency_ns(min(size, waiting + 1))
    return None
