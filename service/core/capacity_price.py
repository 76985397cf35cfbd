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

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.core.menu import Choice, Menu
from service.core.queueing_loss import Run, lost_share
from service.core.request import DEFAULT_POLICY

# Shares at the lower price, of equals the first: where both prices serve everybody alike, as with one variant only,
# core time that nobody else wants is free.
_MIXES = (1.0, 0.75, 0.5, 0.25, 0.0)

# Where requests also take the workers' cores outside their runs, a run on several cores waits for the one that is taken
# away: above this utilisation it takes longer than its profile says.
_WIDE_UTILISATION_MAX = 0.6


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
class _Option:
    """A way to serve one image: what it earns, the core time it takes, the budget it needs."""

    accuracy: float
    core_ns: float
    budget_ns: int
    run_ns: int
    threads: int


@dataclass(frozen=True, slots=True)
class _Point:
    """What serving everybody at one price would earn and take, on average per request, and how each is served."""

    price: float
    accuracy: float
    core_ns: float
    utilisation: float
    chosen: Sequence[_Option | None]
    budgets_ns: Sequence[int]

    def runs(self, weight: float) -> list[Run]:
        """The runs of `weight` of all requests, served so. Made when asked: few points are looked at so closely."""
        share = weight / len(self.chosen)
        return [
            Run(share, option.run_ns, option.threads, budget_ns)
            for option, budget_ns in zip(self.chosen, self.budgets_ns, strict=True)
            if option
        ]


@dataclass(frozen=True, slots=True)
class _Demand:
    """What is asked of the workers."""

    budgets_ns: Sequence[int]
    workers: int
    arrivals_per_ns: float
    side_core_ns: float


def best_operation(
    menu: Menu, budgets_ns: Sequence[int], *, workers: int, arrivals_per_ns: float, side_core_ns: float
) -> Operation:
    """The width and the mix of two neighbouring prices that are worth most: accuracy earned minus accuracy lost.

    `budgets_ns`: a sample of recent budgets, sorted or not. `side_core_ns`: core time each request takes besides.
    """
    if not budgets_ns or arrivals_per_ns <= 0.0:
        return IDLE
    demand = _Demand(budgets_ns, workers, arrivals_per_ns, side_core_ns)
    widths = [threads for threads, _ in menu.fastest_by_width if threads <= workers]
    found = [_best_at(menu, demand, width) for width in widths]
    narrow = found[0]
    limit = _WIDE_UTILISATION_MAX if side_core_ns else 1.0
    roomy = [best for best in found[1:] if best[1].utilisation <= limit]
    return max([narrow, *roomy], key=lambda best: best[0])[1]


def _best_at(menu: Menu, demand: _Demand, width: int) -> tuple[float, Operation]:
    """The best working point with runs of `width`, and its worth: points a request, or minus the load of a flood."""
    points = _points(menu, demand, width)
    flooded = points[-1]
    if flooded.utilisation >= 1.0:
        # Time is worth what the cheapest choice earns with it, and the width that is flooded least is best.
        return -flooded.utilisation, Operation(flooded.price, flooded.price, 1.0, width)
    best, best_worth = IDLE, -math.inf
    for below, above in zip(points, points[1:] or points, strict=False):
        # Where both serve everybody alike there is nothing to mix, and rounding must not decide on it.
        for share in _MIXES if below.chosen != above.chosen else _MIXES[:1]:
            accuracy = _mean(below.accuracy, above.accuracy, share)
            if accuracy <= best_worth:
                continue  # not even without a loss: most of them, and the event loop waits for each
            worth = accuracy * (1.0 - _lost_share(below, above, share, demand.workers, width))
            if worth > best_worth:
                best_worth = worth
                best = Operation(
                    below.price if share > 0.0 else above.price,
                    above.price if share < 1.0 else below.price,
                    min(1.0, _mean(below.utilisation, above.utilisation, share)),
                    width,
                )
    return best_worth, best


def _points(menu: Menu, demand: _Demand, width: int) -> list[_Point]:
    """What each price would bring, rising. Budgets too short for runs of `width` are served by other ones."""
    allowed = [choice for choice in menu.allowed(DEFAULT_POLICY) if choice.threads <= demand.workers]
    usual = [option for choice in allowed if choice.threads == width for option in _options(choice)]
    other = [option for choice in allowed if choice.threads != width for option in _options(choice)]
    hulls: list[_Hull] = []
    known: dict[tuple[int, ...], _Hull] = {}
    for budget_ns in demand.budgets_ns:
        fitting = [option for option in usual if option.budget_ns <= budget_ns]
        fitting = fitting or [option for option in other if option.budget_ns <= budget_ns]
        which = tuple(map(id, fitting))  # most budgets allow the same
        hull = known.get(which)
        if hull is None:
            hull = known[which] = _Hull(fitting)
        hulls.append(hull)
    prices = sorted({0.0, *(step for hull in known.values() for step in hull.prices)})
    return [_point(price, hulls, demand) for price in prices]


def _options(choice: Choice) -> list[_Option]:
    """A choice at each batch size. A full batch must first wait for the run before it: twice its latency."""
    options = []
    for size in choice.batch_sizes:
        latency_ns = choice.latency_ns(size)
        needed_ns = latency_ns if size == 1 else 2 * latency_ns
        options.append(
            _Option(choice.accuracy, latency_ns * choice.threads / size, needed_ns, latency_ns, choice.threads)
        )
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


def _point(price: float, hulls: Sequence[_Hull], demand: _Demand) -> _Point:
    """Everybody takes the option worth most at `price`; those for whom none is feasible take and earn nothing."""
    best = {hull: hull.best(price) for hull in set(hulls)}
    chosen = [best[hull] for hull in hulls]
    share = 1.0 / len(hulls)
    core_ns = sum(option.core_ns for option in chosen if option) * share + demand.side_core_ns
    return _Point(
        price,
        sum(option.accuracy for option in chosen if option) * share,
        core_ns,
        demand.arrivals_per_ns * core_ns / demand.workers,
        chosen,
        demand.budgets_ns,
    )


def _lost_share(below: _Point, above: _Point, share: float, workers: int, width: int) -> float:
    """Share of requests that wait too long with `share` of them at the lower price, the rest at the higher."""
    utilisation = _mean(below.utilisation, above.utilisation, share)
    # A flood is judged by its size alone, so that its runs need not be made: most of the mixes in one.
    parts = ((below, share), (above, 1.0 - share)) if utilisation < 1.0 else ()
    return lost_share(
        [run for point, weight in parts if weight for run in point.runs(weight)],
        workers=workers,
        width=width,
        utilisation=utilisation,
        core_ns=_mean(below.core_ns, above.core_ns, share),
    )


def _mean(below: float, above: float, share: float) -> float:
    return share * below + (1.0 - share) * above
