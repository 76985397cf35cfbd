"""Arrival processes have the rate, the burstiness and the shape they are asked for, and traces are read strictly."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.arrivals import arrivals, diurnal, ramp, read_trace, shaped_arrivals, trace_arrivals
from tests.simulation.simulator import MS, Arrival

NS_PER_S = 1_000_000_000


def gaps(found: list[Arrival]) -> list[int]:
    return [after.at_ns - before.at_ns for before, after in itertools.pairwise(found)]


@pytest.mark.parametrize("cv2", [1, 4, 8])
def test_gaps_have_the_mean_and_the_spread(cv2: float) -> None:
    """The mean gap is one over the rate, and its squared coefficient of variation is what was asked for."""
    found = gaps(arrivals(1, rate_per_s=1000, duration_s=40, cv2=cv2))
    mean = statistics.fmean(found)
    assert mean == pytest.approx(MS, rel=0.05)
    assert statistics.pvariance(found) / mean**2 == pytest.approx(cv2, rel=0.15)


def test_budgets_are_log_uniform() -> None:
    """Every factor of the range is as likely as any other: half of the budgets lie below the geometric mean."""
    budgets = sorted(arrival.budget_ns / MS for arrival in arrivals(1, rate_per_s=1000, duration_s=10))
    assert 10 <= budgets[0] < 10.1
    assert 490 < budgets[-1] <= 500
    assert budgets[len(budgets) // 2] == pytest.approx((10 * 500) ** 0.5, rel=0.05)


@pytest.mark.parametrize("shape", [ramp, diurnal])
def test_a_shape_keeps_the_mean_rate(shape: object) -> None:
    """The number of arrivals is rate times duration, and each tenth of the run has the share that the shape says."""
    found = shaped_arrivals(1, shape, rate_per_s=1000, duration_s=20)
    assert len(found) == pytest.approx(20_000, rel=0.03)
    for tenth in range(10):
        share = sum(tenth <= arrival.at_ns / NS_PER_S / 2 < tenth + 1 for arrival in found) / 2000
        assert share == pytest.approx(shape(tenth / 10 + 0.05), abs=0.1)


def test_a_lead_in_has_the_first_rate() -> None:
    """Before a ramp begins, arrivals come at the rate it begins with."""
    found = shaped_arrivals(1, ramp, rate_per_s=1000, duration_s=10, lead_in_s=4)
    assert sum(arrival.at_ns < 4 * NS_PER_S for arrival in found) == pytest.approx(4 * 250, rel=0.1)
    assert found[-1].at_ns == pytest.approx(14 * NS_PER_S, rel=0.01)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    """A seed names one run of every process; another seed another."""
    assert shaped_arrivals(3, ramp, rate_per_s=100, duration_s=1) == shaped_arrivals(
        3, ramp, rate_per_s=100, duration_s=1
    )
    assert arrivals(3, rate_per_s=100, duration_s=1) != arrivals(4, rate_per_s=100, duration_s=1)


def test_a_trace_is_read_with_its_counts(tmp_path: Path) -> None:
    """A line stands for `count` requests at its time; the latency goal beside it may be missing."""
    path = tmp_path / "trace.csv"
    path.write_text("5,1,300\n7.5,3,300\n6,2\n")
    assert read_trace(path) == [5 * MS, 6 * MS, 6 * MS, 7_500_000, 7_500_000, 7_500_000]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("arrival_ms,count\n1,1\n", "line 1"), ("1,1\n2\n", "line 2"), ("1,x\n", "line 1"), ("", "no requests")],
)
def test_a_bad_trace_says_what_would_be_right(tmp_path: Path, text: str, complaint: str) -> None:
    """A header, a short line, a word or an empty file is refused with the line and the expected columns."""
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_trace(path)
    assert "arrival_ms,count" in str(caught.value)


def test_a_trace_is_stretched_to_a_rate_and_keeps_its_shape() -> None:
    """The piece of a trace has the asked mean rate, and its gaps keep their proportions."""
    times_ns = [0, 10 * MS, 10 * MS, 40 * MS, 50 * MS]
    found = trace_arrivals(1, times_ns, rate_per_s=10, requests=5)
    assert [arrival.at_ns for arrival in found] == [0, 100 * MS, 100 * MS, 400 * MS, 500 * MS]


def test_a_trace_piece_is_as_long_as_asked() -> None:
    """Exactly `requests` are taken, from a place that the seed chooses."""
    times_ns = [index**2 * MS for index in range(100)]
    pieces = [trace_arrivals(seed, times_ns, rate_per_s=10, requests=20) for seed in range(5)]
    assert {len(piece) for piece in pieces} == {20}
    assert len({tuple(gaps(piece)) for piece in pieces}) > 1


def test_a_short_trace_starts_over() -> None:
    """A trace with fewer requests than are asked for goes round, a mean gap after its last one, at the asked rate."""
    times_ns = [500 * MS, 510 * MS, 520 * MS, 560 * MS]
    found = trace_arrivals(1, times_ns, rate_per_s=10, requests=13)
    assert len(found) == 13
    assert found[-1].at_ns == pytest.approx(1300 * MS)
    # Three whole rounds of gaps of 10, 10, 40 and, at the seam, 20 milliseconds, wherever they start.
    assert Counter(round(gap / (1300 * MS) * 240) for gap in gaps(found)) == {10: 6, 40: 3, 20: 3}
