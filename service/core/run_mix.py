"""How a sample of requests is served: by runs of which lengths, and how far those outlast what others can wait.

Knows no load, no price and no accuracy; `queueing_loss.py` says what is lost by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple


class Unusual(NamedTuple):
    """A request that is served by a run of another width than the usual."""

    budget_ns: int
    run_ns: int
    threads: int


class Service:
    """One way to serve everybody.

    `usual_ns`: budgets of those served by runs of the usual width, rising; `unusual`: the others. `budgets_ns`: of all,
    rising. `busy_ns`: what all runs take together; `fastest_ns`: the shortest of the usual width.
    """

    def __init__(
        self,
        requests_by_length: Mapping[int, int],
        usual_ns: Sequence[int],
        *,
        fastest_ns: int,
        unusual: Sequence[Unusual] = (),
    ) -> None:
        """`requests_by_length`: how many of all are served by runs of how many nanoseconds."""
        self.usual_ns = usual_ns
        self.unusual = unusual
        self.budgets_ns = sorted([*[who.budget_ns for who in unusual], *usual_ns]) if unusual else usual_ns
        self.fastest_ns = fastest_ns
        self.busy_ns = sum([run_ns * requests for run_ns, requests in requests_by_length.items()])
        self._requests = sum(requests_by_length.values())
        self._shortest_first = sorted(requests_by_length.items())
        self._overrun_ns: dict[int, int] = {}
        self._overruns_ns: dict[int, list[int]] = {}

    def overrun_ns(self, slack_ns: int) -> int:
        """For how long the runs go on after `slack_ns`, together."""
        found = self._overrun_ns.get(slack_ns)
        if found is None:
            longer = [requests * (run_ns - slack_ns) for run_ns, requests in self._shortest_first if run_ns > slack_ns]
            found = self._overrun_ns[slack_ns] = sum(longer)
        return found

    def overruns_ns(self, fastest_ns: int) -> list[int]:
        """The same for what each usual budget leaves beside a run of `fastest_ns`, as far as there is any.

        Kept, as each of these sums is: a way to serve is mixed with both its neighbours, in several shares.
        """
        found = self._overruns_ns.get(fastest_ns)
        if found is None:
            found = self._overruns_ns[fastest_ns] = self._overruns(fastest_ns)
        return found

    def _overruns(self, fastest_ns: int) -> list[int]:
        """What all runs longer than the slack take, minus so many times the slack: they get fewer as it grows."""
        found: list[int] = []
        longer, longer_ns = self._requests, self.busy_ns
        ended = 0
        for budget_ns in self.usual_ns:
            slack_ns = budget_ns - fastest_ns
            while longer and self._shortest_first[ended][0] <= slack_ns:
                run_ns, requests = self._shortest_first[ended]
                longer -= requests
                longer_ns -= requests * run_ns
                ended += 1
            if not longer:
                break
            found.append(longer_ns - longer * slack_ns)
        return found


class Mix:
    """`share` of the requests are served one way, the rest of them another way.

    Both ways serve the same sample, and the same part of it by runs of the usual width. `budgets_ns`: of all who are
    served, rising. `busy_ns`: what the runs take together.
    """

    __slots__ = ("budgets_ns", "busy_ns", "one", "other", "share")

    def __init__(self, one: Service, other: Service, share: float) -> None:
        """See the class."""
        self.one = one
        self.other = other
        self.share = share
        self.budgets_ns = one.budgets_ns
        self.busy_ns = share * one.busy_ns + (1.0 - share) * other.busy_ns

    def rests(self) -> list[float]:
        """Of each request of the usual width, the chance that a run it meets under way goes on for longer than it can.

        In the order of budgets, as far as there is any chance. Long runs are met more often than short ones.
        """
        fastest_ns = min(self.one.fastest_ns, self.other.fastest_ns)
        one, other = self.one.overruns_ns(fastest_ns), self.other.overruns_ns(fastest_ns)
        one_part, other_part = self.share / self.busy_ns, (1.0 - self.share) / self.busy_ns
        return [one_part * one_ns + other_part * other_ns for one_ns, other_ns in zip_longest(one, other, fillvalue=0)]

    def unusual_rests(self) -> dict[int, float]:
        """Of all others the sums of it, by the width of their runs. Each can wait for as long as its own run allows."""
        sums: dict[int, float] = {}
        for service, share in ((self.one, self.share), (self.other, 1.0 - self.share)):
            for budget_ns, run_ns, threads in service.unusual if share else ():
                slack_ns = budget_ns - run_ns
                one_ns, other_ns = self.one.overrun_ns(slack_ns), self.other.overrun_ns(slack_ns)
                rest = (self.share * one_ns + (1.0 - self.share) * other_ns) / self.busy_ns
                sums[threads] = sums.get(threads, 0.0) + share * rest
        return sums
