"""Differences of two ways, measured in turns."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from benchmarks.paired import difference


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
