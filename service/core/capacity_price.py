"""What a core-nanosecond is worth: the price at which offered work fills the cores without drowning them.

The price is the Lagrange multiplier of the capacity constraint in "maximise accuracy, subject to the work fitting
the cores". Serving each request the choice that maximises accuracy minus price times core time is bid-price control
(Talluri and van Ryzin, The Theory and Practice of Revenue Management, 2004, chapter 3), here for time instead of
seats. How full the cores may get follows from what waiting costs at that load (`queueing_loss.py`), not from a fixed
target: an upgrade of half a point is worth less queueing than one of five.

The same comparison settles how wide runs usually are. Short runs on all cores leave a machine that short budgets find
idle; narrow runs carry more. Mixing both at random has neither: a wide run waits until all cores happen to be idle.

Pure functions of a menu, a sample of budgets and a rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from service.core.menu import Menu
from service.core.price_points import Option, options_of, points_of, sample_of, service_at
from service.core.queueing_loss import least_lost, lost_share
from service.core.run_mix import Mix, Service

# Shares at the lower of two prices; all at either of them is a point of its own.
_SHARES = (0.75, 0.5, 0.25)
_SURELY = 1 + 1e-9  # more than what rounding takes away

# Where requests also take the workers' cores outside their runs, a run on several cores waits for the one that is taken
# away: above this utilisation, reckoned by what runs usually take, it takes longer than its profile says. So wide runs
# are usual only if they leave so much, and of the ways to serve by them only those count that do.
_WIDE_UTILISATION_MAX = 0.42


@dataclass(frozen=True, slots=True)
class Operation:
    """A working point: serve at price `below` or at price `above`, so that the cores are busy for `utilisation`.

    Prices in top-1 points per core-nanosecond. Between the two prices many requests change their choice at once;
    mixing both sides is what meets a utilisation in between. `width`: threads of the usual run; None while nothing is
    known that speaks for one.
    """

    below: float
    above: float
    utilisation: float
    width: int | None


IDLE = Operation(0.0, 0.0, 1.0, None)
"""Core time is free."""


@dataclass(frozen=True, slots=True)
class _Demand:
    """What is asked of the workers. `budgets_ns` rise."""

    budgets_ns: Sequence[int]
    workers: int
    arrivals_per_ns: float
    side_core_ns: float

    def utilisation(self, core_ns: float) -> float:
        """Share of the cores that is busy if a request takes so much of them."""
        return self.arrivals_per_ns * core_ns / self.workers

    @property
    def core_ns_max(self) -> float:
        """What a request may take at most for the cores not to be flooded."""
        return self.workers / self.arrivals_per_ns * _SURELY


def best_operation(
    menu: Menu,
    budgets_ns: Sequence[int],
    *,
    workers: int,
    arrivals_per_ns: float,
    side_core_ns: float,
    cores_shared: bool = False,
) -> Operation:
    """The width and the mix of two neighbouring prices that are worth most: accuracy earned minus accuracy lost.

    `budgets_ns`: a sample of recent budgets, sorted or not. `side_core_ns`: core time each request takes besides.
    `cores_shared`: it takes some, though all of it may be in what runs are longer by.
    """
    if not budgets_ns or arrivals_per_ns <= 0.0:
        return IDLE
    demand = _Demand(sorted(budgets_ns), workers, arrivals_per_ns, side_core_ns)
    options = options_of(menu, workers)
    widths = [threads for threads, _ in menu.fastest_by_width if threads <= workers]
    shared = cores_shared or side_core_ns > 0.0
    worth, best = -math.inf, IDLE
    for width in widths:
        blocking = menu.batch_size_max > 1 or workers // width > 1
        utilisation_max = _WIDE_UTILISATION_MAX if shared and width > widths[0] else 1.0
        search = _Search(options, demand, width, blocking=blocking, utilisation_max=utilisation_max)
        found_worth, found = search.best(worth)
        if found_worth > worth:
            worth, best = found_worth, found
    return best


class _Search:
    """For the best working point with runs of one width, among points at rising prices and mixes of neighbours."""

    def __init__(
        self, options: Sequence[Option], demand: _Demand, width: int, *, blocking: bool, utilisation_max: float
    ) -> None:
        """`blocking`: whether whom a run blocks is charged here. Of points above `utilisation_max` there are none."""
        self._demand = demand
        self._blocking = blocking
        self._utilisation_max = utilisation_max
        self._servers = demand.workers // width
        self._sample = sample_of(demand.budgets_ns, options, width)
        self._points = points_of(self._sample, demand.side_core_ns, demand.core_ns_max)
        self._utilisations = [demand.utilisation(point.core_ns) for point in self._points]
        self._rests = [point.overruns_ns / point.busy_ns if point.busy_ns else 0.0 for point in self._points]
        self._services: dict[int, Service] = {}
        self._worth = -math.inf
        self._best = (0, 0, 1.0)

    def best(self, beyond: float) -> tuple[float, Operation]:
        """The best point or mix, and its worth: top-1 points a request, or minus the load of a flood.

        One worth no more than `beyond` need not be the best. There is none where wide runs have no room.
        """
        utilisation, price = self._utilisations[-1], self._points[-1].price
        if self._utilisation_max < min(1.0, utilisation):
            return -math.inf, IDLE
        if utilisation >= 1.0:
            # Time is worth what the cheapest choice earns with it, and the width that is flooded least is best.
            return -utilisation, Operation(price, price, 1.0, self._sample.width)
        self._worth = beyond
        # The most promising first: few need a closer look until no further one can win, and the event loop waits.
        for most, at, after in sorted(self._promising(), key=itemgetter(0), reverse=True):
            if most <= self._worth:
                break
            for share in _SHARES if at != after else (1.0,):
                self._try(at, after, share)
        return self._worth, self._operation(*self._best)

    def _promising(self) -> Iterator[tuple[float, int, int]]:
        """The points, and neighbours to mix, and what they are worth at most. None of a flood: the last point is none.

        Where the same is chosen at two prices there is nothing to mix, and of the two the lower one is meant: where
        everybody is served alike, as with one variant only, core time that nobody else wants is free.
        """
        for at, (before, point) in enumerate(zip([None, *self._points], self._points, strict=False)):
            utilisation = self._utilisations[at]
            if not self._has_room(utilisation) or (before and before.chosen == point.chosen):
                continue
            yield self._most(at, at, point.accuracy, utilisation), at, at
            if before:
                yield self._most(at - 1, at, before.accuracy, utilisation), at - 1, at

    def _has_room(self, utilisation: float) -> bool:
        return utilisation < 1.0 and utilisation <= self._utilisation_max

    def _most(self, at: int, after: int, accuracy: float, utilisation: float) -> float:
        """What mixes of two points, of at most this accuracy and at least this utilisation, are worth at most."""
        if not self._blocking:
            return accuracy * _SURELY
        sample = self._sample
        requests = len(sample.budgets_ns)
        rests = min(self._rests[at], self._rests[after])
        lost = least_lost(rests, requests - sample.usual_from, servers=self._servers, utilisation=utilisation)
        return accuracy * (1.0 - lost / requests) * _SURELY

    def _try(self, at: int, after: int, share: float) -> None:
        """Keep in mind the mix of so large a `share` as at `at`, the rest as at `after`, if it is the best so far."""
        one, other = self._points[at], self._points[after]
        accuracy = _mean(one.accuracy, other.accuracy, share)
        utilisation = _mean(self._utilisations[at], self._utilisations[after], share)
        if not self._has_room(utilisation) or self._most(at, after, accuracy, utilisation) <= self._worth:
            return
        lost = lost_share(
            Mix(self._service(at), self._service(after), share),
            requests=len(self._sample.budgets_ns),
            workers=self._demand.workers,
            width=self._sample.width,
            utilisation=utilisation,
            core_ns=_mean(one.core_ns, other.core_ns, share),
            blocking=self._blocking,
        )
        if accuracy * (1.0 - lost) > self._worth:
            self._worth, self._best = accuracy * (1.0 - lost), (at, after, share)

    def _service(self, at: int) -> Service:
        found = self._services.get(at)
        if found is None:
            found = self._services[at] = service_at(self._sample, self._points[at])
        return found

    def _operation(self, at: int, after: int, share: float) -> Operation:
        utilisation = _mean(self._utilisations[at], self._utilisations[after], share)
        return Operation(self._points[at].price, self._points[after].price, min(1.0, utilisation), self._sample.width)


def _mean(below: float, above: float, share: float) -> float:
    return share * below + (1.0 - share) * above
