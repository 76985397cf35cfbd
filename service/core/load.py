"""How busy the machine is about to be, learned from arrivals and runs, so that the planner anticipates.

Answers two questions: what core time is worth now (`capacity_price.py` solves that, this file mixes its two prices and
tells bursts from steady traffic), and what accuracy arrivals are expected to lose if workers are busy until given
times. Deterministic: the same observations give the same answers. Reads no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from service.core.arrival_rate import ArrivalRate
from service.core.capacity_price import IDLE, Operation, best_operation
from service.core.menu import Menu
from service.core.outlook import Outlook

NS_PER_S = 1_000_000_000
_SAMPLE = 16
_SIDE_COST_WEIGHT = 1 / 32

# Runs of the cheapest choice waiting from which on a burst is taken to go on, for one worker: few wait by chance. What
# waits by chance grows with the root of the number of servers (Halfin and Whitt 1981).
_BURST_RUNS = 3 * math.sqrt(2)

# Share of the mean budget within which what waits in a burst must be served: it has waited already.
_BURST_HORIZON = 0.5


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


@dataclass(slots=True)
class _Solution:
    """A working point, and when it must be solved anew."""

    operation: Operation = IDLE
    stale_ns: float = -math.inf


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
        self._usually_waiting = _BURST_RUNS * math.sqrt(workers)
        self._operation = IDLE
        self._steady = _Solution()
        self._burst = _Solution()
        self._credit_ns = 0.0
        self._credited_at_ns = 0

    def adopt(self, menu: Menu) -> None:
        """Reckon with `menu` from now on. Who arrives, and with which budgets, is known already."""
        self.menu = menu
        self._operation, self._steady, self._burst = IDLE, _Solution(), _Solution()

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
        """A run that is predicted to take `core_ns` was dispatched."""
        self._credit_ns = self._credit(now_ns) - core_ns * self.menu.usual_share
        self._credited_at_ns = now_ns

    def arrivals_per_ns(self, now_ns: int) -> float:
        """Recent arrivals per nanosecond of running."""
        return self._rate.per_ns(now_ns)

    def price_per_core_ns(self, now_ns: int, backlog_core_ns: float = 0.0) -> float:
        """Top-1 points that a core-nanosecond is worth right now; 0.0 while capacity is plentiful.

        The working point is that of the traffic over time, or, while `backlog_core_ns` says that a burst is going on,
        that of arrivals while something runs, or of those over time and what waits beyond chance. Which of its two
        prices applies is decided by credit, the core time that should have been used by now minus what runs took: the
        lower price while credit exceeds the backlog, what is waiting already. Over time that mixes both in the
        proportion that meets the utilisation, and gives the better choices to requests that find the queue short.
        """
        if now_ns >= self._steady.stale_ns:
            self._solve(self._steady, now_ns, self._rate.offered_per_ns(now_ns))
        self._operation = self._steady.operation
        credit_ns = self._credit(now_ns)
        waiting = backlog_core_ns / self.menu.cheapest.core_ns_per_image
        unusual = waiting - self._usually_waiting
        if unusual > 0.0:
            if now_ns >= self._burst.stale_ns:
                self._solve(self._burst, now_ns, self._burst_per_ns(unusual, now_ns))
            self._operation = self._burst.operation
        return self._operation.below if credit_ns > backlog_core_ns * self.menu.usual_share else self._operation.above

    def _burst_per_ns(self, unusual: float, now_ns: int) -> float:
        """The rate to reckon with while a burst goes on; `unusual`: runs that wait beyond those that wait by chance.

        Either bursts like those before made them wait, and their rate is known; or the rate over time is out of date,
        and they are what it has missed.
        """
        horizon_ns = _BURST_HORIZON * sum(self._budgets) / max(1, len(self._budgets))
        return max(self._rate.per_ns(now_ns), self._rate.offered_per_ns(now_ns) + unusual / max(1.0, horizon_ns))

    def _solve(self, kept: _Solution, now_ns: int, per_ns: float) -> None:
        """Find the best working point for arrivals at `per_ns`."""
        self._sorted_budgets = sorted(self._budgets)
        usual = self.menu.usual_share
        kept.operation = best_operation(
            self.menu,
            self._sorted_budgets[:: max(1, len(self._sorted_budgets) // _SAMPLE)],
            workers=self.workers,
            # In predicted core time, of which a part is really taken: so much less of it is asked for.
            arrivals_per_ns=per_ns * usual,
            side_core_ns=self._unseen_side_core_ns / usual,
            cores_shared=self._side_core_ns > 0.0,
        )
        kept.stale_ns = now_ns + self.settings.refresh_ns

    @property
    def _unseen_side_core_ns(self) -> float:
        """What requests take outside their runs, less what runs are longer by than their profile: it is in that.

        While all cores are busy, whoever decodes takes its time from runs, which are seen to last longer.
        """
        cheapest = self.menu.cheapest
        longer_ns = cheapest.core_ns_per_image * (self.menu.usual_share - 1.0 / cheapest.scale)
        return max(0.0, self._side_core_ns - max(0.0, longer_ns))

    @property
    def width(self) -> int | None:
        """Threads of the usual run at the working point last asked for; None while nothing is known."""
        return self._operation.width

    def _credit(self, now_ns: int) -> float:
        earned_ns = (now_ns - self._credited_at_ns) * self.workers * self._operation.utilisation
        limit_ns = self.settings.credit_max_ns * self.workers
        return max(-limit_ns, min(self._credit_ns + earned_ns, limit_ns))

    def future_loss(
        self, free_after_ns: Sequence[int], backlog_core_ns: float, now_ns: int, enough: float = math.inf
    ) -> float:
        """Top-1 points expected to be lost to arrivals until the cores have caught up.

        `free_after_ns`: for each worker, nanoseconds until it is free (0: idle), rising. `backlog_core_ns`: core time
        that what is queued will take. See `outlook.py` for how; each arrival is worth the cheapest choice of the usual
        width. A loss above `enough` may be given too low, but not as low as that: it need not be known exactly.
        """
        budgets = self._sorted_budgets
        rate = self.arrivals_per_ns(now_ns)
        if not budgets or rate <= 0.0:
            return 0.0
        ahead = self._outlook(free_after_ns, rate)
        return ahead.missed(backlog_core_ns / ahead.width, budgets, enough / ahead.accuracy) * ahead.accuracy

    def _outlook(self, free_after_ns: Sequence[int], rate: float) -> Outlook:
        """The workers as servers of the usual width: one is free when so many workers are."""
        width = self.width
        if width is None or width == 1 or width > len(free_after_ns):
            cheapest, width, widths = self.menu.cheapest, 1, self.menu.fastest_by_width
        else:
            cheapest = self.menu.cheapest_at(width)
            widths = ((1, dict(self.menu.fastest_by_width)[width]),)
        servers = free_after_ns[width - 1 :: width]
        return Outlook(
            free_after_ns=servers,
            width=width,
            widths=tuple(pair for pair in widths if pair[0] <= len(servers)),
            run_ns=cheapest.alone_ns,
            # Decoding takes the same cores, before the run.
            run_ns_per_image=(cheapest.core_ns_per_image + self._side_core_ns) / width,
            arrivals_per_ns=rate,
            accuracy=cheapest.accuracy,
        )
