"""Which (variant, thread width, batch) an idle worker should run next, and for whom. Pure and deterministic.

Called when a worker is idle, so that the choice sees the true slack, the true queue and the true batch (late
binding). Each candidate run gets a net value in top-1 points, and the best one is dispatched:

    sum over the batch of (accuracy - worth of serving that request alone later)
    - price of core time * core time the run takes              load.py: what the cores could earn otherwise
    - accuracy * requests already queued that would be lost      from the queue's own deadlines
    - net worth * arrivals expected to be lost to blocking       load.py: short budgets behind a long run

An arrival's net worth is its accuracy minus the price of the core time it would take, since who is lost leaves that to
others. Idle, price and losses are zero and the most accurate choice that fits wins, as in MDInference's MaxAcc. Under
load the price slides the choice to cheaper variants before deadlines are lost; in overload it is set by the
cheapest variant, and batches that save core time win, as in SuperServe's SlackFit (NSDI'25). A head whose
slack would shrink everyone's batch is skipped when that loses less than it gains, which is Nexus's early drop
(SOSP'19) with a price tag. No candidate is considered that the profile says misses a packed deadline.

Runs are as wide as the load estimate says is usual, unless others would lose by that. A head that needs several
workers at once keeps them: what is served meanwhile must be done by then, as in EASY backfilling (Lifka 1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator
from service.core.menu import Choice, Menu
from service.core.promises import Promised, Promises
from service.core.request import Plan, QueuedRequest, RoutingPolicy
from service.core.shortfall import Shortfall

_OFFSETS = (0, 1, 2, 4, 8, 16)
_TIE = 1e-6
_NEVER_NS = 1 << 62
_SURELY = 1 + 1e-9  # more than what rounding takes away

TARGET_EXPONENT = -0.07


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """Bounds of a plan. `overhead_ns`: from the end of a run until its answers are ready to be written."""

    batch_size_max: int
    overhead_ns: int


@dataclass(frozen=True, slots=True)
class Situation:
    """What the planner is asked about: the queue, the idle workers and when the busy ones should be free.

    `expected`: admitted requests that are being decoded: the queue they will make is known before it is there.
    `promised`: those of them that are due before the head of the queue.
    """

    queue: DeadlineQueue
    now_ns: int
    idle: int
    free_at_ns: tuple[int, ...]
    expected: int = 0
    promised: Sequence[Promised] = ()

    def all_free_at_ns(self) -> list[int]:
        """When each worker is free, rising; the n-th is when n workers are."""
        return sorted([self.now_ns] * self.idle + list(self.free_at_ns))


class _Candidate(NamedTuple):
    """A run that could start now: `size` requests from the queue, after `skipped` that would be given up.

    `batch` is None where the queue is plain: then it is the `size` requests that follow the skipped ones. A tuple,
    since a hundred are made for one plan where batches pay.
    """

    choice: Choice
    size: int
    latency_ns: int
    skipped: int
    batch: tuple[QueuedRequest, ...] | None = None


class BatchPlanner:
    """Plans runs from a menu. Holds no state but the load estimate it is given."""

    def __init__(self, menu: Menu, load: LoadEstimator, settings: PlannerSettings) -> None:
        """See the module for the objective."""
        self.menu = menu
        self.load = load
        self.settings = settings
        self.overhead_ns = settings.overhead_ns
        """What is planned with: the setting, until whoever owns this planner learns better."""
        self._batching = menu.batch_size_max > 1

    def over(self, menu: Menu, overhead_ns: int) -> BatchPlanner:
        """A planner with another menu, which knows the load as this one does; this one must not be used any more."""
        self.load.adopt(menu)
        return BatchPlanner(menu, self.load, replace(self.settings, overhead_ns=overhead_ns))

    def plan(self, situation: Situation) -> Plan | None:
        """The run to start now, or None if no queued request can be served in time by an idle worker."""
        queue, now_ns, cheapest = situation.queue, situation.now_ns, self.menu.cheapest
        waiting = len(queue)
        if not situation.idle or not waiting:
            return None
        price = self.load.price_per_core_ns(now_ns, (waiting - 1 + situation.expected) * cheapest.core_ns_per_image)
        losses = Shortfall(
            queue,
            cheapest,
            now_ns=now_ns,
            overhead_ns=self.overhead_ns,
            idle=situation.idle,
            free_at_ns=situation.free_at_ns,
        )
        candidates = self._worth_trying(situation, price, losses)
        if not candidates:
            return None
        promises = self._promises(situation, price) if situation.promised else None
        best = candidates[0] if len(candidates) == 1 else self._best(candidates, situation, price, losses, promises)
        if promises is not None:
            broken = promises.broken(situation.now_ns + best.latency_ns, best.choice.threads)
            idle_ns = (promises.ready_ns - situation.now_ns) * situation.idle
            if broken > price * idle_ns and self._can_give_way(situation, promises, losses):
                return None
        batch = best.batch or queue.between(best.skipped, best.skipped + best.size)
        return Plan(
            variant=best.choice.variant.name,
            threads=best.choice.threads,
            request_ids=tuple([request.request_id for request in batch]),
            latency_ns=best.latency_ns,
        )

    def _promises(self, situation: Situation, price: float) -> Promises:
        return Promises(
            situation.promised,
            self.menu,
            price=price,
            now_ns=situation.now_ns,
            overhead_ns=self.overhead_ns,
            free_at_ns=situation.all_free_at_ns(),
        )

    def _can_give_way(self, situation: Situation, promises: Promises, losses: Shortfall) -> bool:
        """Whether the queue can wait until the promises due before it are kept, at nobody's cost."""
        head = situation.queue[0]
        ends_ns = promises.kept_by_ns
        in_time = ends_ns + self.menu.fastest_ns(head.policy) + self.overhead_ns <= head.deadline_ns
        return in_time and losses.after(ends_ns, 1, 0) <= 0.0

    def _worth_trying(self, situation: Situation, price: float, losses: Shortfall) -> list[_Candidate]:
        """The runs that could start now, less those that two rules of order exclude where that costs nobody anything.

        Of the usual width, where no more wait than there are servers of that width. And nobody is given up for a
        larger batch while serving everybody in turn loses nobody, unless the queue fills batches anyhow.
        """
        queue, width = situation.queue, self.load.width or 1
        few = width > 1 and len(queue) * width <= situation.idle + len(situation.free_at_ns)
        in_turn_first = self._batching and queue.is_plain and len(queue) <= 2 * self.menu.batch_size_max
        if not self._batching or not queue.is_plain:
            candidates = self._of_the_head(situation)
        elif few or not in_turn_first:
            candidates = self._plain_batches(situation, _OFFSETS)
        else:
            candidates = self._plain_batches(situation, _OFFSETS[:1])
            # The least accurate in the largest batch costs others the least.
            if not any(self._costs_nobody(candidate, situation, losses) for candidate in reversed(candidates)):
                candidates += self._plain_batches(situation, _OFFSETS[1:])
        candidates = candidates or self._first_that_fits(situation, price)
        if few:
            usual = [candidate for candidate in candidates if candidate.choice.threads == width]
            if not usual and self._can_wait(situation, width, losses):
                return []
            free = [candidate for candidate in usual if self._costs_nobody(candidate, situation, losses)]
            candidates = free or candidates
            if in_turn_first:
                in_turn = [candidate for candidate in candidates if not candidate.skipped]
                if any(self._costs_nobody(candidate, situation, losses) for candidate in in_turn):
                    return in_turn
        return candidates

    def _costs_nobody(self, candidate: _Candidate, situation: Situation, losses: Shortfall) -> bool:
        """Whether the run costs no queued request."""
        choice, size, latency_ns, skipped, _ = candidate
        return losses.after(situation.now_ns + latency_ns, choice.threads, size + skipped) <= 0.0

    def _can_wait(self, situation: Situation, width: int, losses: Shortfall) -> bool:
        """Whether the head can wait until `width` workers are free, at nobody's cost."""
        queue = situation.queue
        if width <= situation.idle or not queue.is_plain:
            return False
        free_at_ns = situation.all_free_at_ns()
        if width > len(free_at_ns):
            return False
        ends_ns = free_at_ns[width - 1] + dict(self.menu.fastest_by_width)[width]
        in_time = ends_ns + self.overhead_ns <= queue[0].deadline_ns
        return in_time and losses.after(ends_ns, width, 1) <= 0.0

    def _best(
        self,
        candidates: list[_Candidate],
        situation: Situation,
        price: float,
        losses: Shortfall,
        promises: Promises | None,
    ) -> _Candidate:
        """The candidate of the highest net value.

        What a run would cost others is dear to compute and never negative, so candidates are taken in the order of
        their value without it, until no further one can win.
        """
        ranked = _undominated(self._gains(candidates, situation, price), candidates)
        if len(ranked) == 1:
            return ranked[0][1]
        arrivals_worth = self._arrivals_worth(price)
        best, best_key = ranked[0][1], (-math.inf, -math.inf, -math.inf)
        for gain, candidate in ranked:
            if gain < (best_key[0] - 1.0) * _TIE:
                break
            ends_ns, taken = situation.now_ns + candidate.latency_ns, candidate.size + candidate.skipped
            lost = losses.after(ends_ns, candidate.choice.threads, taken)
            if promises is not None:
                lost += promises.broken(ends_ns, candidate.choice.threads)
            # What more it may cost without being out of question: beyond that the dear look ahead need not be taken.
            bearable = gain - lost - (best_key[0] - 1.0) * _TIE
            if bearable < 0.0:
                continue
            if arrivals_worth > _TIE:
                lost += arrivals_worth * self._arrivals_lost(candidate, situation, bearable / arrivals_worth * _SURELY)
            value = gain - lost
            # Among equals, the least core time per image if others wait, else the fastest.
            cost = candidate.latency_ns * candidate.choice.threads
            spent = cost / candidate.size if len(situation.queue) > 1 else float(candidate.latency_ns)
            key = (float(round(value / _TIE)), -spent, candidate.choice.accuracy)
            if key > best_key:
                best, best_key = candidate, key
        return best

    def _gains(self, candidates: list[_Candidate], situation: Situation, price: float) -> list[float]:
        """What each run earns beyond serving its requests one by one later, minus the price of its core time."""
        menu, now_ns = self.menu, situation.now_ns
        if candidates[0].batch is None:
            given_up = menu.cheapest.accuracy
            alone = max([choice.accuracy - price * choice.alone_ns * choice.threads for choice in menu.choices])
            return [
                size * (choice.accuracy - alone) - price * latency_ns * choice.threads - skipped * given_up
                for choice, size, latency_ns, skipped, _ in candidates
            ]
        worth = _WorthAlone(menu, price)
        gains = []
        for choice, _, latency_ns, _, batch in candidates:
            requests = batch or ()
            earned = sum([value_of(request, choice.accuracy, now_ns + latency_ns) for request in requests])
            gains.append(earned - worth.of(requests, now_ns) - price * latency_ns * choice.threads)
        return gains

    def _arrivals_worth(self, price: float) -> float:
        """What those expected to arrive are worth beyond the price, as a share of the cheapest choice's accuracy.

        In a flood that is nothing: some are lost anyway, and it only matters how many are served.
        """
        cheapest = self.menu.cheapest
        return 1.0 - price * cheapest.core_ns_per_image / cheapest.accuracy

    def _arrivals_lost(self, candidate: _Candidate, situation: Situation, enough: float) -> float:
        """What is lost among those expected to arrive, if this run starts now; exactly where it is below `enough`."""
        threads, taken = candidate.choice.threads, candidate.size + candidate.skipped
        free_after = [0] * (situation.idle - threads) + [candidate.latency_ns] * threads
        free_after += [at_ns - situation.now_ns for at_ns in situation.free_at_ns]
        free_after.sort()
        backlog = (len(situation.queue) - taken + situation.expected) * self.menu.cheapest.core_ns_per_image
        return self.load.future_loss(free_after, backlog, situation.now_ns, enough)

    def likely_variants(self, slack_ns: int, policy: RoutingPolicy, waiting: int, now_ns: int) -> set[str]:
        """The variants that a request with `slack_ns` left for its run may be served by, behind `waiting` others.

        None that is better than the one worth most at the price in force: only a sudden calm would choose it.
        """
        allowed = self.menu.allowed(policy)
        fitting = [choice for choice in allowed if choice.alone_ns <= slack_ns] or allowed
        if policy.target_ns is None:
            price = self.load.price_per_core_ns(now_ns, waiting * self.menu.cheapest.core_ns_per_image)
            net = [choice.accuracy - price * choice.core_ns_per_image for choice in fitting]
            best = fitting[net.index(max(net))]  # among equals the first: the more accurate
            fitting = [choice for choice in fitting if choice.accuracy <= best.accuracy]
        return {choice.variant.name for choice in fitting}

    def plan_late(self, request: QueuedRequest, idle: int) -> Plan | None:
        """The fastest run for one request that cannot make its deadline any more but wants its answer."""
        fitting = [choice for choice in self.menu.allowed(request.policy) if choice.threads <= idle]
        if not fitting:
            return None
        choice = min(fitting, key=lambda c: c.alone_ns)
        return Plan(choice.variant.name, choice.threads, (request.request_id,), choice.alone_ns)

    def _of_the_head(self, situation: Situation) -> list[_Candidate]:
        """Runs that start with the head of the queue."""
        queue, idle = situation.queue, situation.idle
        head = queue[0]
        slack_ns = head.deadline_ns - situation.now_ns - self.overhead_ns
        allowed = self.menu.choices if queue.is_plain else self.menu.allowed(head.policy)
        fitting = [choice for choice in allowed if choice.alone_ns <= slack_ns and choice.threads <= idle]
        if queue.is_plain:
            return [_Candidate(choice, 1, choice.alone_ns, 0) for choice in fitting]
        return [found for choice in fitting for found in self._batches(situation, choice)]

    def _plain_batches(self, situation: Situation, offsets: Sequence[int]) -> list[_Candidate]:
        """Batches of a plain queue that start at these places; those before are given up."""
        queue, earliest_ns, waiting = situation.queue, situation.now_ns + self.overhead_ns, len(situation.queue)
        usable = [choice for choice in self.menu.choices if choice.threads <= situation.idle]
        return [
            _Candidate(choice, size, choice.latency_ns(size), offset)
            for offset, due_ns in zip(offsets, queue.due_at(offsets), strict=False)
            for choice in usable
            if choice.alone_ns <= due_ns - earliest_ns
            for size in self._plain_sizes(choice, waiting - offset, due_ns - earliest_ns)
        ]

    def _plain_sizes(self, choice: Choice, waiting: int, slack_ns: int) -> tuple[int, ...]:
        """The largest batch that the first one's slack allows, half of it, and one. The queue is in deadline order."""
        size = min(choice.batch_sizes[-1], self.settings.batch_size_max, waiting)
        if size > 1:
            size = min(size, choice.batch_size_max(slack_ns))
        return (1, (size + 1) // 2, size) if size > 2 else (1, 2)[: max(1, size)]

    def _first_that_fits(self, situation: Situation, price: float) -> list[_Candidate]:
        """When the head waits for a variant or width that is not to be had now, serve the next that can be.

        What the head waits for stays its own: it was promised at the door.
        """
        queue, earliest_ns = situation.queue, situation.now_ns + self.overhead_ns
        start = 0
        if queue.is_plain:
            usable = [alone_ns for threads, alone_ns in self.menu.fastest_by_width if threads <= situation.idle]
            start = queue.count_due_by(earliest_ns + min(usable) - 1) if usable else len(queue)
        reserved = self._reserved(situation, price)
        for position in range(start, len(queue)):
            request = queue[position]
            found = [
                _Candidate(choice, 1, choice.alone_ns, 0, (request,))
                for choice in self.menu.allowed(request.policy)
                if choice.threads <= situation.idle
                and earliest_ns + choice.alone_ns <= request.deadline_ns
                and _leaves(situation, choice, reserved)
            ]
            if found:
                return found
        return []

    def _reserved(self, situation: Situation, price: float) -> list[tuple[int, int]]:
        """The ways to serve a plain head that waits for several workers: (workers, last moment to start).

        Empty if there is none any more, or if keeping workers idle until then costs more than the head is worth.
        """
        if not situation.queue.is_plain:
            return []
        free_at_ns = situation.all_free_at_ns()
        done_ns = situation.queue[0].deadline_ns - self.overhead_ns
        found = []
        for threads, latency_ns in self.menu.fastest_by_width:
            if situation.idle < threads <= len(free_at_ns) and free_at_ns[threads - 1] + latency_ns <= done_ns:
                idle_ns = situation.idle * (free_at_ns[threads - 1] - situation.now_ns)
                if price * (threads * latency_ns + idle_ns) <= self.menu.cheapest.accuracy:
                    found.append((threads, done_ns - latency_ns))
        return found

    def _batches(self, situation: Situation, choice: Choice) -> list[_Candidate]:
        """Batches of `choice` that start with the head of the queue, one per batch size worth planning."""
        size_max = min(choice.batch_sizes[-1], self.settings.batch_size_max, len(situation.queue))
        packed: list[QueuedRequest] = []
        found: list[_Candidate] = []
        earliest_ns = situation.queue[0].deadline_ns
        for position, request in enumerate(situation.queue):
            if packed and not self._admits(request, choice):
                if position > 4 * size_max:
                    break
                continue
            earliest_ns = min(earliest_ns, request.deadline_ns)
            latency_ns = choice.latency_ns(len(packed) + 1)
            if situation.now_ns + latency_ns + self.overhead_ns > earliest_ns:
                break
            packed.append(request)
            size = len(packed)
            if size in choice.batch_sizes or size == size_max:
                found.append(_Candidate(choice, size, latency_ns, 0, tuple(packed)))
            if size == size_max:
                break
        return found

    def _admits(self, request: QueuedRequest, choice: Choice) -> bool:
        policy = request.policy
        if policy.variant is None and policy.min_accuracy is None:
            return True
        return choice in self.menu.allowed(policy)


def _leaves(situation: Situation, choice: Choice, reserved: list[tuple[int, int]]) -> bool:
    """Whether one of the `reserved` starts can still be kept if a run of `choice` starts now."""
    if not reserved:
        return True
    busy_until_ns = [situation.now_ns + choice.alone_ns] * choice.threads
    idle = [situation.now_ns] * (situation.idle - choice.threads)
    free_at_ns = sorted([*busy_until_ns, *idle, *situation.free_at_ns])
    return any(free_at_ns[threads - 1] <= start_ns for threads, start_ns in reserved)


def _undominated(gains: list[float], candidates: list[_Candidate]) -> list[tuple[float, _Candidate]]:
    """What could still win once its cost to others is known: gains and candidates, highest gain first.

    That cost only grows with the end of a run, all else equal: of runs of the same size, width and place in the
    queue, one that gains less than another and ends no sooner cannot win. Under load this leaves one run per width,
    and the dear look into the future is not taken at all where only one fits.
    """
    ranked = [
        (-gain, candidate.latency_ns, -candidate.choice.accuracy, place)
        for place, (gain, candidate) in enumerate(zip(gains, candidates, strict=True))
    ]
    ranked.sort()
    soonest: dict[tuple[int, int, int], int] = {}
    kept = []
    for loss, latency_ns, _, place in ranked:
        candidate = candidates[place]
        kind = (candidate.choice.threads, candidate.size, candidate.skipped)
        if latency_ns < soonest.get(kind, _NEVER_NS):
            soonest[kind] = latency_ns
            kept.append((-loss, candidate))
    return kept


class _WorthAlone:
    """What each request would earn if it were served by itself later, at the going price of core time.

    Subtracting it makes batches of different sizes comparable: what is not in the batch is not lost.
    """

    def __init__(self, menu: Menu, price: float) -> None:
        self.price = price
        self._menu = menu
        self._by_policy: dict[tuple[str | None, float | None], float] = {}

    def of(self, batch: tuple[QueuedRequest, ...], now_ns: int) -> float:
        """The sum over `batch`, in top-1 points."""
        return sum(
            self._one(request.policy) if request.policy.target_ns is None else self._with_target(request, now_ns)
            for request in batch
        )

    def _one(self, policy: RoutingPolicy) -> float:
        key = (policy.variant, policy.min_accuracy)
        found = self._by_policy.get(key)
        if found is None:
            allowed = self._menu.allowed(policy)
            found = max([c.accuracy - self.price * c.alone_ns * c.threads for c in allowed])
            self._by_policy[key] = found
        return found

    def _with_target(self, request: QueuedRequest, now_ns: int) -> float:
        return max(
            value_of(request, c.accuracy, now_ns + c.alone_ns) - self.price * c.alone_ns * c.threads
            for c in self._menu.allowed(request.policy)
        )


def value_of(request: QueuedRequest, accuracy: float, ends_ns: int) -> float:
    """What an answer of `accuracy` at `ends_ns` is worth to its caller, in top-1 points.

    With a soft target, accuracy * (latency / target) ** -0.07: the objective by which the paper searched its
    baseline (Tan and Le 2019, section 3.3; w from MnasNet), on measured latency from received to answered.
    """
    target_ns = request.policy.target_ns
    if target_ns is None:
        return accuracy
    return float(accuracy * (max(1, ends_ns - request.received_ns) / target_ns) ** TARGET_EXPONENT)
