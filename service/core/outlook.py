"""How many arrivals are expected to be lost until the cores have caught up, if workers are free at given times.

Work arrives at a rate times the cheapest choice's cost, and each free server does a nanosecond of it in a nanosecond.
An arrival whose budget is shorter than its wait plus the fastest run is lost; the share of recent budgets that are so
short, times the rate, is summed in steps until nothing is left waiting. Learns nothing, reads no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from service.core.queueing_loss import poisson_tail

_STEPS = 8


@dataclass(frozen=True, slots=True)
class Outlook:
    """The near future, as an arrival would find it: servers of `width` workers each, and what their runs take.

    `free_after_ns`: nanoseconds until each server is free, rising. `widths`: (servers, nanoseconds) of the fastest run
    on one server, and on several at once. `run_ns`: the cheapest run; `run_ns_per_image`: that in full batches, with
    what a request takes of the server besides. `accuracy`: of the cheapest run, in top-1 points.
    """

    free_after_ns: Sequence[int]
    width: int
    widths: tuple[tuple[int, int], ...]
    run_ns: int
    run_ns_per_image: float
    arrivals_per_ns: float
    accuracy: float

    def missed(self, backlog_ns: float, budgets: Sequence[int], enough: float = math.inf) -> float:
        """Arrivals that miss their `budgets` (rising) by waiting; `backlog_ns`: server time of what is queued now.

        Not counted further than `enough`: whoever asks may only want to know whether it is more than that.
        """
        servers, at_once = self.free_after_ns, len(self.free_after_ns)
        fastest_ns = min(latency_ns for _, latency_ns in self.widths)
        hopeless = bisect_left(budgets, fastest_ns)
        step_ns = max(servers[-1] / _STEPS, self.run_ns / 4)
        arriving = self.arrivals_per_ns * self.run_ns_per_image
        # Once all are free only the backlog changes: who comes then starts its run beside others' short ones.
        all_free_wait_ns = max(fastest_ns, self.run_ns / (at_once + 1) + self.run_ns)
        missed, at_ns = 0.0, step_ns / 2
        limit = enough * len(budgets) / (self.arrivals_per_ns * step_ns)
        for _ in range(4 * _STEPS):
            if at_ns < servers[-1]:
                free = bisect_right(servers, at_ns)
                late = self._missed_at(at_ns, free, backlog_ns, budgets)
            elif backlog_ns > 0.0:
                free = at_once
                late = bisect_left(budgets, all_free_wait_ns + backlog_ns * hopeless / len(budgets) / free)
            else:
                break
            missed += max(0.0, late - hopeless)
            if missed > limit:
                break
            backlog_ns = max(0.0, backlog_ns + (arriving - free) * step_ns)
            at_ns += step_ns
        return self.arrivals_per_ns * step_ns * missed / len(budgets)

    def _missed_at(self, at_ns: float, free: int, backlog_ns: float, budgets: Sequence[int]) -> float:
        """How many of `budgets` an arrival at `at_ns`, when `free` servers are free, would miss."""
        servers, run_ns = self.free_after_ns, self.run_ns
        alone_ns = math.inf
        for count, latency_ns in self.widths:
            free_at_ns = servers[count - 1]
            alone_ns = min(alone_ns, (free_at_ns - at_ns if free_at_ns > at_ns else 0.0) + latency_ns)
        short = bisect_left(budgets, alone_ns)
        if free == 0 and backlog_ns <= 0.0:
            return float(short)
        residual_ns = run_ns / (free + 1)
        if backlog_ns > 0.0:
            # Servers are on short runs. The earliest deadline goes first: only what is due sooner is in the way.
            ahead_ns = backlog_ns * short / len(budgets) / max(1, free)
            wait_ns = residual_ns if free else servers[0] - at_ns
            return float(bisect_left(budgets, max(alone_ns, wait_ns + run_ns) + ahead_ns))
        # A server is free, unless so many arrivals (Poisson) have come before that all are on short runs.
        wait_ns = min(servers[free] - at_ns, residual_ns)
        blocked = bisect_left(budgets, max(alone_ns, wait_ns + run_ns))
        return short + (blocked - short) * poisson_tail(self.arrivals_per_ns * run_ns, free)
