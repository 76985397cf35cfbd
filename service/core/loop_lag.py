"""How long what arrives waits for the event loop before anybody can see it.

In a flood the loop takes longer for a turn than budgets last, and a request that it reads at last was sent a turn ago.
By its own clock the server would keep promises that it has broken already, and its workers would be busy with answers
that are of no use, which is what keeps the loop from its core: the more is late, the more is admitted. Counted as part
of the budget, the wait has fewer admitted, and the loop has its core back. Polls nothing: a turn is timed when a
request comes.
"""

from __future__ import annotations

from collections.abc import Callable

from service.core.clock import Clock

_TURNS_READING_MAX = 2
"""Turns of the loop that reading a picture may take: it comes in so many pieces."""

USUAL_NS = 5_000_000
"""A turn of ordinary work: in what answers take to be handed over, which `Engine.admit` counts for the way in too."""


class LoopLag:
    """The last turn that took longer than usual, as long as it can still be felt."""

    def __init__(self, clock: Clock) -> None:
        """Nothing was late yet."""
        self._clock = clock
        self._began_ns: int | None = None
        self._lag_ns = 0
        self._ended_ns = 0

    def behind_ns(self, call_soon: Callable[[Callable[[], None]], object], reading_ns: int = 0) -> int:
        """How long a request that was read just now had waited to be; `call_soon` is the loop's own.

        As long as the last turn took, for all that are read in the one after it. A backlog that took so long to work
        through is gone after as long, unless somebody came meanwhile. `reading_ns`: from its first byte to its last,
        which is the network's time while the loop keeps up; while it is behind, each piece has waited for a turn.
        """
        if self._began_ns is None:
            self._began_ns = self._clock.now_ns()
            if self._began_ns - self._ended_ns > self._lag_ns:
                self._lag_ns = 0
            call_soon(self._turn_over)
        return self._lag_ns + min(reading_ns, _TURNS_READING_MAX * self._lag_ns)

    def _turn_over(self) -> None:
        assert self._began_ns is not None
        self._ended_ns = self._clock.now_ns()
        turn_ns = self._ended_ns - self._began_ns
        self._lag_ns = turn_ns if turn_ns > USUAL_NS else 0
        self._began_ns = None
