"""The interface through which the core can be observed without knowing by whom.

`telemetry/` implements it with Prometheus; tests implement it with lists. Every method is called on the event
loop's thread, must return at once and must not raise.
"""

from __future__ import annotations

from service.core.request import Classification, Plan, QueuedRequest, RunResult


class Instrument:
    """Observes the life of requests. Every method here does nothing; override what you need."""

    def request_admitted(self) -> None:
        """A request passed the door and is now somewhere between decode and its answer.

        Until its end, this and what follows is told in the request's own context (see `contextvars`), runs aside.
        """

    def request_queued(self, request: QueuedRequest, queued_ns: int) -> None:
        """An admitted request was decoded, and is given to the scheduler at `queued_ns`."""

    def request_settled(self, classification: Classification) -> None:
        """An admitted request got its answer."""

    def request_failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:
        """A request ended without an answer. `admitted` False: refused at the door."""

    def request_cancelled(self, waited_ns: int) -> None:
        """The caller of an admitted request left before it was settled."""

    def queue_changed(self, queued: int, in_flight: int) -> None:
        """The number of requests waiting for a worker, or being run, changed."""

    def run_started(self, plan: Plan, started_ns: int) -> None:
        """A planned run was handed to a worker at `started_ns`."""

    def run_finished(self, plan: Plan, result: RunResult) -> None:
        """A worker finished a planned run; compare `plan.latency_ns` with what it took."""

    def run_failed(self, plan: Plan, error: BaseException) -> None:
        """A worker raised while running a plan."""


class Instruments(Instrument):
    """Several instruments as one: each is told everything, in the order given."""

    def __init__(self, *instruments: Instrument) -> None:
        self._instruments = instruments

    def request_admitted(self) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.request_admitted()

    def request_queued(self, request: QueuedRequest, queued_ns: int) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.request_queued(request, queued_ns)

    def request_settled(self, classification: Classification) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.request_settled(classification)

    def request_failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.request_failed(error, admitted=admitted, waited_ns=waited_ns)

    def request_cancelled(self, waited_ns: int) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.request_cancelled(waited_ns)

    def queue_changed(self, queued: int, in_flight: int) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.queue_changed(queued, in_flight)

    def run_started(self, plan: Plan, started_ns: int) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.run_started(plan, started_ns)

    def run_finished(self, plan: Plan, result: RunResult) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.run_finished(plan, result)

    def run_failed(self, plan: Plan, error: BaseException) -> None:
        """See `Instrument`."""
        for instrument in self._instruments:
            instrument.run_failed(plan, error)
