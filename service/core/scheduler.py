"""The state machine of phiserve: requests in, actions out. Sans-I/O, synchronous, on nobody's clock.

Verbs: enqueue, shed (cannot make its deadline), plan, dispatch, settle. Every method takes `now_ns` and
returns the actions its caller must perform, in order. `engine.py` performs them in production; simulations
and property tests drive this same class on a fake clock.

Kept here, whatever the order of events: each request settles exactly once; a worker is given one plan at a
time; no plan is dispatched that is predicted to miss a packed deadline (late answers that were asked for
aside); a cancelled request never touches its batch-mates; a deadline is enforced by a timer, not by the next
batch formation.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum

from service.core.admission import Admission, Infeasible
from service.core.batch_planner import BatchPlanner, Situation
from service.core.deadline_queue import DeadlineQueue
from service.core.delivery import Delivery
from service.core.drift import LatencyModel
from service.core.menu import Menu
from service.core.request import OnMiss, Plan, QueuedRequest, RoutingPolicy


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OVERLOADED = "overloaded"
    CANCELLED = "cancelled"
    FAILED = "failed"
    NOT_SERVED = "not_served"
    """No variant of a menu that was adopted while it waited is allowed by its policy."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run `plan` on `workers[0]`; the other workers named are the cores that a wider run takes."""

    workers: tuple[int, ...]
    plan: Plan


@dataclass(frozen=True, slots=True)
class Settle:
    """The request is over. `retry_after_ns` says when to come back, where the outcome is OVERLOADED."""

    request_id: int
    outcome: Outcome
    retry_after_ns: int = 0


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `wake` at this time; replaces any earlier wish. None: nothing to wake for."""

    at_ns: int | None


Action = Dispatch | Settle | WakeAt


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Bounds. `late_wait_ns_max`: how long past its deadline an `on_miss=late` request may wait for a run."""

    workers: int
    late_wait_ns_max: int


@dataclass(slots=True)
class _Run:
    workers: tuple[int, ...]
    plan: Plan
    started_ns: int
    free_at_ns: int
    wanted: dict[int, QueuedRequest]
    latencies: LatencyModel


@dataclass(frozen=True, slots=True)
class Pressure:
    """How loaded the scheduler is, for admission at the door and for metrics."""

    queued: int
    late: int
    in_flight: int


class Scheduler:
    """See the module. Owns the queue and the workers' states; owns no pixels, threads or timers."""

    def __init__(self, planner: BatchPlanner, queue: DeadlineQueue, settings: SchedulerSettings) -> None:
        """All workers start idle."""
        self._planner = planner
        self._menu = planner.menu
        self._latencies = LatencyModel(planner.menu)
        self._queue = queue
        self._delivery = Delivery(planner.settings.overhead_ns)
        self._admission = Admission(planner.menu, queue, planner.settings.overhead_ns)
        self._late: dict[int, QueuedRequest] = {}
        self._settings = settings
        self._idle = list(range(settings.workers))
        self._runs: dict[int, _Run] = {}
        self._run_of_request: dict[int, _Run] = {}
        self._timers: list[tuple[int, int]] = []
        self._wake_at_ns: int | None = None

    # What is going on ---------------------------------------------------------------------------------

    @property
    def pressure(self) -> Pressure:
        """Requests waiting in time, waiting late, and being run."""
        return Pressure(len(self._queue), len(self._late), len(self._run_of_request))

    @property
    def wake_at_ns(self) -> int | None:
        """The wish of the last `WakeAt` that was returned; None once `wake` was called for it."""
        return self._wake_at_ns

    @property
    def is_empty(self) -> bool:
        """Whether every submitted request is settled and every worker idle."""
        return not len(self._queue) and not self._late and not self._runs

    def decoding_ahead(self, deadline_ns: int) -> float:
        """What a picture that is due at `deadline_ns` waits for before it is decoded, in decodes of one thread.

        Those due earlier, or the one that is being decoded; and half of one for each busy worker, whose core it shares.
        """
        busy = self._settings.workers - len(self._idle)
        return self._admission.expected_before(deadline_ns) + busy / 2

    def infeasible(self, deadline_ns: int, policy: RoutingPolicy, *, ready_ns: int, now_ns: int) -> Infeasible | None:
        """Why a request may not pass the door, or None; `ready_ns` is when it could be in the queue, decoded."""
        free_at_ns, offered = self._free_at_ns(now_ns), self._offered(now_ns)
        price = self.price_per_core_ns(ready_ns)

        def judge() -> Infeasible | None:
            return self._admission.judge(
                deadline_ns,
                policy,
                now_ns=now_ns,
                ready_ns=ready_ns,
                free_at_ns=free_at_ns,
                price=price,
                offered=offered,
            )

        found = judge()
        if found is not None and not self._runs:
            self.refresh(ready_ns)  # a door that refuses everything must notice that distrust fades
            found = judge()
        if found is not None and self._runs:
            # Whoever is refused because of the load is part of it; else a full door would look like a quiet street.
            self._planner.load.observe(deadline_ns - ready_ns, ready_ns)
        return found

    def enough_ns(self, policy: RoutingPolicy, *, ready_ns: int, now_ns: int) -> int:
        """How long after `ready_ns`, when it is decoded, one that passes the door now should be due, to be in time."""
        free_at_ns, price = self._free_at_ns(now_ns), self.price_per_core_ns(ready_ns)
        return self._admission.enough_ns(
            policy, ready_ns=ready_ns, free_at_ns=free_at_ns, price=price, offered=self._offered(now_ns)
        )

    def _offered(self, now_ns: int) -> float:
        """What arrives of late, as a share of what the workers carry at the cheapest choice."""
        core = self._planner.load.arrivals_per_ns(now_ns) * self._menu.cheapest.core_ns_per_image
        return core / self._settings.workers

    def _free_at_ns(self, now_ns: int) -> list[int]:
        free_at_ns = [now_ns] * len(self._idle)
        for run in self._runs.values():
            free_at_ns.extend([run.free_at_ns] * len(run.workers))
        return free_at_ns

    def promised(self) -> list[RoutingPolicy]:
        """The policies of all who have passed the door and wait for a run."""
        waiting = [request.policy for request in (*self._queue, *self._late.values())]
        return [*self._admission.policies, *waiting]

    def price_per_core_ns(self, now_ns: int) -> float:
        """Top-1 points that a core-nanosecond is worth now; 0.0 while capacity is plentiful."""
        backlog_ns = len(self._queue) * self._menu.cheapest.core_ns_per_image
        return self._planner.load.price_per_core_ns(now_ns, backlog_ns)

    def expect(
        self, request_id: int, deadline_ns: int, policy: RoutingPolicy, *, ready_ns: int, side_core_ns: int = 0
    ) -> None:
        """The request passed the door and should be decoded at `ready_ns`; `submit` or `forget` follows.

        `side_core_ns`: core time it takes outside its run, decoding above all, from the cores that workers use too.
        """
        self._admission.expect(request_id, deadline_ns, policy, ready_ns)
        self._planner.load.observe_side_cost(side_core_ns)

    def forget(self, request_id: int, now_ns: int) -> tuple[Action, ...]:
        """An expected request will not be submitted; somebody may have waited for its sake."""
        self._admission.forget(request_id)
        return self._advance(now_ns)

    def retry_after_ns(self, now_ns: int) -> int:
        """How long the queue as it stands takes to empty at the cheapest choice: when to come back."""
        busy_ns = sum(max(0, run.free_at_ns - now_ns) * len(run.workers) for run in self._runs.values())
        waiting = len(self._queue) + len(self._late) + self._admission.expected
        work_ns = self._admission.work_ns(waiting)
        return int((busy_ns + work_ns) / self._settings.workers)

    # Events ---------------------------------------------------------------------------------------------

    def submit(self, request: QueuedRequest, now_ns: int) -> tuple[Action, ...]:
        """Enqueue a decoded request. Its policy must be one the menu allows (`Menu.allowed` was asked)."""
        self._admission.forget(request.request_id)
        if self._is_full:
            retry_after_ns = self.retry_after_ns(now_ns)
            return (Settle(request.request_id, Outcome.OVERLOADED, retry_after_ns),)
        slack_ns = request.deadline_ns - self._planner.overhead_ns - now_ns
        self._planner.load.observe(slack_ns, now_ns)
        self._queue.push(request)
        heapq.heappush(self._timers, (self._last_start_ns(request), request.request_id))
        return self._advance(now_ns)

    def worker_idle(self, worker: int, now_ns: int, *, failed: bool = False) -> tuple[Action, ...]:
        """The run that was dispatched to `worker` as its first worker is over; `failed` if it raised."""
        run = self._runs.pop(worker)
        self._idle.extend(run.workers)
        self._idle.sort()
        self._planner.load.running(now_ns, anything=bool(self._runs))
        if not failed:
            key = (run.plan.variant, run.plan.threads)
            run.latencies.run_took(key, len(run.plan.request_ids), now_ns - run.started_ns, now_ns)
        settled: list[Action] = []
        for request_id, request in run.wanted.items():
            del self._run_of_request[request_id]
            settled.append(Settle(request_id, self._outcome(request, now_ns, failed=failed)))
        return (*settled, *self._advance(now_ns))

    def delivered(self, took_ns: int, now_ns: int) -> None:
        """An answer was handed over at `now_ns`, `took_ns` after the end of its run. Plans and promises follow it."""
        if self._delivery.took(took_ns, now_ns):
            self._heed_deliveries()

    @property
    def delivery_ns(self) -> int:
        """From the end of a run until its answer is handed over, as it usually is of late."""
        return self._delivery.overhead_ns

    def _heed_deliveries(self) -> None:
        self._planner.overhead_ns = self._admission.overhead_ns = self._delivery.overhead_ns

    def cancel(self, request_id: int, now_ns: int) -> tuple[Action, ...]:
        """The caller of `request_id` left. Frees its place; a run it is part of goes on for its batch-mates."""
        run = self._run_of_request.pop(request_id, None)
        if run is not None:
            del run.wanted[request_id]
        elif self._queue.remove(request_id) is None and self._late.pop(request_id, None) is None:
            return ()
        return (Settle(request_id, Outcome.CANCELLED), *self._advance(now_ns))

    def wake(self, now_ns: int) -> tuple[Action, ...]:
        """The time of the last `WakeAt` has come (an early or extra call does no harm)."""
        self._wake_at_ns = None
        return self._advance(now_ns)

    def adopt(self, menu: Menu, overhead_ns: int, now_ns: int) -> tuple[Action, ...]:
        """Plan with `menu` from now on. What was learned of the load stays, and so does what is queued.

        A run under way goes on, and its end is told as ever. A request whose policy `menu` does not allow is settled;
        one that is expected must not be submitted then.
        """
        self._planner = self._planner.over(menu, overhead_ns)
        self._menu = menu
        self._latencies = self._latencies.over(menu)
        self._latencies.refresh(now_ns)
        self._admission.adopt(menu)
        self._delivery = self._delivery.over(overhead_ns, now_ns)
        self._heed_deliveries()
        waiting = [*self._queue, *self._late.values()]
        gone = [request.request_id for request in waiting if not menu.allows(request.policy)]
        for request_id in gone:
            if self._queue.remove(request_id) is None:
                del self._late[request_id]
        # The last moment to start is another one; what is late keeps its own timer.
        for request in self._queue:
            heapq.heappush(self._timers, (self._last_start_ns(request), request.request_id))
        settled = (Settle(request_id, Outcome.NOT_SERVED) for request_id in gone)
        return (*settled, *self._advance(now_ns))

    # How it advances ------------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        return len(self._queue) + len(self._late) >= self._queue.size_max

    def _last_start_ns(self, request: QueuedRequest) -> int:
        """The last moment a run can start and still make the deadline."""
        return request.deadline_ns - self._planner.overhead_ns - self._menu.fastest_ns(request.policy)

    @staticmethod
    def _outcome(request: QueuedRequest, now_ns: int, *, failed: bool) -> Outcome:
        if failed:
            return Outcome.FAILED
        if request.policy.on_miss is OnMiss.REJECT and now_ns > request.deadline_ns:
            return Outcome.DEADLINE_EXCEEDED
        return Outcome.ANSWERED

    def _advance(self, now_ns: int) -> tuple[Action, ...]:
        actions: list[Action] = []
        actions.extend(self._expire(now_ns))
        actions.extend(self._dispatch(now_ns))
        wake_at_ns = _soonest(self._next_timer_ns(), self._promises_lapse_ns(now_ns))
        if wake_at_ns != self._wake_at_ns:
            self._wake_at_ns = wake_at_ns
            actions.append(WakeAt(wake_at_ns))
        return tuple(actions)

    def _expire(self, now_ns: int) -> list[Action]:
        """Run every timer that is due: shed from the queue, give up on late ones, end overdue waits for runs."""
        actions: list[Action] = []
        while self._timers and self._timers[0][0] < now_ns:
            _, request_id = heapq.heappop(self._timers)
            if request_id in self._queue:
                request = self._queue.remove(request_id)
                assert request is not None
                actions.extend(self._shed(request, now_ns))
            elif request_id in self._late:
                del self._late[request_id]
                actions.append(Settle(request_id, Outcome.DEADLINE_EXCEEDED))
            elif (run := self._run_of_request.get(request_id)) is not None:
                actions.extend(self._overdue(request_id, run, now_ns))
        return actions

    def _shed(self, request: QueuedRequest, now_ns: int) -> list[Action]:
        """Take a request that cannot make its deadline out of everyone's way."""
        last_start_ns = self._last_start_ns(request)
        if last_start_ns >= now_ns:  # its fastest variant got faster since the timer was set
            self._queue.push(request)
            heapq.heappush(self._timers, (last_start_ns, request.request_id))
            return []
        if request.policy.on_miss is OnMiss.LATE:
            self._late[request.request_id] = request
            heapq.heappush(self._timers, (request.deadline_ns + self._settings.late_wait_ns_max, request.request_id))
            return []
        return [Settle(request.request_id, Outcome.DEADLINE_EXCEEDED)]

    def _overdue(self, request_id: int, run: _Run, now_ns: int) -> list[Action]:
        """A run overshoots: its callers get their 504 at the deadline, not when the run is over."""
        request = run.wanted[request_id]
        if request.policy.on_miss is OnMiss.LATE:
            return []
        if now_ns <= request.deadline_ns:
            heapq.heappush(self._timers, (request.deadline_ns, request_id))
            return []
        del run.wanted[request_id]
        del self._run_of_request[request_id]
        return [Settle(request_id, Outcome.DEADLINE_EXCEEDED)]

    def _dispatch(self, now_ns: int) -> list[Action]:
        actions: list[Action] = []
        while self._idle and (len(self._queue) or self._late):
            plan = self._plan(now_ns)
            if plan is None:
                break
            actions.append(self._start(plan, now_ns))
        return actions

    def _plan(self, now_ns: int) -> Plan | None:
        free = [run.free_at_ns for run in self._runs.values() for _ in run.workers]
        free_at_ns = tuple(max(now_ns, at) for at in free)
        promised = self._admission.promised_before(self._queue[0].deadline_ns) if len(self._queue) else ()
        situation = Situation(self._queue, now_ns, len(self._idle), free_at_ns, self._admission.expected, promised)
        plan = self._planner.plan(situation)
        if plan is None and self._late:
            # In time comes first; late answers use what is left, the longest overdue first.
            plan = self._planner.plan_late(next(iter(self._late.values())), len(self._idle))
        return plan

    def _start(self, plan: Plan, now_ns: int) -> Dispatch:
        workers = tuple(self._idle[: plan.threads])
        assert len(workers) == plan.threads, f"plan wants {plan.threads} workers, {len(workers)} are idle"
        del self._idle[: plan.threads]
        run = _Run(workers, plan, now_ns, now_ns + plan.latency_ns, {}, self._latencies)
        for request_id in plan.request_ids:
            request = self._queue.remove(request_id) or self._late.pop(request_id)
            run.wanted[request_id] = request
            self._run_of_request[request_id] = run
            if request.policy.on_miss is OnMiss.REJECT:
                heapq.heappush(self._timers, (request.deadline_ns, request_id))
        self._runs[workers[0]] = run
        self._planner.load.running(now_ns, anything=True)
        self._planner.load.spend(plan.latency_ns * plan.threads, now_ns)
        return Dispatch(workers, plan)

    def _next_timer_ns(self) -> int | None:
        """The next due time; timers of requests that are gone are dropped as they surface."""
        while self._timers:
            at_ns, request_id = self._timers[0]
            if request_id in self._queue or request_id in self._late or request_id in self._run_of_request:
                # Timers fire strictly after their time: a run may start, and a result may come, at the time itself.
                return at_ns + 1
            heapq.heappop(self._timers)
        return None

    def _promises_lapse_ns(self, now_ns: int) -> int | None:
        """When a worker that idles for the sake of promises need not any more, should they not be decoded by then."""
        if not self._idle or not len(self._queue):
            return None
        lapse_ns = [
            promise.deadline_ns - self._planner.overhead_ns - self._menu.fastest_ns(promise.policy) + 1
            for promise in self._admission.promised_before(self._queue[0].deadline_ns)
            if self._menu.allows(promise.policy)
        ]
        return min((at_ns for at_ns in lapse_ns if at_ns > now_ns), default=None)

    def likely_variants(self, slack_ns: int, policy: RoutingPolicy, now_ns: int) -> set[str]:
        """The variants that a request with `slack_ns` left for its run may be served by, at the load there is."""
        waiting = len(self._queue) + self._admission.expected
        return self._planner.likely_variants(slack_ns - self._planner.overhead_ns, policy, waiting, now_ns)

    def refresh(self, now_ns: int) -> None:
        """Forecast by what is known at `now_ns`: distrust of latencies fades while nothing confirms it."""
        self._latencies.refresh(now_ns)
        if self._delivery.refresh(now_ns):
            self._heed_deliveries()

    def idle_choice(self, budget_ns: int, policy: RoutingPolicy) -> str | None:
        """The variant an idle server would use for a request with `budget_ns` left for its run."""
        choice = self._menu.best_within(budget_ns - self._planner.overhead_ns, policy)
        return None if choice is None else choice.variant.name


def _soonest(one_ns: int | None, other_ns: int | None) -> int | None:
    """The earlier of two times, either of which may be never."""
    if one_ns is None or other_ns is None:
        return other_ns if one_ns is None else one_ns
    return min(one_ns, other_ns)
