"""The only place in core that knows there is a clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic nanoseconds. Tests and simulations pass their own."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary fixed point; never goes back."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return time.monotonic_ns()
