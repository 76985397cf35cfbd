"""What observing costs is told beside nothing, and the servers compared differ in that alone."""

from __future__ import annotations

import httpx
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import Tracer

from benchmarks.tracing_cost import BASELINE, Turn, document, receiver, ways
from service.settings import Settings


def test_differences_and_ratios_are_taken_within_rounds() -> None:
    """Noise that slows a whole round cancels."""
    found = {
        BASELINE: [Turn(100, 800, 8000), Turn(50, 1600, 16000)],
        "spans": [Turn(90, 1000, 8800), Turn(45, 1800, 17600)],
    }
    row = next(line for line in document(found, "command").splitlines() if line.startswith("| spans"))
    assert row == "| spans | 1400 | 200 (200–200) | 1.19 (1.12–1.25) | 1.10 (1.10–1.10) | 0.90 (0.90–0.90) |"


def test_every_way_is_a_valid_setting_and_one_is_nothing() -> None:
    """Flags that `phiserve serve` has, with values that it takes."""
    compared = ways("http://127.0.0.1:4318")
    assert compared[BASELINE] == ()
    for flags in compared.values():
        values = dict(zip(flags[::2], flags[1::2], strict=True))
        ratio = values.pop("--tracing-ratio", "1")
        Settings(tracing_ratio=float(ratio), **{name[2:].replace("-", "_"): value for name, value in values.items()})


def test_the_receiver_takes_what_the_exporter_sends() -> None:
    """Were exports refused, their retries would be measured too."""
    results: list[SpanExportResult] = []

    class Noting(OTLPSpanExporter):
        def export(self, spans):
            results.append(super().export(spans))
            return results[-1]

    with receiver() as url:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(Noting(endpoint=f"{url}/v1/traces")))
        tracer: Tracer = provider.get_tracer("test")
        tracer.start_span("one").end()
        assert httpx.post(f"{url}/v1/traces", content=b"").status_code == 200
    assert results == [SpanExportResult.SUCCESS]
