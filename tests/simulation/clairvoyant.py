"""A good schedule by someone who knows the whole future: what non-preemptive runs can reach, from below.

The upper bound of `upper_bound.py` lets runs be cut in pieces, so part of the distance between a policy and the
bound can be closed by nobody. This schedule tells which part: it is a real one, each run whole, on one set of
workers, between the arrivals and the deadlines of its requests. So its value is reached, and the best possible lies
between it and the bound. It is no policy: it reads the future, and it searches far longer than a planner may.

Method: large neighbourhood search (Shaw 1998). Start from what a policy did (`adopt`), or from inserting every request
where it is worth most at some price of core time, whichever is better; then, over and over, take all runs out of a
stretch of time, insert their requests again in another order and at another price, and keep what is no worse.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.core.menu import Choice, Menu
from service.core.request import Plan
from tests.simulation.simulator import Arrival

_PRICE_STEPS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.75)
_STRETCH_REQUESTS = 30


@dataclass(eq=False, slots=True)
class PlacedRun:
    """A run of `choice` on `workers` in [start_ns, end_ns), answering the arrivals with these indices."""

    choice: Choice
    workers: tuple[int, ...]
    start_ns: int
    end_ns: int
    members: tuple[int, ...]


class Timetable:
    """Runs placed on workers. Who places one makes sure, with `earliest` or `is_free`, that it overlaps no other."""

    def __init__(self, workers: int) -> None:
        self._runs: list[list[PlacedRun]] = [[] for _ in range(workers)]

    def copy(self) -> Timetable:
        """A timetable that shares the (never changed) runs."""
        other = Timetable(0)
        other._runs = [list(lane) for lane in self._runs]
        return other

    def runs(self) -> list[PlacedRun]:
        """All runs, each once."""
        return [run for worker, lane in enumerate(self._runs) for run in lane if run.workers[0] == worker]

    def starting(self, low_ns: int, high_ns: int) -> list[PlacedRun]:
        """Runs that start within [low_ns, high_ns]."""
        found: list[PlacedRun] = []
        for worker, lane in enumerate(self._runs):
            low = bisect.bisect_left(lane, low_ns, key=_start)
            high = bisect.bisect_right(lane, high_ns, key=_start)
            found.extend(run for run in lane[low:high] if run.workers[0] == worker)
        return found

    def add(self, run: PlacedRun) -> None:
        """Place `run`; its time must be free."""
        for worker in run.workers:
            lane = self._runs[worker]
            lane.insert(bisect.bisect_left(lane, run.start_ns, key=_start), run)

    def remove(self, run: PlacedRun) -> None:
        """Take `run` out."""
        for worker in run.workers:
            lane = self._runs[worker]
            del lane[bisect.bisect_left(lane, run.start_ns, key=_start)]

    def free_until(self, run: PlacedRun) -> int | None:
        """When the next run on any of `run`'s workers starts; None if there is none."""
        later = []
        for worker in run.workers:
            lane = self._runs[worker]
            after = bisect.bisect_left(lane, run.start_ns, key=_start) + 1
            if after < len(lane):
                later.append(lane[after].start_ns)
        return min(later, default=None)

    def is_free(self, worker: int, start_ns: int, end_ns: int) -> bool:
        """Whether `worker` has no run within [start_ns, end_ns)."""
        lane = self._runs[worker]
        before = bisect.bisect_left(lane, end_ns, key=_start) - 1
        return before < 0 or lane[before].end_ns <= start_ns

    def earliest(self, workers: Sequence[int], from_ns: int, latency_ns: int, end_ns: int) -> int | None:
        """The first start at which all `workers` are free for `latency_ns`, ending by `end_ns`; None if none is."""
        start_ns, checked = from_ns, 0
        while checked < len(workers):
            if start_ns + latency_ns > end_ns:
                return None
            for worker in workers:
                lane = self._runs[worker]
                before = bisect.bisect_left(lane, start_ns + latency_ns, key=_start) - 1
                checked += 1
                if before >= 0 and lane[before].end_ns > start_ns:
                    start_ns, checked = lane[before].end_ns, 0
                    break
        return start_ns


def _start(run: PlacedRun) -> int:
    return run.start_ns


class Clairvoyant:
    """Builds and improves one timetable for one list of arrivals."""

    def __init__(self, menu: Menu, workers: int, arrivals: Sequence[Arrival], seed: int = 0) -> None:
        self._arrivals = arrivals
        self._workers = range(workers)
        self._choices = menu.choices
        self._lanes = {
            choice.threads: [
                tuple(range(first, first + choice.threads))
                for first in range(0, workers - choice.threads + 1, choice.threads)
            ]
            for choice in menu.choices
        }
        self._batching = any(len(choice.batch_sizes) > 1 for choice in menu.choices)
        self._dearest = menu.cheapest.accuracy / menu.cheapest.core_ns_per_image
        self._random = random.Random(seed)
        self.timetable = Timetable(workers)
        self.served: dict[int, Choice] = {}

    def effective_accuracy(self) -> float:
        """Top-1 percent over all arrivals; 0 for those not served."""
        return sum(choice.accuracy for choice in self.served.values()) / max(1, len(self._arrivals))

    def adopt(self, plans: Iterable[tuple[int, Plan]]) -> None:
        """Start from (start, plan) pairs of exact runs, in order; request ids count the arrivals from 1."""
        choices = {(choice.variant.name, choice.threads): choice for choice in self._choices}
        for start_ns, plan in plans:
            end_ns = start_ns + plan.latency_ns
            free = [worker for worker in self._workers if self.timetable.is_free(worker, start_ns, end_ns)]
            members = tuple(request_id - 1 for request_id in plan.request_ids)
            choice = choices[plan.variant, plan.threads]
            self.timetable.add(PlacedRun(choice, tuple(free[: plan.threads]), start_ns, end_ns, members))
            self.served.update(dict.fromkeys(members, choice))

    def solve(self, rounds: int) -> float:
        """Build, then improve each stretch of time about `rounds` times; returns `effective_accuracy`."""
        best = (self.effective_accuracy(), self.timetable, self.served)
        for price in _PRICE_STEPS:
            self.timetable, self.served = Timetable(len(self._workers)), {}
            self._insert(sorted(range(len(self._arrivals)), key=self._deadline), price * self._dearest)
            best = max(best, (self.effective_accuracy(), self.timetable, self.served), key=lambda found: found[0])
        _, self.timetable, self.served = best
        for _ in range(rounds * max(1, len(self._arrivals) // _STRETCH_REQUESTS)):
            self._improve()
        return self.effective_accuracy()

    def _deadline(self, index: int) -> int:
        return self._arrivals[index].at_ns + self._arrivals[index].budget_ns

    def _improve(self) -> None:
        """Take a stretch of time apart and put it together again; keep it if it is worth no less."""
        first = self._random.randrange(len(self._arrivals))
        last = min(
            len(self._arrivals) - 1, first + self._random.randrange(_STRETCH_REQUESTS // 3, 2 * _STRETCH_REQUESTS)
        )
        low_ns, high_ns = self._arrivals[first].at_ns, self._arrivals[last].at_ns
        kept_timetable, kept_served = self.timetable.copy(), dict(self.served)
        loose = {index for index in range(first, last + 1) if index not in self.served}
        before = 0.0
        for run in self.timetable.starting(low_ns, high_ns):
            self.timetable.remove(run)
            before += run.choice.accuracy * len(run.members)
            for index in run.members:
                del self.served[index]
            loose.update(run.members)
        order = self._random.choice([self._deadline, self._budget, self._arrived])
        jitter = self._random.choice([0, 0, 20_000_000])
        price = self._random.choice(_PRICE_STEPS) * self._dearest * self._random.uniform(0.7, 1.3)
        self._insert(sorted(loose, key=lambda i: order(i) + self._random.randint(0, jitter)), price)
        self._upgrade(self.timetable.starting(low_ns, high_ns))
        after = sum(self.served[index].accuracy for index in loose if index in self.served)
        if after < before:
            self.timetable, self.served = kept_timetable, kept_served

    def _budget(self, index: int) -> int:
        return self._arrivals[index].budget_ns

    def _arrived(self, index: int) -> int:
        return self._arrivals[index].at_ns

    def _insert(self, order: Iterable[int], price: float) -> None:
        """Place each request where accuracy minus price times added core time is best; leave out what fits nowhere."""
        for index in order:
            budget_ns = self._arrivals[index].budget_ns
            fitting = [c for c in self._choices if c.latency_ns(1) <= budget_ns]
            fitting.sort(key=lambda c: price * c.latency_ns(1) * c.threads - c.accuracy)
            joined = self._best_to_join(index, price) if self._batching else None
            for choice in fitting:
                net = choice.accuracy - price * choice.latency_ns(1) * choice.threads
                if (joined is not None and joined[0] >= net) or self._place(index, choice):
                    break
            if joined is not None and index not in self.served:
                self._join(index, joined[1])

    def _place(self, index: int, choice: Choice) -> bool:
        """Give the request a run of its own as early as can be."""
        from_ns, latency_ns, end_ns = self._arrivals[index].at_ns, choice.latency_ns(1), self._deadline(index)
        found: tuple[int, tuple[int, ...]] | None = None
        for workers in self._lanes[choice.threads]:
            start_ns = self.timetable.earliest(workers, from_ns, latency_ns, end_ns)
            if start_ns is not None and (found is None or start_ns < found[0]):
                found = (start_ns, workers)
                if start_ns == from_ns:
                    break
        if found is None:
            return False
        self.timetable.add(PlacedRun(choice, found[1], found[0], found[0] + latency_ns, (index,)))
        self.served[index] = choice
        return True

    def _best_to_join(self, index: int, price: float) -> tuple[float, PlacedRun] | None:
        """The placed run that is worth most to take part in, if any has room in time and size."""
        deadline_ns, best = self._deadline(index), None
        for run in self.timetable.starting(self._arrivals[index].at_ns, deadline_ns):
            size = len(run.members) + 1
            if size > run.choice.batch_sizes[-1]:
                continue
            end_ns = run.start_ns + run.choice.latency_ns(size)
            net = run.choice.accuracy - price * (end_ns - run.end_ns) * run.choice.threads
            if (best is None or net > best[0]) and end_ns <= deadline_ns and self._may_end(run, end_ns):
                best = (net, run)
        return best

    def _may_end(self, run: PlacedRun, end_ns: int) -> bool:
        """Whether `run` could take until `end_ns` without being late for a member or in the next run's way."""
        free_until_ns = self.timetable.free_until(run)
        return (free_until_ns is None or end_ns <= free_until_ns) and all(
            end_ns <= self._deadline(member) for member in run.members
        )

    def _join(self, index: int, run: PlacedRun) -> None:
        members = (*run.members, index)
        self._replace(run, run.choice, run.start_ns, members)

    def _upgrade(self, runs: Iterable[PlacedRun]) -> None:
        """Give each run the most accurate choice of its width that the gap after it has room for."""
        for run in runs:
            for choice in self._choices:
                if choice.accuracy <= run.choice.accuracy:
                    break
                if choice.threads != run.choice.threads or len(run.members) > choice.batch_sizes[-1]:
                    continue
                if self._may_end(run, run.start_ns + choice.latency_ns(len(run.members))):
                    self._replace(run, choice, run.start_ns, run.members)
                    break

    def _replace(self, run: PlacedRun, choice: Choice, start_ns: int, members: tuple[int, ...]) -> None:
        self.timetable.remove(run)
        end_ns = start_ns + choice.latency_ns(len(members))
        self.timetable.add(PlacedRun(choice, run.workers, start_ns, end_ns, members))
        for member in members:
            self.served[member] = choice
