"""What serving everybody at one price of core time would earn and take, for each price at which anything changes.

At a price each request takes the run that maximises accuracy minus price times core time, of those that its budget
allows. Requests whose budgets allow the same runs are served alike: they are one group. From one price to the next most
groups go on as before. Pure functions of a menu and a sample of budgets; knows no rate and no loss.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.core.menu import Choice, Menu
from service.core.request import DEFAULT_POLICY
from service.core.run_mix import Service, Unusual


class Option(NamedTuple):
    """A way to serve one image: what it earns, the core time it takes, the budget it needs. A tuple: made often."""

    accuracy: float
    core_ns: float
    budget_ns: int
    run_ns: int
    threads: int


class Group(NamedTuple):
    """Requests that may be served by the same options: of a sample those from `first` on, before `end`.

    `hull`: the options worth taking at some price, the most accurate first; empty if there is none at all.
    """

    first: int
    end: int
    hull: Sequence[Option]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of requests: their budgets, rising, in groups. From `usual_from` on runs of `width` serve them."""

    budgets_ns: Sequence[int]
    groups: Sequence[Group]
    width: int
    usual_from: int

    @property
    def usual_ns(self) -> Sequence[int]:
        """The budgets of those whom runs of the width serve."""
        return self.budgets_ns[self.usual_from :]


class Point(NamedTuple):
    """What everybody taking the option worth most at `price` earns and takes, on average per request.

    `busy_ns`: what all runs take together; `overruns_ns`: for how long they go on after the slack of those whom usual
    runs serve, at least, summed up over both. `chosen`: the option of each group; None where none is feasible.
    """

    price: float
    accuracy: float
    core_ns: float
    busy_ns: int
    overruns_ns: int
    chosen: Sequence[Option | None]


def options_of(menu: Menu, threads_max: int) -> list[Option]:
    """All ways to serve an image with at most `threads_max` cores, in the order of core time; accurate ones first."""
    choices = [choice for choice in menu.allowed(DEFAULT_POLICY) if choice.threads <= threads_max]
    found = [option for choice in choices for option in _options(choice)]
    found.sort(key=_dearer_and_worse)
    return found


def _options(choice: Choice) -> Iterator[Option]:
    """A choice at each batch size. A full batch must first wait for the run before it: twice its latency."""
    accuracy, threads = choice.accuracy, choice.threads
    for size in choice.batch_sizes:
        latency_ns = choice.latency_ns(size)
        needed_ns = latency_ns if size == 1 else 2 * latency_ns
        yield Option(accuracy, latency_ns * threads / size, needed_ns, latency_ns, threads)


def sample_of(budgets_ns: Sequence[int], options: Sequence[Option], width: int) -> Sample:
    """The `budgets_ns`, rising, in groups. Those too short for any run of `width` are served by other ones."""
    usual = [option for option in options if option.threads == width]
    other = [option for option in options if option.threads != width]
    usual_from = bisect_left(budgets_ns, min([option.budget_ns for option in usual]))
    groups = [*_groups(budgets_ns, 0, usual_from, other), *_groups(budgets_ns, usual_from, len(budgets_ns), usual)]
    return Sample(budgets_ns, groups, width, usual_from)


def _groups(budgets_ns: Sequence[int], first: int, end: int, options: Sequence[Option]) -> list[Group]:
    """The budgets from `first` on, before `end`, in groups.

    Longer budgets allow more. What is not worth taking at any price is not worth it either where there is more to take.
    """
    groups: list[Group] = []
    hull: Sequence[Option] = ()
    waiting = sorted(options, key=_budget)
    met = 0
    while first < end:
        budget_ns = budgets_ns[first]
        known = met
        while met < len(waiting) and waiting[met].budget_ns <= budget_ns:
            met += 1
        hull = _hull(sorted([*hull, *waiting[known:met]], key=_dearer_and_worse))
        after = end if met == len(waiting) else bisect_left(budgets_ns, waiting[met].budget_ns, first, end)
        groups.append(Group(first, after, hull))
        first = after
    return groups


def _hull(options: Iterable[Option]) -> list[Option]:
    """The concave hull of accuracy over core time, most accurate first, of options in the order of core time."""
    kept: list[Option] = []
    slopes: list[float] = []
    for option in options:
        if kept:
            if option.accuracy <= kept[-1].accuracy:
                continue
            while slopes and _slope(kept[-2], option) >= slopes[-1]:
                kept.pop()
                slopes.pop()
            slopes.append(_slope(kept[-1], option))
        kept.append(option)
    return kept[::-1]


def points_of(sample: Sample, side_core_ns: float, core_ns_max: float) -> list[Point]:
    """What each price would bring, rising from 0, where core time is free. `side_core_ns`: what each request adds.

    Of the points that take more than `core_ns_max` a request, only the one next to the others: more is not to be had.
    """
    totals, changes = _Totals(sample), _changes(sample.groups)
    for place, group in enumerate(sample.groups):
        for cheapest in group.hull[-1:]:
            totals.choose(place, cheapest)
    points = []
    # From the highest price downwards: most often it is the points at low prices that take too much.
    for price in sorted(changes, reverse=True):
        point = totals.point(price, side_core_ns)
        points.append(point)
        if point.core_ns > core_ns_max:
            break
        for place, option in changes[price]:
            totals.choose(place, option)
    return points[::-1]


def _changes(groups: Sequence[Group]) -> dict[float, list[tuple[int, Option]]]:
    """The prices at which anything changes, and which groups, by their places, take which option below that.

    Above the last price of each group nothing is worth serving: it is what the cheapest option earns per
    core-nanosecond, and changes nothing.
    """
    changes: dict[float, list[tuple[int, Option]]] = {0.0: []}
    for place, group in enumerate(groups):
        for cheap, dear in itertools.pairwise(reversed(group.hull)):
            changes.setdefault(_slope(cheap, dear) * (1 + 1e-9), []).append((place, dear))
        for cheapest in group.hull[-1:]:
            changes.setdefault(cheapest.accuracy / cheapest.core_ns, [])
    return changes


class _Totals:
    """What the options chosen for each group earn and take, added up anew only where the choice changes."""

    def __init__(self, sample: Sample) -> None:
        """Nobody is served yet."""
        self._groups = sample.groups
        self._chosen: list[Option | None] = [None] * len(sample.groups)
        # By request, so that the sums do not depend on the order of choices, not even by rounding.
        self._accuracies = [0.0] * len(sample.budgets_ns)
        self._cores_ns = [0.0] * len(sample.budgets_ns)
        self._share = 1.0 / len(sample.budgets_ns)
        self._overruns_by_length = _Overruns(sample)
        self._busy_ns = self._overruns_ns = 0

    def choose(self, place: int, option: Option) -> None:
        """Serve the group at `place` by `option` from now on."""
        first, end, _ = self._groups[place]
        count, before = end - first, self._chosen[place]
        if before is not None:
            self._busy_ns -= count * before.run_ns
            self._overruns_ns -= count * self._overruns_by_length[before.run_ns]
        self._busy_ns += count * option.run_ns
        self._overruns_ns += count * self._overruns_by_length[option.run_ns]
        self._accuracies[first:end] = [option.accuracy] * count
        self._cores_ns[first:end] = [option.core_ns] * count
        self._chosen[place] = option

    def point(self, price: float, side_core_ns: float) -> Point:
        """What has been chosen, as what is chosen at `price`."""
        accuracy = sum(self._accuracies) * self._share
        core_ns = sum(self._cores_ns) * self._share + side_core_ns
        return Point(price, accuracy, core_ns, self._busy_ns, self._overruns_ns, tuple(self._chosen))


class _Overruns(dict[int, int]):
    """By the length of a run, for how long it goes on after the slack of each whom usual runs serve, in all.

    Their slack is what the fastest usual run there is leaves of their budgets.
    """

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self._budgets_ns = sample.usual_ns
        self._sums_ns = [0, *itertools.accumulate(self._budgets_ns)]
        usual = (group for group in sample.groups if group.first >= sample.usual_from)
        self._fastest_ns = min([option.run_ns for group in usual for option in group.hull], default=0)

    def __missing__(self, run_ns: int) -> int:
        shorter = bisect_left(self._budgets_ns, run_ns + self._fastest_ns)
        found = self[run_ns] = shorter * (run_ns + self._fastest_ns) - self._sums_ns[shorter]
        return found


def service_at(sample: Sample, point: Point) -> Service:
    """By which runs everybody is served at this point."""
    requests_by_length: dict[int, int] = {}
    usual_runs_ns: list[int] = []
    unusual: list[Unusual] = []
    for (first, end, _), option in zip(sample.groups, point.chosen, strict=True):
        if option is None:
            continue
        run_ns, threads = option.run_ns, option.threads
        requests_by_length[run_ns] = requests_by_length.get(run_ns, 0) + end - first
        if threads == sample.width:
            usual_runs_ns.append(run_ns)
        else:
            unusual += [Unusual(budget_ns, run_ns, threads) for budget_ns in sample.budgets_ns[first:end]]
    return Service(requests_by_length, sample.usual_ns, fastest_ns=min(usual_runs_ns, default=0), unusual=unusual)


def _slope(cheap: Option, dear: Option) -> float:
    return (dear.accuracy - cheap.accuracy) / (dear.core_ns - cheap.core_ns)


def _dearer_and_worse(option: Option) -> tuple[float, float]:
    return option.core_ns, -option.accuracy


def _budget(option: Option) -> int:
    return option.budget_ns
