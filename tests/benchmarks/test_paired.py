"""Differences and ratios of two ways, measured in turns."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from benchmarks.paired import Ratio, Standing, difference, ratio


def test_what_falls_on_both_alike_is_not_counted():
    """A machine whose speed doubles between rounds leaves the difference as certain as before."""
    found = difference([10.5, 20.4, 40.6], [10.0, 20.0, 40.0])
    assert found.mean == pytest.approx(0.5)
    assert not found.may_be_none


def test_the_interval_is_that_of_a_paired_t_test():
    """As scipy has it."""
    rng = random.Random(3)
    theirs = [rng.gauss(60, 5) for _ in range(8)]
    ours = [value + rng.gauss(0.2, 1) for value in theirs]
    found, expected = difference(ours, theirs), stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_round_tells_nothing_apart():
    """Its difference is known, and how far it can be believed is not."""
    found = difference([61.0], [60.0])
    assert found.mean == 1.0
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.may_be_none


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_ways_that_were_not_measured_alike_have_no_difference(ours, theirs):
    """Rounds come in pairs."""
    with pytest.raises(ValueError, match=r"zip\(\)|never"):
        difference(ours, theirs)


def test_a_ratio_is_of_rounds_and_averaged_as_a_ratio():
    """A machine at half its speed halves both; twice and half as much are level, as they are the other way about."""
    found = ratio([90.0, 45.0, 180.0], [100.0, 50.0, 200.0])
    assert (found.mean, found.low, found.high) == pytest.approx((0.9, 0.9, 0.9))
    assert ratio([2.0, 1.0], [1.0, 2.0]).mean == pytest.approx(1.0)


def test_the_inverse_has_the_inverse_interval():
    """Who is divided by whom changes nothing in what is known."""
    ours, theirs = [90.0, 52.0, 170.0, 61.0], [100.0, 50.0, 200.0, 70.0]
    there, back = ratio(ours, theirs), ratio(theirs, ours)
    assert (1 / there.high, 1 / there.mean, 1 / there.low) == pytest.approx((back.low, back.mean, back.high))


def test_the_interval_holds_the_true_ratio_as_often_as_it_says():
    """Of 1000 runs of 12 noisy rounds on a machine whose speed wanders, 95 in 100 intervals hold the true 0.9."""
    rng = random.Random(11)

    def run() -> Ratio:
        speeds = [rng.uniform(50, 150) for _ in range(12)]
        return ratio(
            [0.9 * speed * rng.lognormvariate(0, 0.08) for speed in speeds],
            [speed * rng.lognormvariate(0, 0.08) for speed in speeds],
        )

    held = sum(found.low <= 0.9 <= found.high for found in (run() for _ in range(1000)))
    assert 930 <= held <= 970


def test_one_round_has_a_ratio_and_no_bounds():
    """Anything may be the true one."""
    found = ratio([3.0], [2.0])
    assert found == Ratio(pytest.approx(1.5), 0.0, math.inf)
    assert found.beside(1.15, more_is_better=False) is Standing.WITHIN_NOISE


def test_what_has_no_logarithm_has_no_ratio():
    """A server that answered nothing cannot be divided by."""
    with pytest.raises(ValueError, match=r"math domain error|expected a positive input"):
        ratio([1.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("low", "high", "of_rates", "of_times"),
    [
        (0.93, 0.97, Standing.BETTER, Standing.WORSE),
        (0.91, 0.97, Standing.WITHIN_NOISE, Standing.WITHIN_NOISE),
        (0.85, 0.91, Standing.WORSE, Standing.BETTER),
    ],
)
def test_a_goal_is_reached_or_missed_by_the_whole_interval(low, high, of_rates, of_times):
    """Beside 0.92: an interval that holds it says neither; which side is the better one depends on the figure."""
    found = Ratio((low + high) / 2, low, high)
    assert found.beside(0.92, more_is_better=True) is of_rates
    assert found.beside(0.92, more_is_better=False) is of_times


def test_a_ratio_is_written_with_its_interval():
    """Three digits: tables tell two hundredths apart."""
    assert str(Ratio(0.9721, 0.9188, 1.0284)) == "0.972 (0.919–1.028)"
