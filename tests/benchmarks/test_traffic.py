"""Schedules: exact rates, kept shapes, and the same requests from the same seed."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.traffic import NS_PER_S, Mix, Stretch, TraceError, gamma_bursts, schedule, trace

MIX = Mix(budget_ms_low=25, budget_ms_high=500, photographs=3)


@given(
    rates=st.lists(st.floats(1, 300), min_size=1, max_size=3),
    duration_s=st.floats(0.5, 4),
    cv2=st.floats(0.25, 8),
    seed=st.integers(0, 2**32),
)
def test_each_stretch_has_exactly_its_rate_in_order_and_within_bounds(rates, duration_s, cv2, seed):
    """Every stretch holds rate times duration requests, inside it and in order, with budgets of the mix."""
    found = schedule(gamma_bursts(cv2), [Stretch(rate, duration_s) for rate in rates], MIX, seed)
    assert [request.at_ns for request in found] == sorted(request.at_ns for request in found)
    counts = [0] * len(rates)
    position = 0
    for index, rate in enumerate(rates):
        counts[index] = round(rate * duration_s)
        stretch = found[position : position + counts[index]]
        position += counts[index]
        assert all(
            index * duration_s * NS_PER_S - 1 <= request.at_ns <= (index + 1) * duration_s * NS_PER_S + 1
            for request in stretch
        )
    assert len(found) == sum(counts)
    assert all(25e6 - 1 <= request.budget_ns <= 500e6 + 1 and request.photograph in range(3) for request in found)


def test_a_seed_is_a_schedule():
    """Equal seeds give equal requests, another seed others."""
    stretches = [Stretch(100, 1)]
    assert schedule(gamma_bursts(4), stretches, MIX, 7) == schedule(gamma_bursts(4), stretches, MIX, 7)
    assert schedule(gamma_bursts(4), stretches, MIX, 7) != schedule(gamma_bursts(4), stretches, MIX, 8)


@pytest.mark.parametrize("cv2", [1.0, 4.0])
def test_gaps_vary_as_much_as_asked(cv2):
    """The squared coefficient of variation of many gaps is the asked one, within a quarter."""
    shares = gamma_bursts(cv2)(random.Random(1), 20_000)
    gaps = [after - before for before, after in itertools.pairwise(shares)]
    assert statistics.variance(gaps) / statistics.mean(gaps) ** 2 == pytest.approx(cv2, rel=0.25)


def test_budgets_are_log_uniform():
    """Half of the budgets are below the geometric middle of the range."""
    found = schedule(gamma_bursts(1), [Stretch(20_000, 1)], MIX, 3)
    below = sum(request.budget_ns < (25e6 * 500e6) ** 0.5 for request in found)
    assert below / len(found) == pytest.approx(0.5, abs=0.02)


def test_burstiness_must_be_positive():
    """A squared coefficient of variation of 0 is refused."""
    with pytest.raises(ValueError, match="above 0"):
        gamma_bursts(0)


def test_a_trace_keeps_its_shape(tmp_path):
    """Gaps of a replayed trace have the proportions they have in the file, whatever the rate."""
    path = tmp_path / "uneven.csv"
    path.write_text("".join(f"{at},1,300\n" for at in (0, 10, 40, 50, 80, 90, 120)))
    shares = trace(path)(random.Random(0), 4)
    gaps = [round(after - before, 9) for before, after in itertools.pairwise(shares)]
    assert set(gaps) == {0.125, 0.375}
    assert shares[0] == 0.0


def test_a_line_may_stand_for_several_arrivals(tmp_path):
    """`count` requests arrive at the line's time."""
    path = tmp_path / "counts.csv"
    path.write_text("0,3,300\n10,1,300\n")
    assert trace(path)(random.Random(0), 3) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("arrival_ms,count,slo_ms\n", "is not"),
        ("1\n", "is not"),
        ("5,1,300\n4,1,300\n", "back in time"),
        ("", "no arrivals"),
    ],
)
def test_a_bad_trace_is_refused_by_name(tmp_path, text, reason):
    """What is no trace is an error that names the file and the fault."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=f"bad.csv.*{reason}"):
        trace(path)


def test_a_trace_that_is_too_short_says_so(tmp_path):
    """Asking for more arrivals than a trace has is an error, not a repetition."""
    path = tmp_path / "short.csv"
    path.write_text("0,1,300\n1,1,300\n")
    with pytest.raises(TraceError, match=r"2 arrivals, too few for 2"):
        trace(path)(random.Random(0), 2)
