"""One timer on the event loop for a wish that changes with every request.

The scheduler mostly wishes to be woken for the deadline of whoever waits longest, which moves on as soon as that one is
served. To cancel a timer and set another each time takes longer than to let it go off too early once in a budget and
set it anew then. Decides nothing; for the event loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.core.clock import Clock

NS_PER_S = 1_000_000_000


class Alarm:
    """Calls `ring` at the time last wished for; once for each wish."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        """Nothing is wished for."""
        self._clock = clock
        self._ring = ring
        self._at_ns: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ns = 0

    def set(self, at_ns: int | None) -> None:
        """Ring at `at_ns` and at no time wished for before; None: not at all."""
        self._at_ns = at_ns
        if at_ns is None:
            return
        if self._timer is not None:
            if self._timer_at_ns <= at_ns:
                return
            self._timer.cancel()
        self._start_timer(at_ns)

    def _start_timer(self, at_ns: int) -> None:
        delay_s = max(0, at_ns - self._clock.now_ns()) / NS_PER_S
        self._timer, self._timer_at_ns = asyncio.get_running_loop().call_later(delay_s, self._went_off), at_ns

    def _went_off(self) -> None:
        self._timer = None
        at_ns = self._at_ns
        if at_ns is None:
            return
        if at_ns > self._clock.now_ns():
            self._start_timer(at_ns)
            return
        self._at_ns = None
        self._ring()
