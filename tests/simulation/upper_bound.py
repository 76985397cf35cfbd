"""A bound that no policy can beat: the whole future known, runs divisible, batches always full. Solved by HiGHS.

The relaxation. For each request i and variant v let x[i,v] in [0, 1] be the share of i answered by v, and let
w[i,k] >= 0 be the core time given to i in time slot k, for slots that its window [arrival, deadline] overlaps.
A *way* is a choice (variant, thread width) at a batch size; a way is feasible for i if its run is no longer than the
budget of i. Let cost[i,v] be the least core time per image over the feasible ways of v. Maximise the sum of
accuracy[v] * x[i,v], subject to

    (1)  sum over v of x[i,v]                        <=  1                      for every i
    (2)  sum over v of cost[i,v] * x[i,v]            <=  sum over k of w[i,k]   for every i
    (3)  sum over i of w[i,k]                        <=  workers * slot         for every k
    (4)  w[i,k]  <=  most threads of a way * overlap of slot k and i's window
    (5)  sum over i, v of inside[i,v,I] * x[i,v]     <=  workers * length of I  for chosen intervals I

where inside[i,v,I] is the least core time, per batch-mate, that a feasible way of v must spend inside I when its run
lies uncut in the window of i: threads / batch size * min(overlap if started at the arrival, overlap if started as
late as the deadline allows). The overlap with I is concave in the start, so its minimum is at one of the two ends.
The chosen I are the windows of the requests with short budgets: those are what long runs collide with.

Why it bounds every policy, clairvoyant ones included. Take any schedule that answers request i in time by variant v
in a run of b requests on t threads from s to s + L. The run lies in the window of i, so its way is feasible. Set
x[i,v] = 1 and give i the share 1/b of the run's core time, t * L / b >= cost[i,v], where it was spent; (1), (2) hold.
In slot k that share is at most t times the overlap, which is (4). Summed over the batch the shares are what the run
took from its workers, and no worker has two runs at once, so (3) holds, and (5) does, since each share spends at least
inside[i,v,I] in I. Requests not answered in time get zeros. The value is the schedule's, so the optimum is no less.

What it ignores, so may be above what any policy reaches: preemption (a run may be cut up, except as (5) notices),
which requests would have to be together in a batch, and that nobody knows the future.

(5) is the left-shift/right-shift condition of energetic reasoning (Baptiste, Le Pape and Nuijten, Constraint-Based
Scheduling, 2001, section 3.1.4), made linear in x. Limiting batch sizes to how many windows overlap was tried too:
it moved the bound by less than 0.05 points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from service.core.menu import Choice, Menu
from tests.simulation.simulator import MS, Arrival

SLOT_NS_MIN = 5 * MS
_WORK_COLUMNS_MAX = 30_000
_TIGHT_BUDGET_RUNS = 3
_INTERVALS_MAX = 500
_NS_PER_UNIT = 1e6  # HiGHS is happier with milliseconds than with nanoseconds


@dataclass(frozen=True, slots=True)
class _Windows:
    """When requests may be served: arrivals and deadlines, in nanoseconds, by request."""

    arrivals: NDArray[np.int64]
    deadlines: NDArray[np.int64]

    def __getitem__(self, index: NDArray[np.intp]) -> _Windows:
        return _Windows(self.arrivals[index], self.deadlines[index])


@dataclass(frozen=True)
class _Ways:
    """One choice at all its batch sizes."""

    choice: Choice

    @cached_property
    def _least_core_ns(self) -> list[float]:
        """Least core time per image with a batch of 1..n, by n."""
        choice = self.choice
        sizes = range(1, choice.profile.batch_size_limit + 1)
        return list(accumulate((choice.latency_ns(size) * choice.threads / size for size in sizes), min))

    def cost_ns(self, budget_ns: int) -> float:
        """Least core time per image of a run within `budget_ns`; infinite if no run is that fast."""
        size = self.choice.profile.batch_size_max(budget_ns)
        return self._least_core_ns[size - 1] if size else math.inf

    def inside_ns(self, windows: _Windows, interval: tuple[int, int]) -> NDArray[np.float64]:
        """Least core time per image that a run within each window spends inside `interval`; infinite if none fits."""
        least = np.full(len(windows.arrivals), np.inf)
        for size in range(1, self.choice.profile.batch_size_limit + 1):
            latency_ns = self.choice.latency_ns(size)
            shifted = np.minimum(
                windows.arrivals + latency_ns - interval[0], interval[1] + latency_ns - windows.deadlines
            )
            overlap = np.clip(shifted, 0, min(latency_ns, interval[1] - interval[0]))
            fits = latency_ns <= windows.deadlines - windows.arrivals
            least = np.where(fits, np.minimum(least, overlap * self.choice.threads / size), least)
            if not np.any((least > 0) & fits):
                break
        return least


class _Program:
    """The linear program, grown column by column."""

    def __init__(self) -> None:
        self._value: list[float] = []
        self._upper: list[float] = []
        self._limits: list[float] = []
        self._entries: list[tuple[int, int, float]] = []

    def row(self, limit: float) -> int:
        self._limits.append(limit)
        return len(self._limits) - 1

    def column(self, value: float, upper: float, entries: Sequence[tuple[int, float]]) -> int:
        column = len(self._value)
        self._value.append(value)
        self._upper.append(upper)
        self._entries.extend((row, column, factor) for row, factor in entries)
        return column

    def entry(self, row: int, column: int, factor: float) -> None:
        self._entries.append((row, column, factor))

    def maximum(self) -> float:
        if not self._value:
            return 0.0
        rows, columns, factors = zip(*self._entries, strict=True)
        shape = (len(self._limits), len(self._value))
        solved = linprog(
            -np.array(self._value),
            A_ub=coo_matrix((factors, (rows, columns)), shape=shape).tocsr(),
            b_ub=np.array(self._limits),
            bounds=np.column_stack([np.zeros(len(self._value)), self._upper]),
            method="highs",
        )
        assert solved.status == 0, solved.message
        return float(-solved.fun)


def upper_bound(menu: Menu, workers: int, arrivals: Sequence[Arrival], slot_ns: int | None = None) -> float:
    """Effective accuracy (top-1 percent over all arrivals) that no policy can exceed.

    Runs take exactly what the profiles of `menu` say, on `workers` workers. `slot_ns`: finer is tighter and slower;
    by default as fine as keeps the program to some seconds.
    """
    if not arrivals:
        return 0.0
    arrivals = sorted(arrivals, key=lambda arrival: arrival.at_ns)
    slot_ns = slot_ns or max(SLOT_NS_MIN, sum(arrival.budget_ns for arrival in arrivals) // _WORK_COLUMNS_MAX)
    program = _Program()
    variants = [_Variant(found, len(arrivals)) for found in _ways(menu, workers)]
    threads_max = max(way.choice.threads for variant in variants for way in variant.ways)
    slot_rows: dict[int, int] = {}
    for index, arrival in enumerate(arrivals):
        work_row = _add_shares(program, variants, index, arrival.budget_ns)
        if work_row is None:
            continue
        end_ns = arrival.at_ns + arrival.budget_ns
        for slot in range(arrival.at_ns // slot_ns, (end_ns - 1) // slot_ns + 1):
            if slot not in slot_rows:
                slot_rows[slot] = program.row(workers * slot_ns / _NS_PER_UNIT)
            overlap_ns = min(end_ns, (slot + 1) * slot_ns) - max(arrival.at_ns, slot * slot_ns)
            program.column(0.0, threads_max * overlap_ns / _NS_PER_UNIT, [(work_row, -1.0), (slot_rows[slot], 1.0)])
    _forbid_cutting(program, arrivals, variants, workers)
    return program.maximum() / len(arrivals)


class _Variant:
    """A variant's ways, and the columns x[i,v] of the requests it is feasible for (-1 elsewhere)."""

    def __init__(self, choices: Sequence[Choice], requests: int) -> None:
        self.accuracy = choices[0].accuracy
        self.ways = tuple(map(_Ways, choices))
        self.columns = np.full(requests, -1)

    def cost_ns(self, budget_ns: int) -> float:
        """Least core time per image within `budget_ns`; infinite if no run is that fast."""
        return min(way.cost_ns(budget_ns) for way in self.ways)


def _ways(menu: Menu, workers: int) -> list[list[Choice]]:
    """The choices of each variant that fit on the machine."""
    by_name: dict[str, list[Choice]] = {}
    for choice in menu.choices:
        if choice.threads <= workers:
            by_name.setdefault(choice.variant.name, []).append(choice)
    return list(by_name.values())


def _add_shares(program: _Program, variants: Sequence[_Variant], index: int, budget_ns: int) -> int | None:
    """Columns x[i,v] of one request under (1); returns the row of (2), None if no variant is feasible."""
    feasible = [(variant, cost) for variant in variants if (cost := variant.cost_ns(budget_ns)) < math.inf]
    if not feasible:
        return None
    share_row, work_row = program.row(1.0), program.row(0.0)
    for variant, cost in feasible:
        entries = [(share_row, 1.0), (work_row, cost / _NS_PER_UNIT)]
        variant.columns[index] = program.column(variant.accuracy, math.inf, entries)
    return work_row


def _forbid_cutting(program: _Program, arrivals: Sequence[Arrival], variants: Sequence[_Variant], workers: int) -> None:
    """Add (5) for the windows of the requests with the shortest budgets, spread over the whole time."""
    at_ns = np.array([arrival.at_ns for arrival in arrivals])
    windows = _Windows(at_ns, at_ns + np.array([arrival.budget_ns for arrival in arrivals]))
    fastest_ns = min(way.choice.latency_ns(1) for variant in variants for way in variant.ways)
    budgets = windows.deadlines - windows.arrivals
    tight = np.flatnonzero((budgets >= fastest_ns) & (budgets <= _TIGHT_BUDGET_RUNS * fastest_ns))
    for index in tight[:: 1 + len(tight) // _INTERVALS_MAX]:
        interval = (int(windows.arrivals[index]), int(windows.deadlines[index]))
        row = program.row(workers * (interval[1] - interval[0]) / _NS_PER_UNIT)
        near = np.flatnonzero((windows.arrivals < interval[1]) & (windows.deadlines > interval[0]))
        for variant in variants:
            feasible = near[variant.columns[near] >= 0]
            inside = np.min([way.inside_ns(windows[feasible], interval) for way in variant.ways], axis=0)
            for other in np.flatnonzero(inside > 0):
                program.entry(row, int(variant.columns[feasible[other]]), float(inside[other]) / _NS_PER_UNIT)
