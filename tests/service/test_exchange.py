"""Several observers of exchanges are told what one is told."""

from __future__ import annotations

import pytest

from service.exchange import Ending, Exchange, ExchangeObserver, ExchangeObservers


def exchange(path: str) -> Exchange:
    return Exchange("id", "GET", path, "192.0.2.7", lambda _: None)


def test_every_observer_hears_of_beginning_and_end() -> None:
    """The beginning reaches them in order, the end in reverse: what one set up is there until the last has heard."""
    heard = []

    class Hearing(ExchangeObserver):
        def __init__(self, name: str) -> None:
            self.name = name

        def exchange_began(self, exchange: Exchange) -> None:
            heard.append((self.name, exchange))

        def exchange_ended(self, exchange: Exchange, ending: Ending) -> None:
            heard.append((self.name, exchange, ending))

    observers = ExchangeObservers(Hearing("first"), Hearing("second"))
    one, end = exchange("/classify"), Ending("200", is_error=False, is_fault=False)
    observers.exchange_began(one)
    observers.exchange_ended(one, end)
    assert heard == [("first", one), ("second", one), ("second", one, end), ("first", one, end)]


@pytest.mark.parametrize(
    ("path", "is_probe"),
    [
        ("/livez", True),
        ("/metrics", True),
        ("/v2/health/ready", True),
        ("/inference.GRPCInferenceService/ServerLive", True),
        ("/classify", False),
        ("/livez/", False),
        ("/phiserve.v1.Classifier/Classify", False),
    ],
)
def test_probes_are_told_from_work(path, is_probe) -> None:
    """What load balancers and scrapers ask every few seconds is a probe; nothing else is."""
    assert exchange(path).is_probe is is_probe
