"""A bound that no policy can beat: the whole future known, runs divisible, batches always full. Solved by HiGHS.

The relaxation. For each request i and variant v let x[i,v] in [0, 1] be the share of i answered by v, with
sum over v of x[i,v] <= 1, and only where the fastest run of v alone (any width) fits the budget of i. Let
w[i,k] >= 0 be core time given to i in time slot k, only for slots that touch [arrival, deadline]. Require

    sum over k of w[i,k]  =  sum over v of cost[v] * x[i,v]     cost[v]: least core time per image, any batch, width
    sum over i of w[i,k] <=  cores * slot length                for every k

and maximise the sum of accuracy[v] * x[i,v]. Any schedule of any policy gives a feasible point of the same
value: set x[i,v] = 1 for the variant that answered i in time and spread its run's core time evenly over the batch,
scaled down to cost[v], which is no more than its share; runs lie between arrival and deadline, cores are not
used twice. So the optimum bounds every policy, clairvoyant ones included, from above.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from service.core.menu import Menu
from tests.simulation.simulator import Arrival


def upper_bound(menu: Menu, workers: int, arrivals: list[Arrival], slot_ns: int = 50_000_000) -> float:
    """Effective accuracy (top-1 percent over all arrivals) that no policy can exceed."""
    names = sorted({choice.variant.name for choice in menu.choices})
    accuracy = {c.variant.name: c.accuracy for c in menu.choices}
    fastest = {n: min(c.latency_ns(1) for c in menu.choices if c.variant.name == n) for n in names}
    cost = {n: min(_least_cost_ns(c) for c in menu.choices if c.variant.name == n) for n in names}
    kept = _pareto(names, accuracy, cost, fastest)
    value: list[float] = []
    rows: list[tuple[int, int, float]] = []
    first_slot = arrivals[0].at_ns // slot_ns
    slots = max((a.at_ns + a.budget_ns) // slot_ns for a in arrivals) - first_slot + 1
    share_row, work_row, slot_row = 0, len(arrivals), 2 * len(arrivals)
    for index, arrival in enumerate(arrivals):
        feasible = [n for n in kept if fastest[n] <= arrival.budget_ns]
        for name in feasible:
            rows.append((share_row + index, len(value), 1.0))
            rows.append((work_row + index, len(value), cost[name] / 1e6))
            value.append(accuracy[name])
        if feasible:
            last = (arrival.at_ns + arrival.budget_ns) // slot_ns
            for slot in range(arrival.at_ns // slot_ns, last + 1):
                rows.append((work_row + index, len(value), -1.0))
                rows.append((slot_row + slot - first_slot, len(value), 1.0))
                value.append(0.0)
    limits = np.concatenate([np.ones(len(arrivals)), np.zeros(len(arrivals)), np.full(slots, workers * slot_ns / 1e6)])
    at, of, factor = zip(*rows, strict=True)
    matrix = coo_matrix((factor, (at, of)), shape=(len(limits), len(value))).tocsr()
    solved = linprog(-np.array(value), A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs")
    assert solved.status == 0, solved.message
    return float(-solved.fun) / len(arrivals)


def _least_cost_ns(choice: object) -> float:
    profile = choice.profile
    return min(point.latency_ns * profile.threads / point.batch_size for point in profile.points)


def _pareto(names: list[str], accuracy: dict, cost: dict, fastest: dict) -> list[str]:
    """Leave out variants that another beats in accuracy, cost and latency: they change no optimum."""
    return [
        n
        for n in names
        if not any(
            accuracy[m] >= accuracy[n] and cost[m] <= cost[n] and fastest[m] <= fastest[n] and m != n for m in names
        )
    ]
