"""A clock that moves only when a test says so."""

from __future__ import annotations


class FakeClock:
    """Implements `service.core.clock.Clock`; starts at one second so that 0 is never a valid time by accident."""

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance(self, delta_ns: int) -> None:
        assert delta_ns >= 0, "time does not go back"
        self._now_ns += delta_ns
