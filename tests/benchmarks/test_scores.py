"""Scores: what counts as in time, who counts as admitted, and percentiles that were really seen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load_generator import NO_ANSWER, NOT_SENT
from benchmarks.scores import Fate, Percentiles, ending, recovery, score, stage_values
from tests.benchmarks.endings import answered, expired, outcome, overloaded, refused


def test_shares_count_what_they_say():
    """Refused, overloaded and unsent requests are not admitted; late, expired and lost ones are, and earn nothing."""
    endings = [
        answered(80.0, took_ms=49),
        answered(70.0, took_ms=51),
        refused(),
        overloaded(),
        expired(),
        ending(outcome(NO_ANSWER)),
        ending(outcome(500)),
        ending(outcome(NOT_SENT)),
    ]
    found = score(endings, duration_s=2.0)
    assert found.attainment == 1 / 8
    assert found.admitted_in_time == 1 / 5
    assert found.admitted_in_time_by_server == 2 / 5
    assert found.effective_accuracy == 10.0
    assert found.mean_accuracy == 80.0
    assert found.goodput_per_s == 0.5
    assert found.fates["no usable answer"] == 2


def test_in_time_counts_from_when_a_request_was_due():
    """An answer within its budget of being sent, but not of being due, is late."""
    late = answered(lag_ms=20, took_ms=40, budget_ms=50)
    assert not late.in_time
    found = score([late], 1.0)
    assert (found.latency_p50_ms, found.latency_from_sent_p50_ms) == (60, 40)
    assert found.send_lag_p99_ms == 20


def test_a_504_in_words_nobody_knows_counts_as_admitted():
    """A refusal that is not recognised makes the server look worse, never better."""
    assert ending(outcome(504, {"detail": "something new"})).fate is Fate.EXPIRED


def test_nothing_at_all_has_no_shares():
    """Without requests every share is NaN, and nothing divides by zero."""
    assert math.isnan(score([], 1.0).attainment)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_was_seen_and_covers_its_share(values, percent):
    """A percentile is one of the values, and at least that share of all is not above it."""
    found = Percentiles(values).at(percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    assert sum(value < found for value in values) <= len(values) * percent / 100


def test_no_values_have_no_percentile():
    """Percentiles of nothing are NaN."""
    assert math.isnan(Percentiles([]).at(50))


def around_burst(bad_until_ms):
    """A request every 10 ms for 3 s, in time except from 1 s to `bad_until_ms`."""
    return [answered(at_ms=at_ms, took_ms=90 if 1000 <= at_ms < bad_until_ms else 10) for at_ms in range(0, 3000, 10)]


@pytest.mark.parametrize(("bad_until_ms", "after_ms"), [(1500, 0), (1600, 250), (2240, 750)])
def test_recovery_is_when_the_share_is_back_for_good(bad_until_ms, after_ms):
    """The first window that is as good as before, and stays so, is when the burst is over for callers."""
    found = recovery(around_burst(bad_until_ms), burst_s=(1.0, 1.5))
    assert (found.before, found.during, found.after_ms) == (1.0, 0.0, after_ms)


def test_a_server_that_stays_down_never_recovers():
    """Without a good window the time to recover is infinite."""
    assert recovery(around_burst(3000), burst_s=(1.0, 1.5)).after_ms == math.inf


def test_time_the_server_does_not_name_is_found():
    """What lies between the named stages, and outside of the server's total, are stages of their own."""
    found = stage_values([answered(total_ms=9, took_ms=12), refused()])
    assert found["between stages"].at(50) == pytest.approx(2)
    assert found["outside"].at(50) == pytest.approx(3)
    assert len(found["queue"]) == 1
