"""What one request costs the scheduler, from the door to the end of its run: the event loop does this for each.

In turn one request arrives and one run ends, so that as many others are always inside, and the scheduler is asked in
the engine's order. Thread time of each call. Judges cost only, never the decisions.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.report import table
from benchmarks.scores import Percentiles
from service.core.batch_planner import BatchPlanner, PlannerSettings
from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator
from service.core.request import DEFAULT_POLICY, QueuedRequest, RoutingPolicy
from service.core.scheduler import Action, Dispatch, Scheduler, SchedulerSettings
from tests.simulation.arrivals import log_uniform_budget_ns
from tests.simulation.machines import MACHINES

MENU = "cpu-lite"
INSIDE = (1, 2, 4, 16)
STEPS = ("infeasible", "expect", "likely_variants", "idle_choice", "submit", "worker_idle")
NS_PER_MS = 1_000_000
_WARM_UP = 50
_SIDE_CORE_NS = 3 * NS_PER_MS
"""What decoding and transport of a photograph take beside its run."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class RequestCost:
    """Microseconds of thread time: the median of each step, and percentiles of their sum, over `requests` requests."""

    inside: int
    pinned: bool
    requests: int
    by_step_us: dict[str, float]
    p50_us: float
    p99_us: float


class _Stopwatch:
    """Thread time by name of a step; one list entry a request."""

    def __init__(self) -> None:
        self.took_us: dict[str, list[float]] = {step: [] for step in STEPS}

    def time(self, step: str, call: Callable[[], _Answer]) -> _Answer:
        started_ns = time.thread_time_ns()
        answer = call()
        self.took_us[step].append((time.thread_time_ns() - started_ns) / 1000)
        return answer


class _BusyServer:
    """A scheduler whose workers are always on a run, fed as the engine feeds it."""

    def __init__(self, inside: int, policy: RoutingPolicy, seed: str) -> None:
        build, self._workers = MACHINES[MENU]
        self._menu = build()
        planner = BatchPlanner(self._menu, LoadEstimator(self._menu, self._workers), PlannerSettings(8, NS_PER_MS))
        self._scheduler = Scheduler(planner, DeadlineQueue(256), SchedulerSettings(self._workers, 10_000 * NS_PER_MS))
        self._policy, self._rng = policy, random.Random(seed)
        self._queue_ns = (inside + 1) * self._menu.cheapest.latency_ns(1)
        self._busy: list[tuple[int, int]] = []
        self._last_id = self._now_ns = 0
        for _ in range(inside):
            self.arrive(_Stopwatch())

    def arrive(self, watch: _Stopwatch) -> None:
        """One more request, with time for the queue and 10 to 500 ms more. Admitted whatever the door says."""
        scheduler, now_ns, policy = self._scheduler, self._now_ns, self._policy
        self._last_id += 1
        request_id, slack_ns = self._last_id, self._queue_ns + log_uniform_budget_ns(self._rng)
        deadline_ns = now_ns + slack_ns
        watch.time("infeasible", lambda: scheduler.infeasible(deadline_ns, policy, ready_ns=now_ns, now_ns=now_ns))
        watch.time(
            "expect",
            lambda: scheduler.expect(request_id, deadline_ns, policy, ready_ns=now_ns, side_core_ns=_SIDE_CORE_NS),
        )
        watch.time("likely_variants", lambda: scheduler.likely_variants(slack_ns, policy, now_ns))
        watch.time("idle_choice", lambda: scheduler.idle_choice(slack_ns, policy))
        request = QueuedRequest(request_id, now_ns, deadline_ns, policy)
        self._note(watch.time("submit", lambda: scheduler.submit(request, now_ns)))

    def end_run(self, watch: _Stopwatch) -> None:
        """The run that ends first does so, give or take a few percent of its time."""
        self._busy.sort()
        ends_ns, worker = self._busy.pop(0)
        now_ns = self._now_ns = max(self._now_ns, ends_ns)
        self._note(watch.time("worker_idle", lambda: self._scheduler.worker_idle(worker, now_ns)))

    def _note(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Dispatch):
                took_ns = round(action.plan.latency_ns * self._rng.uniform(0.9, 1.02))
                self._busy.append((self._now_ns + took_ns, action.workers[0]))


def measure(inside: int, *, pinned: bool, requests: int, seed: int = 0) -> RequestCost:
    """Time each step of `requests` requests beside `inside` others."""
    policy = RoutingPolicy(variant=MACHINES[MENU][0]().cheapest.variant.name) if pinned else DEFAULT_POLICY
    server, watch = _BusyServer(inside, policy, f"{inside} {pinned} {seed}"), _Stopwatch()
    gc.collect()
    gc.disable()
    try:
        for number in range(_WARM_UP + requests):
            if number == _WARM_UP:
                watch = _Stopwatch()
            server.arrive(watch)
            server.end_run(watch)
    finally:
        gc.enable()
    sums = Percentiles(list(map(sum, zip(*watch.took_us.values(), strict=True))))
    steps = {step: Percentiles(took).at(50) for step, took in watch.took_us.items()}
    return RequestCost(inside, pinned, requests, steps, sums.at(50), sums.at(99))


def section(costs: Sequence[RequestCost]) -> str:
    """The costs as Markdown: a column a step, in the order they are asked."""
    rows = [
        (
            f"{'pinned' if cost.pinned else 'free'}, {cost.inside} others",
            *(f"{cost.by_step_us[step]:.0f}" for step in STEPS),
            f"{cost.p50_us:.0f}",
            f"{cost.p99_us:.0f}",
        )
        for cost in costs
    ]
    header = ("request", *(f"`{step}`" for step in STEPS), "all, median", "all, 99th percentile")
    return (
        "## What one request asks of the scheduler\n\n"
        f"Microseconds of thread time, medians over {costs[0].requests} requests each on the menu {MENU}, while "
        "others are inside, two of them run. A pinned request may take one variant only, at either width. The price "
        "is solved every 50 ms: once in the requests of the 99th percentile, twice where more than three a worker wait."
        f"\n\n{table(header, rows)}\n"
    )
