"""How long an answer takes from the end of its run until it is handed over: profiled at rest, then followed.

Between the two lie a hand-over to the event loop and whatever the loop does before. On a quiet machine that is what the
profile says; where decoding, runs and clients share the cores it is milliseconds, which a budget has to cover too.
Followed by its median: a run's prediction is a high quantile already. With that of both a loaded server refused more
and had no more in time. Reads no clock.
"""

from __future__ import annotations

from service.core.drift import Drift

_WORTH_TELLING = 1 / 16


class Delivery:
    """The time to plan with, in `overhead_ns`. Tell it of every answer."""

    def __init__(self, profiled_ns: int, drift: Drift | None = None) -> None:
        """Start from the profile, and from what is known of the machine if another profile was followed before."""
        self._profiled_ns = profiled_ns
        self._drift = drift or Drift()
        self.overhead_ns = profiled_ns

    def over(self, profiled_ns: int, now_ns: int) -> Delivery:
        """The same machine under another profile."""
        successor = Delivery(profiled_ns, self._drift)
        successor.refresh(now_ns)
        return successor

    def took(self, took_ns: int, now_ns: int) -> bool:
        """An answer was handed over at `now_ns`, `took_ns` after the end of its run; True if `overhead_ns` changed."""
        self._drift.observe(self._profiled_ns, took_ns, now_ns)
        return self.refresh(now_ns)

    def refresh(self, now_ns: int) -> bool:
        """What is old says nothing about now; True if `overhead_ns` changed. Small changes are left out."""
        usual = self._drift.median(now_ns)
        overhead_ns = self._profiled_ns if usual is None else round(self._profiled_ns * usual)
        if abs(overhead_ns - self.overhead_ns) <= _WORTH_TELLING * self.overhead_ns:
            return False
        self.overhead_ns = overhead_ns
        return True
