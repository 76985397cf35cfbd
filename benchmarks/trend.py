"""Whether something grows with time: a straight line through samples, with how sure its slope is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Trend:
    """The slope by least squares, a second, and the bounds within which it is with 95 % confidence."""

    per_s: float
    low_per_s: float
    high_per_s: float

    @property
    def is_flat(self) -> bool:
        """Whether no growth and no decline is among what it may be."""
        return self.low_per_s <= 0 <= self.high_per_s


def trend(times_s: Sequence[float], values: Sequence[float]) -> Trend:
    """The line through at least four samples.

    Samples in a row resemble each other, so there is less in them than their count says: it is reduced by the
    autocorrelation r of what the line leaves over, to n (1 - r) / (1 + r), before the interval is taken from
    Student's distribution (Santer et al. 2000).
    """
    if min(values) == max(values):
        return Trend(0.0, 0.0, 0.0)
    from scipy import stats  # noqa: PLC0415 - half a second, and an extra that only this needs

    line = stats.linregress(times_s, values)
    rest = [value - line.intercept - line.slope * at for at, value in zip(times_s, values, strict=True)]
    count = len(rest)
    alike = _likeness(rest)
    worth = min(float(count), max(2.1, count * (1 - alike) / (1 + alike)))
    error = float(line.stderr) * math.sqrt((count - 2) / (worth - 2))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, worth - 2)) * error
    return Trend(float(line.slope), float(line.slope) - reach, float(line.slope) + reach)


def _likeness(rest: Sequence[float]) -> float:
    """Autocorrelation at a lag of one; none where nothing is left over that could have any."""
    try:
        return correlation(rest[:-1], rest[1:])
    except StatisticsError:
        return 0.0
