"""What front ends tell of each exchange, and the interface through which exchanges are observed.

For every wire, as `core/instrument.py` is for the core: telemetry implements it with spans and an access log. It knows
no framework, and a front end that nobody observes makes none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_PROBES = frozenset(
    {
        "/livez",
        "/readyz",
        "/metrics",
        "/v2/health/live",
        "/v2/health/ready",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request of any kind and its answer, as known when its head has arrived.

    `method`: an HTTP method as sent, or None over gRPC. `path`: decoded, without the query; over gRPC
    "/package.Service/Method". `query`, `scheme` and `protocol_version` are HTTP's and empty over gRPC. `client`: the
    peer's address. `streaming`: it goes on until one side ends it, with any number of pictures. `header` gives a header
    or an entry of the call's metadata by its name in lower case, several of one name joined by commas, or None. All of
    it but `request_id` may be whatever a caller sent.
    """

    request_id: str
    method: str | None
    path: str
    client: str
    header: Callable[[str], str | None]
    query: str = ""
    scheme: str = ""
    protocol_version: str = ""
    server_address: str = ""
    server_port: int | None = None
    streaming: bool = False

    @property
    def is_probe(self) -> bool:
        """Whether machines ask it every few seconds to learn how the server is."""
        return self.path in _PROBES


@dataclass(frozen=True, slots=True)
class Ending:
    """How an exchange ended.

    `status`: HTTP's number or gRPC's name, None if there was no answer since the caller left or was cut off.
    `is_error`: anything but success; `is_fault`: one of the server's own, by the convention of the wire. `route`: the
    pattern that the path matched, empty where none did and over gRPC.
    """

    status: str | None
    is_error: bool
    is_fault: bool
    route: str = ""


class ExchangeObserver:
    """Observes exchanges. Every method here does nothing; override what you need.

    Both are called in the exchange's own context (see `contextvars`), which all its work inherits, must return at once
    and must not raise.
    """

    def exchange_began(self, exchange: Exchange) -> None:
        """The head of a request has arrived, its body not yet."""

    def exchange_ended(self, exchange: Exchange, ending: Ending) -> None:
        """Its answer was handed over, or there will be none."""


class ExchangeObservers(ExchangeObserver):
    """Several observers as one: each is told everything, in the order given, the end in reverse."""

    def __init__(self, *observers: ExchangeObserver) -> None:
        self._observers = observers

    def exchange_began(self, exchange: Exchange) -> None:
        """See `ExchangeObserver`."""
        for observer in self._observers:
            observer.exchange_began(exchange)

    def exchange_ended(self, exchange: Exchange, ending: Ending) -> None:
        """See `ExchangeObserver`."""
        for observer in reversed(self._observers):
            observer.exchange_ended(exchange, ending)
