"""The policies to beat, run through the same scheduler: one variant for all, MaxAcc, MaxBatch, SlackFit.

Each is a `BatchPlanner` with another `plan`. They share the queue, the shedding, the door and the timers, so
that a comparison is of the choice alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from service.core.batch_planner import BatchPlanner, Situation
from service.core.menu import Choice
from service.core.request import Plan, QueuedRequest

SLACKFIT_BUCKETS = 32


def _plan(choice: Choice, batch: list[QueuedRequest]) -> Plan:
    ids = tuple(request.request_id for request in batch)
    return Plan(choice.variant.name, choice.threads, ids, choice.latency_ns(len(batch)))


class _Baseline(BatchPlanner):
    """Packs earliest-deadline requests, as many as a choice can answer within the first one's slack."""

    def _slack_ns(self, situation: Situation) -> int:
        return situation.queue[0].deadline_ns - self.overhead_ns - situation.now_ns

    def _usable(self, situation: Situation) -> list[Choice]:
        """One thread per run, as every server that must fix the width chooses for throughput."""
        narrow = min(choice.threads for choice in self.menu.choices)
        return [c for c in self.menu.choices if c.threads == narrow and c.threads <= situation.idle]

    def _largest(self, situation: Situation, choice: Choice, slack_ns: int) -> int:
        return min(choice.batch_size_max(slack_ns), len(situation.queue), choice.batch_sizes[-1])

    def _take(self, situation: Situation, choice: Choice, size: int) -> Plan:
        return _plan(choice, list(itertools.islice(situation.queue, size)))


class StaticPlanner(_Baseline):
    """One variant for everything, with the largest batch that its head's slack allows."""

    name = ""

    def plan(self, situation: Situation) -> Plan | None:
        if not situation.idle or not len(situation.queue):
            return None
        slack_ns = self._slack_ns(situation)
        for choice in self._usable(situation):
            if choice.variant.name == self.name and (size := self._largest(situation, choice, slack_ns)):
                return self._take(situation, choice, size)
        return None


def static(name: str) -> type[StaticPlanner]:
    """The planner that only knows `name`."""
    return type(f"Static_{name}", (StaticPlanner,), {"name": name})


class MaxAccPlanner(_Baseline):
    """The most accurate choice that fits the head's slack, then the largest batch (MDInference; Clipper's cousin)."""

    def plan(self, situation: Situation) -> Plan | None:
        if not situation.idle or not len(situation.queue):
            return None
        slack_ns = self._slack_ns(situation)
        for choice in self._usable(situation):
            if size := self._largest(situation, choice, slack_ns):
                return self._take(situation, choice, size)
        return None


class MaxBatchPlanner(_Baseline):
    """The largest batch that fits the head's slack, then the most accurate choice that can carry it."""

    def plan(self, situation: Situation) -> Plan | None:
        if not situation.idle or not len(situation.queue):
            return None
        slack_ns = self._slack_ns(situation)
        sizes = [
            (self._largest(situation, choice, slack_ns), choice.accuracy, choice) for choice in self._usable(situation)
        ]
        size, _, choice = max(sizes, key=lambda row: row[:2], default=(0, 0.0, None))
        return self._take(situation, choice, size) if size and choice else None


class SlackFitPlanner(_Baseline):
    """SuperServe's SlackFit (NSDI'25): even latency buckets, in each the pair with the largest batch, ties by accuracy.

    The highest bucket under the head's slack is taken; where its batch exceeds the queue, the most accurate
    choice that still fits the bucket at the queue's length.
    """

    def plan(self, situation: Situation) -> Plan | None:
        if not situation.idle or not len(situation.queue):
            return None
        usable = self._usable(situation)
        if not usable:
            return None
        slack_ns = self._slack_ns(situation)
        pairs = [
            (choice.latency_ns(size), size, choice.accuracy, choice) for choice in usable for size in choice.batch_sizes
        ]
        low, high = min(pair[0] for pair in pairs), max(pair[0] for pair in pairs)
        width = max(1, (high - low) // SLACKFIT_BUCKETS)
        buckets: dict[int, tuple[int, int, float, Choice]] = {}
        for pair in pairs:
            if pair[0] <= slack_ns:
                index = (pair[0] - low) // width
                buckets[index] = max(buckets.get(index, pair), pair, key=lambda p: (p[1], p[2]))
        if not buckets:
            return None
        latency_ns, size, _, choice = buckets[max(buckets)]
        waiting = len(situation.queue)
        if size > waiting:
            fitting = [c for c in usable if waiting <= c.batch_sizes[-1] and c.latency_ns(waiting) <= latency_ns]
            choice, size = max(fitting, key=lambda c: c.accuracy, default=choice), waiting
        return self._take(situation, choice, size)


POLICIES: dict[str, Callable[[], type[BatchPlanner]]] = {
    "maxacc": lambda: MaxAccPlanner,
    "maxbatch": lambda: MaxBatchPlanner,
    "slackfit": lambda: SlackFitPlanner,
}
