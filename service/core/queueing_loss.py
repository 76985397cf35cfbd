"""What share of accuracy is lost to waiting, when requests are served in a given way at a given load.

Two causes, of which the larger counts. A run cannot be interrupted: whoever finds all servers busy
waits for the first to end, and short budgets do not survive that, whatever the order of the queue. And a queue builds
up as the load nears capacity. Pure functions; estimates for comparing ways to serve, not predictions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# The M/M/c tail is that of first come, first served. Serving the earliest deadline first loses next to nothing as long
# as some budgets are long, since those do the waiting; except where the cores are so full that the queue is never
# short: a share of `_EDF_SHARE`, rising to all of it at capacity. Both numbers were fitted in simulation (`make sim`),
# within a factor of two flat.
_EDF_SHARE = 0.005
_EDF_EXPONENT = 40


class Run(NamedTuple):
    """How one kind of request is served: its share of all, its run's length and cores, and its budget.

    A tuple, since a thousand are made for each price.
    """

    share: float
    run_ns: int
    threads: int
    budget_ns: int


def lost_share(runs: Sequence[Run], *, workers: int, width: int, utilisation: float, core_ns: float) -> float:
    """Share of requests that wait longer than their budgets allow.

    `width`: cores of the usual run; the workers serve as `workers // width` servers. `core_ns`: mean core time of a
    request. The chance to find all servers busy is Sakasegawa's approximation (1977); the rest of the run that is met
    is distributed as in renewal theory, long runs being met more often; `servers` of them end independently. A request
    that needs another width than the usual waits until so many workers are free at once.
    """
    if utilisation >= 1.0:
        return 2.0 - 1.0 / utilisation
    busy_ns = sum(run.share * run.run_ns for run in runs)
    if busy_ns <= 0.0:
        return 0.0
    servers = workers // width
    waits = utilisation ** (math.sqrt(2.0 * (servers + 1)) - 1.0)
    decay = workers * (1.0 - utilisation) / core_ns
    edf_share = max(_EDF_SHARE, utilisation**_EDF_EXPONENT)
    fastest_ns = min((run.run_ns for run in runs if run.threads == width), default=0)
    # Few lengths for many budgets: this sum is the dear part, and the event loop waits for it.
    share_by_length: dict[int, float] = {}
    for run in runs:
        share_by_length[run.run_ns] = share_by_length.get(run.run_ns, 0.0) + run.share
    lengths, longest_ns = list(share_by_length.items()), max(share_by_length)
    blocked = queued = 0.0
    for run in runs:
        usual = run.threads == width
        slack_ns = run.budget_ns - (fastest_ns if usual else run.run_ns)
        # Chance that a run, met under way, goes on for longer than the slack.
        rest = 0.0
        if slack_ns < longest_ns:
            for length_ns, share in lengths:
                if length_ns > slack_ns:
                    rest += share * (length_ns - slack_ns)
            rest /= busy_ns
        if usual:
            blocked += run.share * waits * rest**servers
        else:
            blocked += run.share * rest * poisson_tail(utilisation * workers, max(1, workers - run.threads + 1))
        queued += run.share * edf_share * waits * math.exp(-decay * max(0.0, run.budget_ns - core_ns))
    return max(blocked, queued)


def poisson_tail(mean: float, at_least: int) -> float:
    """Probability that a Poisson variable of this mean is `at_least` or more."""
    below, term = 0.0, math.exp(-mean)
    for count in range(at_least):
        below += term
        term *= mean / (count + 1)
    return max(0.0, 1.0 - below)
