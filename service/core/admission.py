"""The door: refuse at once what cannot be served in time, and what would break promises already made.

A request that was admitted should make its deadline. So one more is taken only if, with everybody served by the
cheapest choice and the earliest deadline first, it makes its own and everybody who is due after it still makes theirs.
Only by runs that the planner would start: at a high price of core time none that is wider, or a smaller batch, than
what it earns pays for. Where only full batches pay, whoever a newcomer moves into the next batch is done a whole batch
later. Requests that are being decoded count as well as those queued.

That is reckoned from how many there are. While few wait, each run to come is gone through as well (`timetable.py`),
which alone is exact; in a flood that would take too long, and a run more or less matters little.

List scheduling (Graham 1966): on W workers that are free at given times, a run with work W' before it starts no later
than (sum of free times + W') / W.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from service.core.deadline_queue import DeadlineQueue
from service.core.menu import Choice, Menu
from service.core.promises import Promised
from service.core.request import RoutingPolicy
from service.core.timetable import PAYS, Timetable

NS_PER_MS = 1_000_000
_NEAR = 48
_NEVER_NS = 1 << 62
_LOOKAHEAD_RATIO = 1.1
_COST_WEIGHT = 1 / 32

# How many may wait, where a batch is one, for each run to come to be gone through: some 4 µs each. For a refusal to be
# taken back, and for that while more arrives than can be carried.
_GONE_THROUGH_MAX, _TAKEN_BACK_MAX, _CROWDED_MAX = 48, 16, 4
_SPARE_BELOW = 1.0
_MUCH_LESS = 0.85
_TRIES_MAX = 2  # to name a budget that would do
_NAMED_CLOSELY_MAX = 8  # waiting: beyond that the named one is for the end of the queue
_NEWCOMER = 1 << 62  # as an id it comes after everybody who is due at the same time


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
        now_ns: int,
        ready_ns: int,
        free_at_ns: Sequence[int],
        price: float = 0.0,
        offered: float = 0.0,
    ) -> Infeasible | None:
        """None to admit; `ready_ns` is when the request could be in the queue, `free_at_ns` when workers are free.

        `price`: top-1 points a core-nanosecond is worth at the current load. `offered`: what arrives of late, as a
        share of what the workers carry at the cheapest choice.
        """
        run_ns = self._menu.fastest_ns(policy) + self.overhead_ns
        door = _door(policy, ready_ns, free_at_ns, price)
        if ready_ns + run_ns > deadline_ns:
            return Infeasible("no allowed variant can make the budget", self._enough_ns(door, run_ns, price, offered))
        counted = self._counted(door, deadline_ns, price)
        if 0 < self._waiting <= self._gone_through_max(counted, offered):
            table = Timetable(
                self._menu, price=price, now_ns=now_ns, overhead_ns=self.overhead_ns, free_at_ns=free_at_ns
            )
            waiting = self._all_waiting(now_ns)
            if _keeps_all(table, waiting, Promised(deadline_ns, _NEWCOMER, ready_ns, policy)):
                return None
            if counted is None:
                return self._too_many(door, deadline_ns, table, waiting)
        if counted is not None and counted.retry_after_ns is None:
            return replace(counted, needed_ns=self._enough_ns(door, counted.needed_ns, price, offered))
        return counted

    def enough_ns(
        self,
        policy: RoutingPolicy,
        *,
        ready_ns: int,
        free_at_ns: Sequence[int],
        price: float = 0.0,
        offered: float = 0.0,
    ) -> int:
        """From being decoded at `ready_ns`, what a newcomer should have left to pass; the rest as for `judge`."""
        door = _door(policy, ready_ns, free_at_ns, price)
        return self._enough_ns(door, self._menu.fastest_ns(policy) + self.overhead_ns, price, offered)

    def _enough_ns(self, door: _Door, least_ns: int, price: float, offered: float) -> int:
        """From being decoded, what would be enough by count, at nobody's cost; at least `least_ns`.

        Due no sooner than the last who would be late for it, and when those who are due before it are done. In a crowd,
        or while more arrives than can be carried, when all are done, which takes no time to tell: whoever is refused
        then is one of many, and of a core that is busy with refusals nobody has anything.
        """
        if self._waiting > (_NAMED_CLOSELY_MAX if offered < _SPARE_BELOW else 0):
            return max(least_ns, self._all_done_ns(door) - door.ready_ns)
        deadline_ns = door.ready_ns + least_ns
        _, last_late_due_ns = self._lateness(deadline_ns, door.free_ns, price)
        deadline_ns = max(deadline_ns, last_late_due_ns)
        for _ in range(_TRIES_MAX):
            done_ns = self._done_ns(door, self.due_by(deadline_ns))
            if done_ns <= deadline_ns:
                return deadline_ns - door.ready_ns
            deadline_ns = done_ns
        return max(deadline_ns, self._done_ns(door, self._waiting)) - door.ready_ns

    def _all_done_ns(self, door: _Door) -> int:
        """When all who wait and a newcomer after them are done at the latest: reckoned in no time."""
        threads, latency_ns = self._menu.fastest_by_width_for(door.policy)[0]
        largest = self._menu.cheapest.batch_sizes[-1]
        if largest > 1:
            latency_ns = self._menu.cheapest_at(threads).latency_ns(largest)
        free_ns = door.free_ns[min(threads, len(door.free_ns)) - 1]
        return max(free_ns, self._start_ns(door.free_ns, self._waiting)) + latency_ns + self.overhead_ns

    def _gone_through_max(self, counted: Infeasible | None, offered: float) -> int:
        """How many may wait for each run to come to be gone through; fewer for a refusal to be taken back by that.

        In a burst fewer still: what comes next may need wider runs, or smaller batches, than those that were gone
        through, and where batches pay small ones would fill the queue. Nobody is refused by it where runs usually take
        much less than predicted: of many predictions in a row, each a high quantile, not all come true.
        """
        largest = self._menu.cheapest.batch_sizes[-1]
        if counted is None and self._menu.usual_share < _MUCH_LESS:
            return -1
        if largest == 1:
            if counted is None:
                return _GONE_THROUGH_MAX
            return _TAKEN_BACK_MAX if offered < _SPARE_BELOW else _CROWDED_MAX
        if not self._queue.is_plain:
            return -1
        if counted is None:
            return 2 * largest
        return largest // 2 if offered < _SPARE_BELOW else -1

    def _all_waiting(self, now_ns: int) -> list[Promised]:
        return [
            *self._promised,
            *[Promised(one.deadline_ns, one.request_id, now_ns, one.policy) for one in self._queue],
        ]

    def _counted(self, door: _Door, deadline_ns: int, price: float) -> Infeasible | None:
        """What follows from how many wait, and from how many of those are due sooner."""
        run_ns = self._menu.fastest_ns(door.policy) + self.overhead_ns
        done_ns = self._done_ns(door, self.due_by(deadline_ns))
        if done_ns > deadline_ns:
            return _behind_the_queue(done_ns - door.ready_ns, run_ns)
        late_by_ns, _ = self._lateness(deadline_ns, door.free_ns, price)
        if late_by_ns > 0:
            return _at_others_cost(self._done_ns(door, self._waiting) - door.ready_ns, late_by_ns)
        return None

    def _too_many(self, door: _Door, deadline_ns: int, table: Timetable, waiting: Sequence[Promised]) -> Infeasible:
        """The refusal of one who could be in time by count, but not by the runs to come."""
        run_ns = self._menu.fastest_ns(door.policy) + self.overhead_ns
        needed_ns = max(self._done_ns(door, self._waiting), deadline_ns) - door.ready_ns
        for _ in range(_TRIES_MAX):
            needed_ns += run_ns
            if _keeps_all(table, waiting, Promised(door.ready_ns + needed_ns, _NEWCOMER, door.ready_ns, door.policy)):
                break
        newcomer = Promised(deadline_ns, _NEWCOMER, door.ready_ns, door.policy)
        if _NEWCOMER not in table.kept([*waiting, newcomer]):
            return _behind_the_queue(needed_ns, run_ns)
        return _at_others_cost(needed_ns, needed_ns - (deadline_ns - door.ready_ns))

    @property
    def _waiting(self) -> int:
        return len(self._queue) + self.expected

    def _done_ns(self, door: _Door, ahead: int) -> int:
        """When the soonest of the allowed runs would be done; a run on several cores waits until that many are free.

        Of those ahead, whole batches go first, and the rest share the newcomer's, which is the smallest that pays.
        Several workers take a part of that rest each.
        """
        free_ns, waiting, workers = door.free_ns, self._waiting, len(door.free_ns)
        fitting = [choice for choice in self._menu.allowed(door.policy) if choice.threads <= workers]
        batches = {choice.batch_sizes[-1] for choice in fitting}
        starts_ns = {size: self._start_ns(free_ns, ahead - ahead % size) for size in batches}
        done_ns = []
        for choice in fitting:
            largest = choice.batch_sizes[-1]
            start_ns = max(starts_ns[largest], free_ns[choice.threads - 1])
            # What would start at once, with nobody waiting, is run whatever it costs.
            free = not door.price or (start_ns == door.ready_ns and not waiting)
            paying = 1 if free else _paying_size(choice, door.price)
            if paying is not None:
                sharing = ahead % largest // workers + 1
                done_ns.append(start_ns + choice.latency_ns(max(sharing, min(paying, waiting + 1))))
        if not done_ns:
            # Runs are predicted to take longer than when the price was solved. Full batches are run even so.
            start_ns = self._start_ns(free_ns, ahead)
            for choice in fitting:
                largest = choice.batch_sizes[-1]
                run_ns = choice.latency_ns(largest) if waiting >= largest else choice.alone_ns
                done_ns.append(max(start_ns, free_ns[choice.threads - 1]) + run_ns)
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

    def _lateness(self, deadline_ns: int, free_ns: Sequence[int], price: float) -> tuple[int, int]:
        """By how much the request behind the newcomer that is hit worst would be late; looks at spaced places.

        And when the last of those is due who would be late; 0 if none would.

        The newcomer moves each of them on by one place, and the last of every batch into the next one. Only batches
        that pay are counted on: where nothing but a full one does, nobody has the short run of the few before it.
        """
        ahead, waiting = self.due_by(deadline_ns), self._waiting
        if ahead == waiting:
            return 0, 0
        cheapest, workers, free_sum_ns, worst_ns, last_ns = self._menu.cheapest, len(free_ns), sum(free_ns), 0, 0
        largest = cheapest.batch_sizes[-1]
        paying = _paying_size(cheapest, price) or largest
        batch_ns = cheapest.work_ns(largest) * self._dearer
        last = ahead - ahead % paying + paying - 1  # of the batch that the newcomer joins
        places = [last + nth * paying for nth in _spaced(-(-(waiting - last) // paying))]
        for at, due_ns in zip(places, self._due_at(places), strict=True):
            whole, place = divmod(at + 1, largest)
            start_ns = max(free_ns[0], int((free_sum_ns + whole * batch_ns) / workers))
            done_ns = start_ns + cheapest.latency_ns(max(place // workers + 1, paying))
            late_ns = done_ns + self.overhead_ns - due_ns
            if late_ns > 0:
                worst_ns, last_ns = max(worst_ns, late_ns), due_ns
        return worst_ns, last_ns

    def _due_at(self, places: Sequence[int]) -> list[int]:
        """The deadlines at these places, rising from 0, of all who wait, queued or expected, earliest first."""
        queued, expected, before, due = self._queue, self._expected, 0, list[int]()
        if not expected:
            return [queued[at].deadline_ns for at in places]
        few = 0  # of those before the place looked at, the expected ones: no fewer than before the last place
        for at in places:
            few, many = max(few, at - len(queued)), min(few + at - before, len(expected))
            while few < many:
                middle = (few + many) // 2
                if expected[middle] < queued[at - middle - 1].deadline_ns:
                    few = middle + 1
                else:
                    many = middle
            of_queue = queued[at - few].deadline_ns if at - few < len(queued) else _NEVER_NS
            due.append(expected[few] if few < len(expected) and expected[few] < of_queue else of_queue)
            before = at
        return due


def _door(policy: RoutingPolicy, ready_ns: int, free_at_ns: Sequence[int], price: float) -> _Door:
    """What is found by a newcomer with this `policy`; whoever is told what to take takes it at any price."""
    free_ns = sorted([max(at_ns, ready_ns) for at_ns in free_at_ns])
    return _Door(policy, ready_ns, free_ns, price if policy.variant is None and policy.min_accuracy is None else 0.0)


def _keeps_all(table: Timetable, waiting: Sequence[Promised], newcomer: Promised) -> bool:
    """Whether the newcomer would be in time, and nobody late who would not be without it."""
    everybody = [*waiting, newcomer]
    if table.all_surely_kept(everybody):
        return True
    kept = table.kept(everybody)
    if len(kept) == len(everybody):
        return True
    return newcomer.request_id in kept and len(kept) > len(table.kept(waiting))


def _behind_the_queue(needed_ns: int, run_ns: int) -> Infeasible:
    wait_ns = needed_ns - run_ns
    return Infeasible(f"the queue ahead takes about {wait_ns / NS_PER_MS:.1f} ms", needed_ns)


def _at_others_cost(needed_ns: int, retry_after_ns: int) -> Infeasible:
    return Infeasible("it would cost requests already admitted their deadlines", needed_ns, retry_after_ns)


def _spaced(count: int) -> list[int]:
    """Of so many positions, from 0: the nearest one by one, then ever further apart."""
    found = list(range(min(count, _NEAR)))
    position = float(_NEAR)
    while position < count:
        found.append(int(position))
        position += max(1.0, position * (_LOOKAHEAD_RATIO - 1.0))
    return found


def _paying_size(choice: Choice, price: float) -> int | None:
    """The smallest batch of `choice` that earns its core time at `price`; None if none does."""
    for size in choice.batch_sizes:
        if price * choice.latency_ns(size) * choice.threads <= size * choice.accuracy * PAYS:
            return size
    return None
