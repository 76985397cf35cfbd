"""Several instruments are told what one is told."""

from __future__ import annotations

import inspect

import pytest

from service.core.instrument import Instrument, Instruments

EVENTS = [name for name, _ in inspect.getmembers(Instrument, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("event", EVENTS)
def test_every_instrument_hears_of_every_event(event) -> None:
    """Each event there is reaches all of them, in order and with everything that was told."""
    heard = []

    def hearing(position: int) -> Instrument:
        instrument = Instrument()
        setattr(instrument, event, lambda *told, **more: heard.append((position, told, more)))
        return instrument

    parameters = list(inspect.signature(getattr(Instrument, event)).parameters.values())[1:]
    told = tuple(object() for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY)
    more = {parameter.name: object() for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    getattr(Instruments(hearing(0), hearing(1)), event)(*told, **more)
    assert heard == [(0, told, more), (1, told, more)]
