"""A trend is a slope and how sure it is: exact where samples are, wide where they say little."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks.trend import trend

TIMES_S = [2.0 * index for index in range(200)]


def test_a_line_has_its_own_slope() -> None:
    """Without noise the interval closes around the slope, and what grows is not called flat."""
    found = trend(TIMES_S, [5 + 0.25 * at for at in TIMES_S])
    assert found.per_s == pytest.approx(0.25)
    assert found.high_per_s - found.low_per_s < 1e-6
    assert not found.is_flat


def test_noise_around_a_level_is_flat_and_growth_beyond_it_is_not() -> None:
    """Independent noise of one unit: no growth is found where there is none, and a tenth of a unit a second is."""
    rng = random.Random(1)
    noise = [rng.gauss(0, 1) for _ in TIMES_S]
    assert trend(TIMES_S, noise).is_flat
    growing = trend(TIMES_S, [value + 0.1 * at for value, at in zip(noise, TIMES_S, strict=True)])
    assert 0.09 < growing.low_per_s <= growing.per_s <= growing.high_per_s < 0.11


def test_the_interval_holds_the_slope_as_often_as_it_says() -> None:
    """In 200 series of noise that remembers itself, no more than one in eight has an interval without zero."""
    wrong = 0
    for seed in range(200):
        rng, value, values = random.Random(seed), 0.0, []
        for _ in TIMES_S:
            value = 0.6 * value + rng.gauss(0, 1)
            values.append(value)
        wrong += not trend(TIMES_S, values).is_flat
    assert wrong <= 25


def test_samples_that_resemble_each_other_say_less() -> None:
    """Each sample of noise repeated ten times gives an interval at least twice as wide as as many fresh ones."""
    rng = random.Random(2)
    fresh = [rng.gauss(0, 1) for _ in TIMES_S]
    repeated = [fresh[index // 10] for index in range(len(TIMES_S))]
    assert width(repeated) > 2 * width(fresh)


def test_what_never_changes_is_flat() -> None:
    """A constant, such as a count of threads, has a slope of exactly zero and no doubt."""
    found = trend(TIMES_S, [17.0] * len(TIMES_S))
    assert (found.per_s, found.is_flat) == (0.0, True)
    assert not math.isnan(found.high_per_s)


def width(values: list[float]) -> float:
    found = trend(TIMES_S, values)
    return found.high_per_s - found.low_per_s
