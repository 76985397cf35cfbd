"""How busy the machine is about to be: arrival rate, budgets seen, and the price of core time they imply.

Three numbers let the planner anticipate instead of react:

* the arrival rate, an exponentially decayed count;
* the price of a core-nanosecond, in top-1 points: what the cheapest use it will be put to is worth. It is the
  Lagrange multiplier of the capacity constraint in "maximise accuracy, subject to the work offered fitting the
  cores", solved over a sample of recent budgets. Zero while even the most accurate choices fit. Serving each
  request the choice that maximises accuracy minus price times core time is bid-price control (Talluri and
  van Ryzin, The Theory and Practice of Revenue Management, 2004, chapter 3), here for time instead of seats;
* the loss by blocking: the accuracy that requests with short budgets are expected to lose when they arrive
  while every worker is busy for a given time.

Deterministic: the same observations give the same numbers. Reads no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from service.core.arrival_rate import ArrivalRate
from service.core.menu import Menu
from service.core.request import DEFAULT_POLICY

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How quickly the estimate follows the traffic, and how full it lets the cores get.

    `window_ns`: time constant of the arrival rate. `budgets_max`: how many recent budgets stand for the mix.
    `utilisation_max`: the share of core time the price leaves offered work to fill; the rest absorbs bursts.
    `refresh_ns`: how long a solved price is kept. `prior_ns`: quiet time assumed before the first arrival, so that
    the first two of a burst are not read as a rate. `credit_max_ns`: core time, per worker, that can be saved up.
    `decode_core_ns`: core time each request takes from the workers before its run.
    """

    window_ns: int = NS_PER_S
    budgets_max: int = 128
    utilisation_max: float = 0.9
    refresh_ns: int = 20_000_000
    prior_ns: int = 50_000_000
    credit_max_ns: int = 100_000_000
    decode_core_ns: int = 0


DEFAULT_SETTINGS = LoadSettings()


class LoadEstimator:
    """Learns from arrivals and runs; answers with a price and a blocking loss."""

    def __init__(self, menu: Menu, workers: int, settings: LoadSettings = DEFAULT_SETTINGS) -> None:
        """Nothing seen yet: core time is free."""
        self.menu = menu
        self.workers = workers
        self.settings = settings
        self._rate = ArrivalRate(settings.window_ns, settings.prior_ns)
        self._budgets: deque[int] = deque(maxlen=settings.budgets_max)
        self._sorted_budgets: list[int] = []
        self._prices = (0.0, 0.0)
        self._solved_at_ns: int | None = None
        self._credit_ns = 0.0
        self._credited_at_ns = 0

    def observe(self, budget_ns: int, now_ns: int) -> None:
        """Count one arrival that has `budget_ns` left for queue and run."""
        self._rate.arrival(now_ns)
        self._budgets.append(budget_ns)

    def running(self, now_ns: int, *, anything: bool) -> None:
        """From `now_ns` on a run is in progress, or none is any more."""
        self._rate.running(now_ns, anything=anything)

    def arrivals_per_ns(self, now_ns: int) -> float:
        """Recent arrivals per nanosecond."""
        return self._rate.per_ns(now_ns)

    def price_per_core_ns(self, now_ns: int, backlog_core_ns: float = 0.0) -> float:
        """Top-1 points that a core-nanosecond is worth right now; 0.0 while capacity is plentiful.

        The solved price jumps where many requests change their choice at once: just above it they leave cores
        idle, just below it they want more than there is. Which side applies is decided by credit, the usable
        core time that has passed minus what runs took: the cheaper side while credit exceeds `backlog_core_ns`,
        what is waiting already. Over time that mixes both sides in the proportion that fills the cores, and
        gives the better choices to requests that find the queue short.
        """
        if self._solved_at_ns is None or now_ns - self._solved_at_ns >= self.settings.refresh_ns:
            self._sorted_budgets = sorted(self._budgets)
            self._prices = self._solve(self.arrivals_per_ns(now_ns))
            self._solved_at_ns = now_ns
        below, above = self._prices
        return below if self._credit(now_ns) > backlog_core_ns else above

    def spend(self, core_ns: int, now_ns: int) -> None:
        """A run that takes `core_ns` was dispatched."""
        self._credit_ns = self._credit(now_ns) - core_ns
        self._credited_at_ns = now_ns

    def _credit(self, now_ns: int) -> float:
        earned_ns = (now_ns - self._credited_at_ns) * self.workers * self.settings.utilisation_max
        limit_ns = self.settings.credit_max_ns * self.workers
        return max(-limit_ns, min(self._credit_ns + earned_ns, limit_ns))

    def blocking_loss(self, busy_ns: int, now_ns: int) -> float:
        """Top-1 points expected to be lost to arrivals that find every worker busy for `busy_ns` more.

        An arrival at time t into the block with budget b is lost when busy_ns - t + fastest > b; the mean over
        the budget sample of how much of the block is such a t, times rate, times what the arrival is worth.
        """
        budgets = self._sorted_budgets
        if busy_ns <= 0 or not budgets:
            return 0.0
        cheapest = self.menu.cheapest
        horizon_ns = busy_ns + cheapest.latency_ns(1)
        lost_ns = 0
        for budget in budgets[: bisect_left(budgets, horizon_ns)]:
            lost_ns += min(busy_ns, horizon_ns - budget)
        return self.arrivals_per_ns(now_ns) * lost_ns / len(budgets) * cheapest.accuracy

    def _solve(self, arrivals_per_ns: float) -> tuple[float, float]:
        """The lowest price at which the work offered per nanosecond fits the cores, after the one just below."""
        if not self._sorted_budgets:
            return (0.0, 0.0)
        usable = self.workers * self.settings.utilisation_max - arrivals_per_ns * self.settings.decode_core_ns
        options = self._options()
        sample = self._sorted_budgets[:: max(1, len(self._sorted_budgets) // 16)]
        limits = [[o for o in options if o[2] <= budget] or [options[-1]] for budget in sample]
        below = 0.0
        for price in self._steps(options):
            demand = 0.0
            for allowed in limits:
                demand += max(allowed, key=lambda o: (o[0] - price * o[1], -o[1]))[1]
            if arrivals_per_ns * demand / len(limits) <= usable:
                return (below, price)
            below = price
        cheapest = options[-1]
        return (cheapest[0] / cheapest[1],) * 2

    def _options(self) -> list[tuple[float, float, int]]:
        """(accuracy, core ns per image, single-image latency) of each choice, most accurate first."""
        allowed = self.menu.allowed(DEFAULT_POLICY)
        options = [(c.accuracy, c.core_ns_per_image, c.latency_ns(1)) for c in allowed]
        return sorted(options, key=lambda o: -o[1])

    @staticmethod
    def _steps(options: list[tuple[float, float, int]]) -> list[float]:
        """Prices at which some pair of choices changes order, rising from 0: demand only changes there."""
        steps = {0.0}
        for accuracy, cost, _ in options:
            for other_accuracy, other_cost, _ in options:
                if cost > other_cost and accuracy > other_accuracy:
                    steps.add((accuracy - other_accuracy) / (cost - other_cost) * (1 + 1e-9))
        return sorted(steps)
