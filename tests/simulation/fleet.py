"""Several replicas, each with the real `Scheduler`, behind a balancer, on one fake clock, scaled by an autoscaler.

The balancer sends a request to the one with fewer in service of two replicas drawn at random, as Envoy's least-request
policy does (Mitzenmacher 2001, "The Power of Two Choices in Randomized Load Balancing"). A replica takes traffic some
time after it was asked for; one that must go takes no new requests and finishes what it has. Costs are counted from
being asked for to being gone.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.core.batch_planner import BatchPlanner, PlannerSettings
from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator, LoadSettings
from service.core.menu import Menu
from service.core.scheduler import Dispatch, Outcome, Scheduler, SchedulerSettings, Settle
from tests.simulation.autoscaler import NS_PER_S, Autoscaler
from tests.simulation.simulator import Arrival, Simulator

GIVEN_UP, DEGRADED, QUEUED, BUSY = "accuracy given up", "degraded answers", "queue depth", "cores in use"
SIGNALS = (GIVEN_UP, DEGRADED, QUEUED, BUSY)
"""What a replica measures of itself: the accuracy that its answers lack of an idle one's, on average and as a ratio;
the share of them that lack any; requests that wait; the share of its cores' time that runs take."""

QUEUE_SIZE_MAX = 1000
# The price of core time is solved anew a fifth as often as on a server, which five sixths of a simulation's time went
# into; half of the time constant of the arrival rate that it follows.
LOAD = LoadSettings(refresh_ns=250_000_000)


@dataclass(frozen=True, slots=True)
class Timing:
    """When what happens, in simulated seconds.

    `look_s`: between two looks of the autoscaler. `window_s`, `queue_window_s`: over which shares and queue depths are
    averaged. `start_s`: from a replica being asked for until it serves: scheduling, pulling, loading, profiling.
    """

    look_s: float = 15
    window_s: float = 120
    queue_window_s: float = 60
    start_s: float = 60

    def hurried(self, factor: float) -> Timing:
        """All times divided by `factor`."""
        return Timing(self.look_s / factor, self.window_s / factor, self.queue_window_s / factor, self.start_s / factor)


@dataclass(frozen=True, slots=True)
class FleetReport:
    """What came of it. Effective accuracy counts late and refused requests as 0; `replicas_mean` is the cost."""

    offered: int
    effective_accuracy: float
    in_time: float
    replicas_mean: float
    replicas_most: int


@dataclass(slots=True)
class _Count:
    """What a replica has done until `at_ns`."""

    at_ns: int = 0
    answered: int = 0
    degraded: int = 0
    given_up: float = 0.0
    busy_ns: int = 0
    queued_ns: int = 0


@dataclass(slots=True)
class _Events:
    """One clock and one list of what will happen, for all."""

    now_ns: int = 0
    _heap: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _sequence: Iterable[int] = field(default_factory=itertools.count)

    def at(self, at_ns: int, event: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (at_ns, next(iter(self._sequence)), event))

    def run(self, until_ns: int) -> None:
        """Everything that happens before `until_ns`."""
        while self._heap and self._heap[0][0] < until_ns:
            self.now_ns, _, event = heapq.heappop(self._heap)
            event()
        self.now_ns = until_ns


class Replica(Simulator):
    """One server among several: the simulator of one, on the fleet's clock, measuring itself."""

    def __init__(self, events: _Events, menu: Menu, workers: int, ready_ns: int) -> None:
        load = LoadEstimator(menu, workers, LOAD)
        planner = BatchPlanner(menu, load, PlannerSettings(batch_size_max=32, overhead_ns=0))
        settings = SchedulerSettings(workers, late_wait_ns_max=NS_PER_S)
        super().__init__(Scheduler(planner, DeadlineQueue(QUEUE_SIZE_MAX), settings), menu, workers=workers)
        self.ready_ns = ready_ns
        self.asked_ns = events.now_ns
        self.leaving = False
        self.in_service = 0
        self._fleet_events = events
        self._workers = workers
        self._count = _Count()
        self._counts: deque[_Count] = deque()
        self._ideal: dict[int, str | None] = {}
        self._accuracy = {choice.variant.name: choice.accuracy for choice in menu.choices}

    def take(self, request_id: int, arrival: Arrival) -> None:
        """A request reaches this replica now."""
        self._tick()
        self._ideal[request_id] = self.scheduler.idle_choice(arrival.budget_ns, arrival.policy)
        refused = self.report.refused
        self.in_service += 1
        self._arrive(request_id, arrival)
        if self.report.refused > refused:
            self.in_service -= 1
            del self._ideal[request_id]

    def look(self, timing: Timing) -> dict[str, float]:
        """What it measures of itself, averaged over the windows that end now."""
        self._tick()
        now = self._count
        self._counts.append(replace(now))
        while now.at_ns - self._counts[0].at_ns > timing.window_s * NS_PER_S:
            self._counts.popleft()
        first = self._counts[0] if len(self._counts) > 1 else _Count(self.ready_ns)
        horizon_ns = now.at_ns - timing.queue_window_s * NS_PER_S
        recent = next((count for count in self._counts if count.at_ns >= horizon_ns and count.at_ns < now.at_ns), first)
        answered = max(1, now.answered - first.answered)
        return {
            GIVEN_UP: (now.given_up - first.given_up) / answered,
            DEGRADED: (now.degraded - first.degraded) / answered,
            BUSY: (now.busy_ns - first.busy_ns) / max(1, (now.at_ns - first.at_ns) * self._workers),
            QUEUED: (now.queued_ns - recent.queued_ns) / max(1, now.at_ns - recent.at_ns),
        }

    def _tick(self) -> None:
        """Bring the clock and the time integral of the queue's length up to date."""
        now_ns = self._fleet_events.now_ns
        self._count.queued_ns += (now_ns - max(self._count.at_ns, self.ready_ns)) * self.scheduler.pressure.queued
        self._count.at_ns = self.now_ns = now_ns

    def _at(self, at_ns: int, event: Callable[[], None]) -> None:
        def later() -> None:
            self._tick()
            event()

        self._fleet_events.at(at_ns, later)

    def _start(self, dispatch: Dispatch) -> None:
        super()._start(dispatch)
        self._count.busy_ns += dispatch.plan.latency_ns * dispatch.plan.threads

    def _settle(self, settle: Settle) -> None:
        super()._settle(settle)
        self.in_service -= 1
        ideal = self._ideal.pop(settle.request_id)
        used = self._variant_of.pop(settle.request_id, None)
        self.report.log.clear()
        if settle.outcome is Outcome.ANSWERED and used is not None:
            self._count.answered += 1
            lacks = 0.0 if ideal is None else max(0.0, self._accuracy[ideal] - self._accuracy[used])
            self._count.degraded += lacks > 0.0
            self._count.given_up += lacks / 100


class Fleet:
    """Replicas that come and go. One run, one object."""

    def __init__(
        self, build: Callable[[], Menu], workers: int, *, scaler: Autoscaler, timing: Timing, seed: int
    ) -> None:
        """`workers` cores a replica, each with a menu of its own from `build`."""
        self._build = build
        self._workers = workers
        self._scaler = scaler
        self._timing = timing
        self._rng = random.Random(seed)
        self._events = _Events()
        self._replicas: list[Replica] = []
        self._gone: list[Replica] = []
        self._replica_ns = 0
        self._most = 0

    def run(self, arrivals: Sequence[Arrival], replicas: int) -> FleetReport:
        """Play all arrivals, starting with `replicas` that are ready."""
        for _ in range(replicas):
            self._replicas.append(Replica(self._events, self._build(), self._workers, ready_ns=0))
        end_ns = arrivals[-1].at_ns + 1
        for step in range(1, int(end_ns / (self._timing.look_s * NS_PER_S)) + 1):
            self._events.at(int(step * self._timing.look_s * NS_PER_S), self._scale)
        for request_id, arrival in enumerate(arrivals, start=1):
            self._events.run(arrival.at_ns)
            self._balance(request_id, arrival)
        self._events.run(end_ns)
        self._replica_ns += sum(end_ns - replica.asked_ns for replica in self._replicas)
        self._events.run(end_ns + 60 * NS_PER_S)  # what is in service ends after the count
        return self._report(len(arrivals), end_ns)

    def _report(self, offered: int, end_ns: int) -> FleetReport:
        reports = [replica.report for replica in (*self._replicas, *self._gone)]
        assert sum(report.offered for report in reports) == offered
        return FleetReport(
            offered,
            sum(report.accuracy_sum for report in reports) / offered,
            sum(report.in_time for report in reports) / offered,
            self._replica_ns / end_ns,
            self._most,
        )

    def _balance(self, request_id: int, arrival: Arrival) -> None:
        ready = [r for r in self._replicas if r.ready_ns <= self._events.now_ns and not r.leaving]
        drawn = self._rng.sample(ready, min(2, len(ready)))
        min(drawn, key=lambda replica: replica.in_service).take(request_id, arrival)

    def _scale(self) -> None:
        now_ns = self._events.now_ns
        for replica in [r for r in self._replicas if r.leaving and not r.in_service]:
            self._replicas.remove(replica)
            self._gone.append(replica)
            self._replica_ns += now_ns - replica.asked_ns
        staying = [replica for replica in self._replicas if not replica.leaving]
        looks = [replica.look(self._timing) for replica in staying if replica.ready_ns < now_ns]
        ready: Mapping[str, list[float]] = {name: [look[name] for look in looks] for name in SIGNALS}
        wanted = self._scaler.wish(len(staying), ready, now_ns)
        ready_ns = now_ns + int(self._timing.start_s * NS_PER_S)
        for _ in range(wanted - len(staying)):
            self._replicas.append(Replica(self._events, self._build(), self._workers, ready_ns))
        for replica in staying[wanted:]:  # the youngest go first
            replica.leaving = True
        self._most = max(self._most, len(self._replicas))
