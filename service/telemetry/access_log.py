"""The access log: a line for each exchange that ended in an error, and for a share of the others.

Written from what front ends and the core tell, after the answer. A line has nothing of a body, a query or a header but
the request's id; probes have none, whatever they are answered.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from service.core.instrument import Instrument
from service.core.request import Classification
from service.exchange import Ending, Exchange, ExchangeObserver
from service.telemetry.error_kinds import kind_of

PATH_LENGTH_MAX = 200
NS_PER_MS = 1_000_000

logger = logging.getLogger(__name__)
# What is written is chosen by `--access-log` alone: whoever wants warnings only, of all else, still wants these lines.
logger.setLevel(logging.INFO)


@dataclass(slots=True, eq=False)
class _Served:
    """An exchange in progress: how its pictures ended, and the last answer and error among them."""

    began_ns: int
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    answer: Classification | None = None
    error: str | None = None


_served: ContextVar[_Served | None] = ContextVar("served", default=None)


class AccessLog(Instrument, ExchangeObserver):
    """Observes both ends: front ends tell of exchanges, the core of the pictures in them."""

    def __init__(self, share: float, now_ns: Callable[[], int], draw: Callable[[], float] = random.random) -> None:
        """`share` of the exchanges without an error, 0 to 1, are written; `draw` gives uniform numbers in [0, 1)."""
        self._share = share
        self._now_ns = now_ns
        self._draw = draw

    def request_settled(self, classification: Classification) -> None:
        """See `Instrument`."""
        if (served := _served.get()) is not None:
            served.answered += 1
            served.answer = classification

    def request_failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:  # noqa: ARG002 one line, at the end
        """See `Instrument`."""
        if (served := _served.get()) is not None:
            served.failed += 1
            served.error = kind_of(type(error))

    def request_cancelled(self, waited_ns: int) -> None:  # noqa: ARG002 as above
        """See `Instrument`."""
        if (served := _served.get()) is not None:
            served.cancelled += 1

    def exchange_began(self, exchange: Exchange) -> None:
        """See `ExchangeObserver`."""
        _served.set(None if exchange.is_probe else _Served(self._now_ns()))

    def exchange_ended(self, exchange: Exchange, ending: Ending) -> None:
        """See `ExchangeObserver`."""
        served = _served.get()
        if served is None or not (ending.is_error or self._draw() < self._share):
            return
        path = exchange.path if len(exchange.path) <= PATH_LENGTH_MAX else exchange.path[:PATH_LENGTH_MAX] + "…"
        method, status = exchange.method or "gRPC", ending.status or "unanswered"
        duration_ms = round((self._now_ns() - served.began_ns) / NS_PER_MS, 3)
        fields: dict[str, Any] = {
            "method": method,
            "path": path,
            "status": status,
            "duration_ms": duration_ms,
            "client": exchange.client,
        }
        logger.info("%s %s %s in %.1f ms", method, path, status, duration_ms, extra=fields | _pictures(served))


def _pictures(served: _Served) -> dict[str, Any]:
    """Only what happened: most exchanges have one picture, whose answer then is told."""
    counts = {"answered": served.answered, "failed": served.failed, "cancelled": served.cancelled}
    fields: dict[str, Any] = {name: count for name, count in counts.items() if count}
    if served.error is not None:
        fields["error"] = served.error
    if served.answer is not None and sum(counts.values()) == 1:
        answer = served.answer
        fields |= {
            "variant": answer.variant.name,
            "budget_ms": answer.budget_ns / NS_PER_MS,
            "budget_met": answer.budget_met,
            "batch_size": answer.batch_size,
        }
    return fields
