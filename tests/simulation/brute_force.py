"""The best schedule of a few requests, found by trying every one.

Any schedule can be made by taking its runs in the order of their starts and giving each the workers that are free
first, as early as its requests have all arrived: no run starts later than it did. So trying every order of runs,
every batch and every choice for each, finds the optimum. Grows faster than exponentially: for four or five requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from service.core.menu import Menu
from tests.simulation.simulator import Arrival


def best_effective_accuracy(menu: Menu, workers: int, arrivals: Sequence[Arrival]) -> float:
    """Top-1 percent over all arrivals of the best schedule of whole runs, the future known."""
    return _best(menu, (0,) * workers, tuple(arrivals)) / len(arrivals)


def _best(menu: Menu, free_at_ns: tuple[int, ...], waiting: tuple[Arrival, ...]) -> float:
    best = 0.0
    for size in range(1, len(waiting) + 1):
        for batch in combinations(range(len(waiting)), size):
            chosen = [waiting[index] for index in batch]
            arrived_ns = max(arrival.at_ns for arrival in chosen)
            due_ns = min(arrival.at_ns + arrival.budget_ns for arrival in chosen)
            rest = tuple(arrival for index, arrival in enumerate(waiting) if index not in batch)
            for choice in menu.choices:
                if choice.threads > len(free_at_ns) or size > choice.profile.batch_size_limit:
                    continue
                end_ns = max(arrived_ns, free_at_ns[choice.threads - 1]) + choice.latency_ns(size)
                if end_ns <= due_ns:
                    free = tuple(sorted([*free_at_ns[choice.threads :], *[end_ns] * choice.threads]))
                    best = max(best, size * choice.accuracy + _best(menu, free, rest))
    return best
