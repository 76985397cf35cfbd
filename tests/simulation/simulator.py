"""Runs the real `Scheduler` on a fake clock against simulated workers, checking its invariants at every event.

Discrete events, no threads, no sleeping: thousands of requests a second, and a failing run is a seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from service.core.menu import Menu
from service.core.request import DEFAULT_POLICY, OnMiss, Plan, QueuedRequest, RoutingPolicy
from service.core.scheduler import Action, Dispatch, Outcome, Scheduler, Settle, WakeAt

MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """A decoded request that reaches the queue at `at_ns`; its caller leaves after `patience_ns`, if set."""

    at_ns: int
    budget_ns: int
    policy: RoutingPolicy = DEFAULT_POLICY
    patience_ns: int | None = None


@dataclass(slots=True)
class Report:
    """What came of a run. Accuracies in top-1 percent; effective counts refused and late answers as 0."""

    offered: int = 0
    refused: int = 0
    in_time: int = 0
    late: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    batch_sizes: Counter[int] = field(default_factory=Counter)
    accuracy_sum: float = 0.0
    log: list[str] = field(default_factory=list)

    @property
    def admitted(self) -> int:
        return self.offered - self.refused

    @property
    def effective_accuracy(self) -> float:
        return self.accuracy_sum / max(1, self.offered)

    @property
    def serving_accuracy(self) -> float:
        return self.accuracy_sum / max(1, self.in_time)

    @property
    def attainment(self) -> float:
        """In time, of all offered."""
        return self.in_time / max(1, self.offered)

    @property
    def admitted_attainment(self) -> float:
        """In time, of those admitted and not cancelled by their callers."""
        return self.in_time / max(1, self.admitted - self.outcomes[Outcome.CANCELLED])


Noise = Callable[[int, random.Random], int]
"""From what the profile says of a run, in nanoseconds, to what it takes. Predictions that adapt have no part in it."""


def exact(profiled_ns: int, rng: random.Random) -> int:
    """Runs take exactly what the profile says."""
    return profiled_ns


def noisy(spread: float) -> Noise:
    """Runs take a log-normal factor of the profile whose 95th percentile is about 1."""

    def duration_ns(profiled_ns: int, rng: random.Random) -> int:
        return max(1, int(profiled_ns * rng.lognormvariate(-1.645 * spread, spread)))

    return duration_ns


class Simulator:
    """One run of one scheduler. Raises AssertionError as soon as an invariant breaks."""

    def __init__(
        self,
        scheduler: Scheduler,
        menu: Menu,
        *,
        workers: int,
        seed: int = 0,
        noise: Noise = exact,
        failure_rate: float = 0.0,
        door: bool = True,
        decode_ns: int = 0,
    ) -> None:
        """`decode_ns`: what every picture takes, and is known to take, from the door to the queue; all at once."""
        self.scheduler = scheduler
        self.menu = menu
        self.report = Report()
        self._rng = random.Random(seed)
        self._noise = noise
        self._failure_rate = failure_rate
        self._door = door
        self._decode_ns = decode_ns
        self._idle = set(range(workers))
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._requests: dict[int, QueuedRequest] = {}
        self._running: dict[int, tuple[Dispatch, bool]] = {}
        self._variant_of: dict[int, str] = {}
        self._unsettled: set[int] = set()
        self._ever_settled: set[int] = set()
        self._wake: int | None = None
        self.now_ns = 0

    def run(self, arrivals: Iterable[Arrival], until_ns: int | None = None) -> Report:
        """Play all arrivals to their end, or break off at `until_ns`, whatever waits or runs then."""
        for request_id, arrival in enumerate(arrivals, start=1):
            self._at(arrival.at_ns, lambda i=request_id, a=arrival: self._arrive(i, a))
        while self._events:
            if until_ns is not None and self._events[0][0] >= until_ns:
                return self.report
            at_ns, _, event = heapq.heappop(self._events)
            assert at_ns >= self.now_ns, "an event in the past"
            self.now_ns = at_ns
            event()
        assert not self._unsettled, f"never settled: {sorted(self._unsettled)[:5]}"
        assert self.scheduler.is_empty
        return self.report

    def _at(self, at_ns: int, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_ns, next(self._sequence), event))

    def _arrive(self, request_id: int, arrival: Arrival) -> None:
        self.report.offered += 1
        request = QueuedRequest(request_id, self.now_ns, self.now_ns + arrival.budget_ns, arrival.policy)
        if self._door and arrival.policy.on_miss is OnMiss.REJECT:
            ready_ns = self.now_ns + self._decode_ns
            infeasible = self.scheduler.infeasible(
                request.deadline_ns, request.policy, ready_ns=ready_ns, now_ns=self.now_ns
            )
            if infeasible is not None:
                self.report.refused += 1
                return
        self._requests[request_id] = request
        self._unsettled.add(request_id)
        if arrival.patience_ns is not None:
            self._at(self.now_ns + arrival.patience_ns, lambda: self._leave(request_id))
        if not self._decode_ns:
            self._perform(self.scheduler.submit(request, self.now_ns))
            return
        assert arrival.patience_ns is None, "nobody leaves while a picture is decoded"
        ready_ns = self.now_ns + self._decode_ns
        self.scheduler.expect(request_id, request.deadline_ns, request.policy, ready_ns=ready_ns)
        self._at(ready_ns, lambda: self._perform(self.scheduler.submit(request, self.now_ns)))

    def _leave(self, request_id: int) -> None:
        mates = {i for dispatch, _ in self._running.values() for i in dispatch.plan.request_ids} - {request_id}
        actions = self.scheduler.cancel(request_id, self.now_ns)
        touched = {a.request_id for a in actions if isinstance(a, Settle) and a.outcome is Outcome.CANCELLED}
        assert not touched & mates, "a cancellation settled a batch-mate"
        assert (request_id in self._unsettled) == (touched == {request_id}), "a cancellation was lost"
        self._perform(actions)

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Dispatch):
                self._start(action)
            elif isinstance(action, Settle):
                self._settle(action)
            else:
                self._set_wake(action)

    def _start(self, dispatch: Dispatch) -> None:
        plan = dispatch.plan
        assert set(dispatch.workers) <= self._idle, f"{dispatch} to a busy worker"
        assert len(dispatch.workers) == plan.threads
        assert set(plan.request_ids) <= self._unsettled, f"{dispatch} runs a settled request"
        for request_id in plan.request_ids:
            request = self._requests[request_id]
            assert self.now_ns + plan.latency_ns <= request.deadline_ns or request.policy.on_miss is OnMiss.LATE, (
                f"{dispatch} is predicted to miss {request}"
            )
            allowed = {choice.variant.name for choice in self.menu.allowed(request.policy)}
            assert plan.variant in allowed, f"{dispatch} breaks the policy of {request}"
            self._variant_of[request_id] = plan.variant
        self._idle -= set(dispatch.workers)
        failed = self._rng.random() < self._failure_rate
        self._running[dispatch.workers[0]] = (dispatch, failed)
        self.report.runs[plan.variant] += 1
        self.report.batch_sizes[len(plan.request_ids)] += 1
        self.report.log.append(f"{self.now_ns} {plan.variant}x{len(plan.request_ids)} on {dispatch.workers}")
        duration_ns = self._noise(self._profiled_ns(plan), self._rng)
        self._at(self.now_ns + duration_ns, lambda: self._finish(dispatch.workers[0]))

    def _profiled_ns(self, plan: Plan) -> int:
        profile = next(
            c.profile for c in self.menu.choices if (c.variant.name, c.threads) == (plan.variant, plan.threads)
        )
        return profile.latency_ns(len(plan.request_ids))

    def _finish(self, worker: int) -> None:
        dispatch, failed = self._running.pop(worker)
        self._idle |= set(dispatch.workers)
        self._perform(self.scheduler.worker_idle(worker, self.now_ns, failed=failed))

    def _settle(self, settle: Settle) -> None:
        request_id = settle.request_id
        assert request_id not in self._ever_settled, f"request {request_id} settled twice"
        self._ever_settled.add(request_id)
        self._unsettled.remove(request_id)
        self.report.outcomes[settle.outcome] += 1
        request = self._requests.pop(request_id)
        if settle.outcome is Outcome.DEADLINE_EXCEEDED and request.policy.on_miss is OnMiss.REJECT:
            assert self.now_ns <= request.deadline_ns + 1, f"{request} got its refusal after its deadline"
        if settle.outcome is Outcome.ANSWERED:
            if self.now_ns <= request.deadline_ns:
                self.report.in_time += 1
                name = self._variant_of[request_id]
                self.report.accuracy_sum += next(c.accuracy for c in self.menu.choices if c.variant.name == name)
            else:
                assert request.policy.on_miss is OnMiss.LATE, f"{request} was answered late"
                self.report.late += 1

    def _set_wake(self, wake: WakeAt) -> None:
        self._wake = wake.at_ns
        if wake.at_ns is not None:
            at_ns = max(wake.at_ns, self.now_ns)
            self._at(at_ns, lambda: self._fire(wake.at_ns))

    def _fire(self, at_ns: int) -> None:
        if self._wake == at_ns:
            self._wake = None
            self._perform(self.scheduler.wake(self.now_ns))
