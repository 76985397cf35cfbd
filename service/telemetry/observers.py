"""All that observes a server, built at once: metrics always, tracing and the access log where they are on.

What is off is not called, and without tracing nothing of ours imports OpenTelemetry. It decides nothing about requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.core.clock import Clock
from service.core.instrument import Instrument
from service.exchange import ExchangeObserver, ExchangeObservers
from service.telemetry.access_log import AccessLog
from service.telemetry.metrics import PrometheusInstrument, create_registry


class TracingError(Exception):
    """Tracing was asked for and cannot be had. The message says what to install."""


@dataclass(frozen=True, slots=True)
class Observers:
    """`metrics` is one of `instruments`, named since front ends show its page.

    `exchanges` is None if nobody observes exchanges. `close` sends what is still to be sent, within so many seconds.
    """

    metrics: PrometheusInstrument
    instruments: tuple[Instrument, ...]
    exchanges: ExchangeObserver | None
    close: Callable[[float], bool]


def build_observers(
    *,
    version: str,
    clock: Clock,
    tracing_endpoint: str | None = None,
    tracing_ratio: float = 1.0,
    access_log_share: float | None = None,
) -> Observers:
    """`tracing_endpoint` None: no tracing; else see `open_tracing`, as for `tracing_ratio`.

    `access_log_share` None: no access log; else see `AccessLog`.

    Raises:
        TracingError: OpenTelemetry is not installed.
    """
    registry = create_registry(version)
    access_log = [] if access_log_share is None else [AccessLog(access_log_share, clock.now_ns)]
    if tracing_endpoint is None:
        metrics = PrometheusInstrument(registry)
        return Observers(metrics, (metrics, *access_log), access_log[0] if access_log else None, lambda _: True)
    try:
        from service.telemetry.tracing import open_tracing  # noqa: PLC0415 - an extra, and only imported when it is on
    except ModuleNotFoundError as error:
        raise TracingError(
            f"--tracing-endpoint needs OpenTelemetry, which is not installed (no module {error.name}); "
            "install it with `pip install 'phiserve[tracing]'`, or leave the flag out"
        ) from error
    tracing = open_tracing(tracing_endpoint, tracing_ratio, version=version, now_ns=clock.now_ns)
    metrics = PrometheusInstrument(registry, tracing.exemplar)
    exchanges = ExchangeObservers(tracing, *access_log)
    return Observers(metrics, (metrics, tracing, *access_log), exchanges, tracing.close)
