"""How busy the machine is about to be, learned from arrivals and runs, so that the planner anticipates.

Answers two questions: what core time is worth now (`capacity_price.py` solves that, this file mixes its two prices),
and what accuracy arrivals are expected to lose if workers are busy until given times. Deterministic: the same
observations give the same answers. Reads no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from service.core.arrival_rate import ArrivalRate
from service.core.capacity_price import IDLE, best_operation
from service.core.menu import Menu

NS_PER_S = 1_000_000_000
_FUTURE_STEPS = 8
_SAMPLE = 16
_SIDE_COST_WEIGHT = 1 / 32


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How quickly the estimate follows the traffic.

    `window_ns`: time constant of the arrival rate. `prior_ns`: quiet time assumed before the first arrival, so that
    the first two of a burst are not read as a rate. `budgets_max`: how many recent budgets stand for the mix.
    `refresh_ns`: how long a solved price is kept. `credit_max_ns`: core time, per worker, that can be saved up.
    """

    window_ns: int = 500_000_000
    prior_ns: int = 50_000_000
    budgets_max: int = 128
    refresh_ns: int = 50_000_000
    credit_max_ns: int = 100_000_000


DEFAULT_SETTINGS = LoadSettings()


class LoadEstimator:
    """Learns from arrivals and runs; answers with a price and an expected loss."""

    def __init__(self, menu: Menu, workers: int, settings: LoadSettings = DEFAULT_SETTINGS) -> None:
        """Nothing seen yet: core time is free."""
        self.menu = menu
        self.workers = workers
        self.settings = settings
        self._rate = ArrivalRate(settings.window_ns, settings.prior_ns)
        self._budgets: deque[int] = deque(maxlen=settings.budgets_max)
        self._sorted_budgets: list[int] = []
        self._side_core_ns = 0.0
        self._operation = IDLE
        self._solved_at_ns: int | None = None
        self._credit_ns = 0.0
        self._credited_at_ns = 0

    def observe(self, budget_ns: int, now_ns: int) -> None:
        """Count one arrival that has `budget_ns` left for queue and run."""
        self._rate.arrival(now_ns)
        self._budgets.append(budget_ns)

    def observe_side_cost(self, core_ns: int) -> None:
        """A request will take `core_ns` of the workers' cores outside its run."""
        self._side_core_ns += (core_ns - self._side_core_ns) * _SIDE_COST_WEIGHT

    def running(self, now_ns: int, *, anything: bool) -> None:
        """From `now_ns` on a run is in progress, or none is any more."""
        self._rate.running(now_ns, anything=anything)

    def spend(self, core_ns: int, now_ns: int) -> None:
        """A run that takes `core_ns` was dispatched."""
        self._credit_ns = self._credit(now_ns) - core_ns
        self._credited_at_ns = now_ns

    def arrivals_per_ns(self, now_ns: int) -> float:
        """Recent arrivals per nanosecond."""
        return self._rate.per_ns(now_ns)

    def price_per_core_ns(self, now_ns: int, backlog_core_ns: float = 0.0) -> float:
        """Top-1 points that a core-nanosecond is worth right now; 0.0 while capacity is plentiful.

        Which of the working point's two prices applies is decided by credit, the core time that should have been
        used by now minus what runs took: the lower price while credit exceeds `backlog_core_ns`, what is waiting
        already. Over time that mixes both in the proportion that meets the utilisation, and gives the better choices
        to requests that find the queue short.
        """
        if self._solved_at_ns is None or now_ns - self._solved_at_ns >= self.settings.refresh_ns:
            self._sorted_budgets = sorted(self._budgets)
            self._operation = best_operation(
                self.menu,
                self._sorted_budgets[:: max(1, len(self._sorted_budgets) // _SAMPLE)],
                workers=self.workers,
                arrivals_per_ns=self.arrivals_per_ns(now_ns),
                side_core_ns=self._side_core_ns,
            )
            self._solved_at_ns = now_ns
        operation = self._operation
        return operation.below if self._credit(now_ns) > backlog_core_ns else operation.above

    def _credit(self, now_ns: int) -> float:
        earned_ns = (now_ns - self._credited_at_ns) * self.workers * self._operation.utilisation
        limit_ns = self.settings.credit_max_ns * self.workers
        return max(-limit_ns, min(self._credit_ns + earned_ns, limit_ns))

    def future_loss(self, free_after_ns: Sequence[int], backlog_core_ns: float, now_ns: int) -> float:
        """Top-1 points expected to be lost to arrivals until the cores have caught up.

        `free_after_ns`: for each worker, nanoseconds until it is free (0: idle), rising. `backlog_core_ns`: core time
        that what is queued will take. Work arrives at the estimated rate times the cheapest choice's cost, and each
        free worker does a nanosecond of it in a nanosecond. An arrival whose budget is shorter than its wait plus the
        cheapest run is lost; the share of recent budgets that are so short, times rate, is summed until nothing is
        left waiting.
        """
        budgets = self._sorted_budgets
        rate = self.arrivals_per_ns(now_ns)
        if not budgets or rate <= 0.0:
            return 0.0
        cheapest = self.menu.cheapest
        cost, fastest_ns = cheapest.core_ns_per_image, cheapest.latency_ns(1)
        hopeless = bisect_left(budgets, fastest_ns)
        step_ns = max(free_after_ns[-1] / _FUTURE_STEPS, fastest_ns / 4)
        lost, at_ns, backlog = 0.0, step_ns / 2, backlog_core_ns
        for _ in range(4 * _FUTURE_STEPS):
            free = bisect_right(free_after_ns, at_ns)
            if free == len(free_after_ns) and backlog <= 0.0:
                break
            wait_ns, chance = self._wait(free_after_ns, free, at_ns, backlog, rate * fastest_ns)
            short = bisect_left(budgets, wait_ns + fastest_ns)
            if backlog > 0.0:
                # The earliest deadline goes first: only the part of the backlog that is due sooner is in the way.
                ahead_ns = backlog * short / len(budgets) / max(1, free)
                short = bisect_left(budgets, wait_ns + ahead_ns + fastest_ns)
            lost += chance * (short - hopeless)
            backlog = max(0.0, backlog + (rate * cost - free) * step_ns)
            at_ns += step_ns
        return rate * step_ns * lost / len(budgets) * cheapest.accuracy

    def _wait(
        self, free_after_ns: Sequence[int], free: int, at_ns: float, backlog: float, offered: float
    ) -> tuple[float, float]:
        """An urgent arrival's wait for a worker at `at_ns`, and the chance that it must wait at all.

        With no worker free, until the first is. With a backlog, workers are on short runs: the first of `free` to end
        one. Otherwise a worker is idle, unless `free` arrivals (Poisson, `offered` expected in a run) have come first.
        """
        fastest_ns = self.menu.cheapest.latency_ns(1)
        if free == 0:
            return free_after_ns[0] - at_ns, 1.0
        residual_ns = fastest_ns / (free + 1)
        if backlog > 0.0:
            return residual_ns, 1.0
        return min(free_after_ns[free] - at_ns, residual_ns), _poisson_tail(offered, free)


def _poisson_tail(mean: float, at_least: int) -> float:
    """Probability that a Poisson variable of this mean is `at_least` or more."""
    below, term = 0.0, math.exp(-mean)
    for count in range(at_least):
        below += term
        term *= mean / (count + 1)
    return max(0.0, 1.0 - below)
