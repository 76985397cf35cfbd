"""What a core-nanosecond is worth: the price at which offered work fills the cores without drowning them.

The price is the Lagrange multiplier of the capacity constraint in "maximise accuracy, subject to the work fitting
the cores". Serving each request the choice that maximises accuracy minus price times core time is bid-price control
(Talluri and van Ryzin, The Theory and Practice of Revenue Management, 2004, chapter 3), here for time instead of
seats. How full the cores may get follows from what waiting costs at that load, not from a fixed target: an upgrade of
half a point is worth less queueing than one of five.

Pure functions of a menu, a sample of budgets and a rate.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.core.menu import Choice, Menu
from service.core.request import DEFAULT_POLICY

_MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)

# The M/M/c tail is that of first come, first served. Serving the earliest deadline first loses far fewer, except
# where the cores are so full that the queue is never short: a share of `_EDF_SHARE`, rising to all of it at capacity.
# Both numbers were fitted in simulation (`make sim`), within a factor of two flat.
_EDF_SHARE = 0.05
_EDF_EXPONENT = 16


@dataclass(frozen=True, slots=True)
class Operation:
    """A working point: serve at price `below` or at price `above`, so that the cores are busy for `utilisation`.

    Prices in top-1 points per core-nanosecond. Between the two prices many requests change their choice at once;
    mixing both sides is what meets a utilisation in between.
    """

    below: float
    above: float
    utilisation: float


IDLE = Operation(0.0, 0.0, 1.0)
"""Core time is free."""


@dataclass(frozen=True, slots=True)
class _Option:
    """A way to serve one image: what it earns, the core time it takes, the budget it needs."""

    accuracy: float
    core_ns: float
    budget_ns: int


@dataclass(frozen=True, slots=True)
class _Point:
    """What serving everybody at one price would earn and take, on average per request."""

    price: float
    accuracy: float
    core_ns: float
    utilisation: float


def best_operation(
    menu: Menu, budgets_ns: Sequence[int], *, workers: int, arrivals_per_ns: float, side_core_ns: float
) -> Operation:
    """The mix of two neighbouring prices that is worth most: accuracy earned minus accuracy lost to queueing.

    `budgets_ns`: a sample of recent budgets, sorted or not. `side_core_ns`: core time each request takes besides.
    """
    if not budgets_ns or arrivals_per_ns <= 0.0:
        return IDLE
    options = [option for choice in menu.allowed(DEFAULT_POLICY) for option in _options(choice)]
    hulls = [_Hull([option for option in options if option.budget_ns <= budget]) for budget in budgets_ns]
    load = arrivals_per_ns / workers
    prices = sorted({0.0, *(step for hull in hulls for step in hull.prices)})
    points = [_point(price, hulls, load, side_core_ns) for price in prices]
    best, best_worth = Operation(points[-1].price, points[-1].price, 1.0), -math.inf
    if points[-1].utilisation >= 1.0:
        return best  # flooded: time is worth what the cheapest choice earns with it
    for below, above in zip(points, points[1:] or points, strict=False):
        for share in _MIXES:
            mixed = _mix(below, above, share)
            worth = mixed.accuracy - _queueing_loss(mixed, budgets_ns, workers)
            if worth > best_worth:
                best_worth = worth
                best = Operation(
                    below.price if share > 0.0 else above.price,
                    above.price if share < 1.0 else below.price,
                    min(1.0, mixed.utilisation),
                )
    return best


def _options(choice: Choice) -> list[_Option]:
    """A choice at each batch size. A full batch must first wait for the run before it: twice its latency."""
    options = []
    for size in choice.batch_sizes:
        latency_ns = choice.latency_ns(size)
        needed_ns = latency_ns if size == 1 else 2 * latency_ns
        options.append(_Option(choice.accuracy, latency_ns * choice.threads / size, needed_ns))
    return options


class _Hull:
    """What of a set of options is worth taking at some price: the concave hull of accuracy over core time.

    `prices` are those at which the best option changes, rising; the last is what the cheapest option earns per
    core-nanosecond, above which nothing is worth serving.
    """

    def __init__(self, options: Sequence[_Option]) -> None:
        kept: list[_Option] = []
        for option in sorted(options, key=lambda o: (o.core_ns, -o.accuracy)):
            if kept and option.accuracy <= kept[-1].accuracy:
                continue
            while len(kept) > 1 and _slope(kept[-2], option) >= _slope(kept[-2], kept[-1]):
                kept.pop()
            kept.append(option)
        # Dearest first: at a price of zero the most accurate is best.
        self.options = kept[::-1]
        self.prices = [_slope(cheap, dear) * (1 + 1e-9) for dear, cheap in itertools.pairwise(self.options)]
        if kept:
            self.prices.append(kept[0].accuracy / kept[0].core_ns)

    def best(self, price: float) -> _Option | None:
        """The option that maximises accuracy minus price times core time; None if there is no option at all."""
        if not self.options:
            return None
        return self.options[min(bisect.bisect_right(self.prices, price), len(self.options) - 1)]


def _slope(cheap: _Option, dear: _Option) -> float:
    return (dear.accuracy - cheap.accuracy) / (dear.core_ns - cheap.core_ns)


def _point(price: float, hulls: Sequence[_Hull], load: float, side_core_ns: float) -> _Point:
    """Everybody takes the option worth most at `price`; those for whom none is feasible take and earn nothing."""
    chosen = [option for hull in hulls if (option := hull.best(price)) is not None]
    mean_core_ns = sum(option.core_ns for option in chosen) / len(hulls) + side_core_ns
    return _Point(price, sum(option.accuracy for option in chosen) / len(hulls), mean_core_ns, load * mean_core_ns)


def _mix(below: _Point, above: _Point, share: float) -> _Point:
    """`share` of requests at the lower price, the rest at the higher."""
    rest = 1.0 - share
    return _Point(
        above.price,
        share * below.accuracy + rest * above.accuracy,
        share * below.core_ns + rest * above.core_ns,
        share * below.utilisation + rest * above.utilisation,
    )


def _queueing_loss(point: _Point, budgets_ns: Sequence[int], workers: int) -> float:
    """Accuracy lost to waits longer than budgets.

    Tail of the wait in M/M/c, with Sakasegawa's approximation of the chance to wait at all (1977); above capacity,
    what does not fit is lost.
    """
    if point.utilisation >= 1.0 or point.core_ns <= 0.0:
        return point.accuracy * (2.0 - 1.0 / max(1.0, point.utilisation))
    waits = point.utilisation ** math.sqrt(2.0 * (workers + 1))
    decay = workers * (1.0 - point.utilisation) / point.core_ns
    tail = sum(math.exp(-decay * max(0.0, budget - point.core_ns)) for budget in budgets_ns) / len(budgets_ns)
    share = max(_EDF_SHARE, point.utilisation**_EDF_EXPONENT)
    return float(share * point.accuracy * waits * tail)
