"""What share of accuracy is lost to waiting, when requests are served in a given way at a given load.

Two causes, of which the larger counts. A run cannot be interrupted: whoever finds all servers busy
waits for the first to end, and short budgets do not survive that, whatever the order of the queue. And a queue builds
up as the load nears capacity. Pure functions; estimates for comparing ways to serve, not predictions.

The first may be left out. Before each run the planner looks at who would be blocked by it (`outlook.py`), and if a run
takes all workers that is everybody who can be: charged in the price as well it would be paid for twice (decision 7).
Of several servers that look sees only a part, since it reckons with short runs on the others; and where batches pay,
a low price would give them up.
"""

from __future__ import annotations

import math

from service.core.run_mix import Mix

# The M/M/c tail is that of first come, first served. Serving the earliest deadline first loses next to nothing as long
# as some budgets are long, since those do the waiting; except where the cores are so full that the queue is never
# short: a share of `_EDF_SHARE`, rising to all of it at capacity. Both numbers were fitted in simulation (`make sim`),
# within a factor of two flat.
_EDF_SHARE = 0.005
_EDF_EXPONENT = 40


def lost_share(
    mix: Mix, *, requests: int, workers: int, width: int, utilisation: float, core_ns: float, blocking: bool
) -> float:
    """Share of a sample of so many `requests` that waits longer than its budgets allow, if served by this `mix`.

    `width`: cores of the usual run; the workers serve as `workers // width` servers. `core_ns`: mean core time of a
    request. `blocking`: whether those count who meet a run that goes on for too long. The rest of the run that is met
    is distributed as in renewal theory; `servers` of them end independently. A request that needs another width than
    the usual waits until so many workers are free at once.
    """
    if utilisation >= 1.0:
        return 2.0 - 1.0 / utilisation
    if mix.busy_ns <= 0.0:
        return 0.0
    servers = workers // width
    waits = _waits(servers, utilisation)
    lost = 0.0
    if blocking:
        lost = waits * sum([rest**servers for rest in mix.rests()])
        for threads, rests in mix.unusual_rests().items() if mix.one.unusual else ():
            lost += rests * poisson_tail(utilisation * workers, max(1, workers - threads + 1))
    waits *= max(_EDF_SHARE, utilisation**_EDF_EXPONENT)
    decay = workers * (1.0 - utilisation) / core_ns
    # Most often more are blocked than could be lost to a queue, even if all budgets were as short as the shortest.
    if waits * len(mix.budgets_ns) * math.exp(-decay * max(0.0, mix.budgets_ns[0] - core_ns)) > lost:
        queued = sum([math.exp(-decay * max(0.0, budget_ns - core_ns)) for budget_ns in mix.budgets_ns])
        lost = max(lost, waits * queued)
    return lost / requests


def least_lost(rests: float, among: int, *, servers: int, utilisation: float) -> float:
    """How many of `among` requests of the usual width are lost at least, if `rests` is the least sum of `Mix.rests`.

    As many as are blocked if all have the same chance: the mean of powers is at least the power of the mean.
    """
    return _waits(servers, utilisation) * among * (rests / among) ** servers if among else 0.0


def _waits(servers: int, utilisation: float) -> float:
    """The chance to find all servers busy: Sakasegawa's approximation (1977)."""
    return math.pow(utilisation, math.sqrt(2.0 * (servers + 1)) - 1.0)


def poisson_tail(mean: float, at_least: int) -> float:
    """Probability that a Poisson variable of this mean is `at_least` or more."""
    below, term = 0.0, math.exp(-mean)
    for count in range(at_least):
        below += term
        term *= mean / (count + 1)
    return max(0.0, 1.0 - below)
