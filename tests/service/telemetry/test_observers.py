"""What observes a server is what was asked for, and nothing of what was not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.telemetry.access_log import AccessLog
from service.telemetry.observers import TracingError, build_observers
from tests.fakes.clock import FakeClock

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def test_by_default_there_are_metrics_alone() -> None:
    """No exchange is observed, so that front ends tell nobody of any; there is nothing to send at the end."""
    observers = build_observers(version="1.2.3", clock=FakeClock())
    assert observers.instruments == (observers.metrics,)
    assert observers.exchanges is None
    assert observers.close(0)


def test_the_access_log_observes_both_ends() -> None:
    """It hears of exchanges and of the pictures in them."""
    observers = build_observers(version="1.2.3", clock=FakeClock(), access_log_share=0.0)
    assert isinstance(observers.exchanges, AccessLog)
    assert observers.instruments == (observers.metrics, observers.exchanges)


def test_without_the_extra_a_start_says_what_to_install(monkeypatch) -> None:
    """The message names the flag, what is missing and the command that mends it."""
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    monkeypatch.delitem(sys.modules, "service.telemetry.tracing", raising=False)
    with pytest.raises(TracingError) as caught:
        build_observers(version="1.2.3", clock=FakeClock(), tracing_endpoint="http://127.0.0.1:4318")
    assert str(caught.value) == (
        f"--tracing-endpoint needs OpenTelemetry, which is not installed (no module {EXPORTER}); "
        "install it with `pip install 'phiserve[tracing]'`, or leave the flag out"
    )


def test_no_sdk_and_no_exporter_is_imported_unless_tracing_is_on() -> None:
    """A whole server is imported, and observers built, without them. The API alone is imported by FastAPI."""
    code = (
        "import sys, service.app, service.cli\n"
        "from service.core.clock import MonotonicClock\n"
        "service.app.build_observers(version='1', clock=MonotonicClock(), access_log_share=1.0)\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
