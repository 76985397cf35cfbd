"""An observer of exchanges that keeps what it was told, and checks that each end is told in its exchange's context."""

from __future__ import annotations

from contextvars import ContextVar

from service.exchange import Ending, Exchange, ExchangeObserver

_current: ContextVar[Exchange | None] = ContextVar("exchange under test", default=None)


class RecordingObserver(ExchangeObserver):
    def __init__(self) -> None:
        self.began: list[Exchange] = []
        self.ended: list[tuple[Exchange, Ending]] = []

    def exchange_began(self, exchange: Exchange) -> None:
        self.began.append(exchange)
        _current.set(exchange)

    def exchange_ended(self, exchange: Exchange, ending: Ending) -> None:
        assert _current.get() is exchange, "told in another context than it began in"
        self.ended.append((exchange, ending))

    @property
    def statuses(self) -> list[str | None]:
        return [ending.status for _, ending in self.ended]
