"""The account of a run, read from pages that the real metrics wrote."""

from __future__ import annotations

import math

import pytest

from benchmarks.server_metrics import account, read_samples
from service.core.request import Plan, RunResult
from service.errors import DeadlineExceeded, Overloaded
from service.telemetry.metrics import PrometheusInstrument, create_registry

MS = 1_000_000


@pytest.fixture
def instrument() -> PrometheusInstrument:
    return PrometheusInstrument(create_registry("0"))


def samples(instrument):
    return read_samples(instrument.metrics_page()[0].decode())


def run(instrument, variant, planned_ms, took_ms):
    result = RunResult((((0, 1.0),),), 1 * MS, (took_ms - 1) * MS)
    instrument.run_finished(Plan(variant, 1, (1,), planned_ms * MS), result)


def test_an_account_covers_only_what_happened_between_its_pages(instrument):
    """Refusals, their time at the door, and predictions are differences, summed over variants."""
    run(instrument, "lite0", 10, 40)
    instrument.request_failed(DeadlineExceeded("earlier"), admitted=False, waited_ns=50 * MS)
    before = samples(instrument)
    run(instrument, "lite0", 10, 8)
    run(instrument, "lite0", 10, 12)
    run(instrument, "lite2", 10, 10)
    instrument.request_failed(DeadlineExceeded("at the door"), admitted=False, waited_ns=1 * MS)
    instrument.request_failed(Overloaded("at the door", retry_after_ns=1), admitted=False, waited_ns=3 * MS)
    instrument.request_admitted()
    instrument.request_failed(DeadlineExceeded("in the queue"), admitted=True, waited_ns=90 * MS)
    found = account(before, samples(instrument))
    assert (found.refused, found.runs) == (1, 3)
    assert found.door_ms_mean == pytest.approx(2.0)
    assert found.measured_over_planned_mean == pytest.approx(1.0)
    assert found.overshot_share == pytest.approx(1 / 3)


def test_a_quiet_time_has_no_ratios(instrument):
    """Without runs and refusals, counts are 0 and ratios NaN."""
    page = samples(instrument)
    found = account(page, page)
    assert (found.refused, found.runs) == (0, 0)
    assert math.isnan(found.overshot_share)
    assert math.isnan(found.door_ms_mean)
