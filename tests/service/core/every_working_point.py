"""Every working point there is and what it is worth, reckoned the plain way: what the search must not fall behind.

For each width, each price at which any request's best run changes, and each mix of two neighbouring prices: everybody's
run, and the loss request by request, without sums that are kept, groups or bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from service.core.capacity_price import Operation
from service.core.menu import Menu
from service.core.queueing_loss import poisson_tail
from service.core.request import DEFAULT_POLICY

WIDE_UTILISATION_MAX = 0.42


class Option(NamedTuple):
    accuracy: float
    core_ns: float
    budget_ns: int
    run_ns: int
    threads: int


class Served(NamedTuple):
    """A request, or a share of one, and its run."""

    share: float
    budget_ns: int
    option: Option


def every_working_point(
    menu: Menu, budgets_ns: Sequence[int], *, workers: int, arrivals_per_ns: float, side_core_ns: float
) -> dict[Operation, float]:
    """What each is worth: top-1 points a request, or minus its load where all at its width are floods."""
    worth: dict[Operation, float] = {}
    widths = sorted({choice.threads for choice in menu.choices if choice.threads <= workers})
    batching = any(choice.batch_sizes[-1] > 1 for choice in menu.choices)
    for width in widths:
        wide = width > widths[0]
        prices = _prices(menu, budgets_ns, width, workers)
        served = [_serve(menu, budgets_ns, width, workers, price) for price in prices]
        pairs = [((at, at), (1.0,)) for at in range(len(prices))]
        pairs += [((at, at + 1), (0.75, 0.5, 0.25)) for at in range(len(prices) - 1)]
        for (below, above), shares in pairs:
            for share in shares:
                runs = [
                    *[run._replace(share=run.share * share) for run in served[below]],
                    *[run._replace(share=run.share * (1.0 - share)) for run in served[above] if share < 1.0],
                ]
                core_ns = sum(run.share * run.option.core_ns for run in runs) + side_core_ns
                utilisation = arrivals_per_ns * core_ns / workers
                operation = Operation(prices[below], prices[above], min(1.0, utilisation), width)
                accuracy = sum(run.share * run.option.accuracy for run in runs)
                if wide and side_core_ns and utilisation > WIDE_UTILISATION_MAX:
                    continue  # they would wait for cores that requests take besides
                if utilisation < 1.0:
                    blocked, queued = _lost(runs, workers, width, utilisation, core_ns)
                    worth[operation] = accuracy * (
                        1.0 - (max(blocked, queued) if batching or workers // width > 1 else queued)
                    )
                elif below == above == len(prices) - 1:
                    worth[operation] = -utilisation
    return worth


def _options(menu: Menu, workers: int) -> Iterator[Option]:
    for choice in menu.allowed(DEFAULT_POLICY):
        for size in choice.batch_sizes if choice.threads <= workers else ():
            run_ns = choice.latency_ns(size)
            needed_ns = run_ns if size == 1 else 2 * run_ns
            yield Option(choice.accuracy, run_ns * choice.threads / size, needed_ns, run_ns, choice.threads)


def _fitting(menu: Menu, budget_ns: int, width: int, workers: int) -> list[Option]:
    fitting = [option for option in _options(menu, workers) if option.budget_ns <= budget_ns]
    return [option for option in fitting if option.threads == width] or fitting


def _prices(menu: Menu, budgets_ns: Sequence[int], width: int, workers: int) -> list[float]:
    """Where the option changes that is worth most at a price, for any request, and from where on none is worth it."""
    prices = {0.0}
    for budget_ns in set(budgets_ns):
        fitting = _fitting(menu, budget_ns, width, workers)
        best = max(fitting, key=lambda o: (o.accuracy, -o.core_ns), default=None)
        while best is not None:
            cheaper = [option for option in fitting if option.core_ns < best.core_ns]
            if not cheaper:
                prices.add(best.accuracy / best.core_ns)
                break
            slopes = {option: (best.accuracy - option.accuracy) / (best.core_ns - option.core_ns) for option in cheaper}
            best = min(cheaper, key=lambda option: (slopes[option], option.core_ns))
            prices.add(slopes[best] * (1 + 1e-9))
    return sorted(prices)


def _serve(menu: Menu, budgets_ns: Sequence[int], width: int, workers: int, price: float) -> list[Served]:
    served = []
    for budget_ns in budgets_ns:
        fitting = _fitting(menu, budget_ns, width, workers)
        if fitting:
            best = max(fitting, key=lambda option: (option.accuracy - price * option.core_ns, -option.core_ns))
            served.append(Served(1.0 / len(budgets_ns), budget_ns, best))
    return served


def _lost(runs: Sequence[Served], workers: int, width: int, utilisation: float, core_ns: float) -> tuple[float, float]:
    """What is lost to runs under way, and to a queue."""
    if not runs:
        return 0.0, 0.0
    busy_ns = sum(run.share * run.option.run_ns for run in runs)
    servers = workers // width
    waits = utilisation ** (math.sqrt(2 * (servers + 1)) - 1)
    decay = workers * (1 - utilisation) / core_ns
    fastest_ns = min((run.option.run_ns for run in runs if run.option.threads == width), default=0)
    blocked = queued = 0.0
    for run in runs:
        usual = run.option.threads == width
        slack_ns = run.budget_ns - (fastest_ns if usual else run.option.run_ns)
        rest = sum(met.share * max(0, met.option.run_ns - slack_ns) for met in runs) / busy_ns
        too_few = 1.0 if usual else poisson_tail(utilisation * workers, max(1, workers - run.option.threads + 1))
        blocked += run.share * (waits * rest**servers if usual else rest * too_few)
        edf_share = max(0.005, utilisation**40)
        queued += run.share * edf_share * waits * math.exp(-decay * max(0.0, run.budget_ns - core_ns))
    return blocked, queued
