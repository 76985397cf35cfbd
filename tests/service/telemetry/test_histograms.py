"""Histograms that are counted without a lock read as prometheus_client's own do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from service.telemetry.histograms import Histograms
from service.telemetry.metrics import create_registry, render

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
BOUNDS = (0.001, 0.5, 1, 2.5)

Observed = list[tuple[str, float, dict[str, str] | None]]

observed = st.lists(
    st.tuples(
        st.sampled_from(["answered", "refused"]),
        st.sampled_from([0.0, *BOUNDS, 1e9]) | st.floats(0, 4),
        st.none() | st.just({"trace_id": "0" * 32, "span_id": "1" * 16}),
    ),
    max_size=30,
)


def page_of(histograms: Histograms | Histogram, registry: CollectorRegistry, values: Observed, accept: str) -> bytes:
    series = histograms.of if isinstance(histograms, Histograms) else histograms.labels
    for outcome, value, exemplar in values:
        series(outcome).observe(value, exemplar)
    return render(registry, accept)[0]


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@given(observed)
def test_the_page_is_that_of_the_library(accept: str, values: Observed) -> None:
    """Byte for byte, in both formats: bounds themselves, values above the last, sums and exemplars."""
    create_registry("1")  # series of birth times are off, as in a server
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: 1_700_000_000.25)
        ours, theirs = CollectorRegistry(), CollectorRegistry()
        own = Histograms("took_seconds", "What it took", "outcome", buckets=BOUNDS, registry=ours)
        library = Histogram("took_seconds", "What it took", ["outcome"], buckets=BOUNDS, registry=theirs)
        assert page_of(own, ours, values, accept) == page_of(library, theirs, values, accept)


def test_without_a_label_there_is_one_series() -> None:
    """As in the library: with its bounds, its count and its sum, and no label but the bound."""
    create_registry("1")
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    Histograms("slack_ratio", "What is left", buckets=BOUNDS, registry=ours).of().observe(0.5)
    Histogram("slack_ratio", "What is left", buckets=BOUNDS, registry=theirs).observe(0.5)
    assert render(ours) == render(theirs)


def test_a_name_is_refused_that_the_registry_has() -> None:
    """Two families of one name would be a page that nothing reads."""
    registry = CollectorRegistry()
    Histograms("took_seconds", "What it took", buckets=BOUNDS, registry=registry)
    with pytest.raises(ValueError, match="took_seconds"):
        Histograms("took_seconds", "What it took", buckets=BOUNDS, registry=registry)
