"""How often requests arrive, as a rate that forgets: overall, and while something is running.

The second is what a run costs others: who arrives while it goes on. For traffic that knows nothing of the server both
are the same, since Poisson arrivals see time averages. But bursts come while runs go on, and the rate within them says
little about how full the machine is over time. And a client that sends its next request only when it has its answer
never arrives while its own request runs: it offers work without ever competing for a worker, and must not make the
server save capacity for it. So what is offered is the lower of the two. The second is remembered through quiet time,
in which it could not be seen: the burst that begins after a pause is judged by the bursts before it. Reads no clock.
"""

from __future__ import annotations

import math

_QUIET_WINDOWS = 8


class DecayedRate:
    """Events per exposed nanosecond, both forgotten with time constant `window_ns`, `quiet_ns` while not exposed.

    `prior_ns` of exposure without an event are assumed beforehand, so that the first event is not yet a rate; they
    weigh less with every event, so that what has been seen for long is not biased.
    """

    def __init__(self, window_ns: int, prior_ns: int, quiet_ns: int | None = None) -> None:
        """Nothing seen yet. `quiet_ns` is `window_ns` by default."""
        self._window_ns = window_ns
        self._quiet_ns = window_ns if quiet_ns is None else quiet_ns
        self._prior_ns = prior_ns
        self._count = 0.0
        self._exposure_ns = 0.0
        self._at_ns: int | None = None

    def advance(self, now_ns: int, *, exposed: bool) -> None:
        """Time has passed until `now_ns`; events could be seen in it if `exposed`."""
        if self._at_ns is None:
            self._at_ns = now_ns
        if now_ns <= self._at_ns:  # the end of one run is the start of the next
            return
        passed_ns = now_ns - self._at_ns
        kept = math.exp(-passed_ns / (self._window_ns if exposed else self._quiet_ns))
        self._count *= kept
        self._exposure_ns *= kept
        if exposed:
            self._exposure_ns += self._window_ns * (1.0 - kept)
        self._at_ns = now_ns

    def count(self) -> None:
        """An event happened at the time last advanced to."""
        self._count += 1.0

    @property
    def per_ns(self) -> float:
        """Events per nanosecond of exposure."""
        return self._count / (self._exposure_ns + self._prior_ns / (1.0 + self._count))


class ArrivalRate:
    """The arrival rate a planner should reckon with; told of arrivals, and of workers becoming busy and idle."""

    def __init__(self, window_ns: int, prior_ns: int) -> None:
        """`window_ns`: time constant. `prior_ns`: quiet time assumed beforehand."""
        self._overall = DecayedRate(window_ns, prior_ns)
        self._while_running = DecayedRate(window_ns, prior_ns, quiet_ns=_QUIET_WINDOWS * window_ns)
        self._running = False

    def arrival(self, now_ns: int) -> None:
        """A request arrived."""
        self._overall.advance(now_ns, exposed=True)
        self._overall.count()
        self._while_running.advance(now_ns, exposed=self._running)
        if self._running:
            self._while_running.count()

    def running(self, now_ns: int, *, anything: bool) -> None:
        """From `now_ns` on a run is in progress, or none is any more."""
        self._while_running.advance(now_ns, exposed=self._running)
        self._running = anything

    def per_ns(self, now_ns: int) -> float:
        """Arrivals per nanosecond while something runs."""
        self._while_running.advance(now_ns, exposed=self._running)
        return self._while_running.per_ns

    def offered_per_ns(self, now_ns: int) -> float:
        """Arrivals per nanosecond that compete for the machine, over time."""
        self._overall.advance(now_ns, exposed=True)
        return min(self._overall.per_ns, self.per_ns(now_ns))
