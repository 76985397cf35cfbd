"""How much two ways differ that were measured in turns on the same requests, and how well that is known.

Knows no benchmark: numbers in, an interval out.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of what separates both in a round, and the interval that should hold the true one (95 %)."""

    mean: float
    low: float
    high: float

    @property
    def may_be_none(self) -> bool:
        """Whether no difference at all is among what it may be."""
        return self.low <= 0.0 <= self.high


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Of `ours` over `theirs`, round by round; what the machine does meanwhile falls on both and is not counted.

    The interval is that of Student's distribution; without a bound where there is one round only.

    Raises:
        ValueError: not as many rounds of one as of the other, or none.
    """
    found = [our - their for our, their in zip(ours, theirs, strict=True)]
    if not found:
        raise ValueError("two ways that were never measured have no difference")
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Difference(mean, -math.inf, math.inf)
    from scipy import stats  # noqa: PLC0415 - half a second, and an extra that only this needs

    error = statistics.stdev(found) / math.sqrt(len(found))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(found) - 1)) * error
    return Difference(mean, mean - reach, mean + reach)


class Standing(enum.Enum):
    """What an interval says of one value: all of it is better, all of it is worse, or the value is in it."""

    BETTER = enum.auto()
    WITHIN_NOISE = enum.auto()
    WORSE = enum.auto()


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times one is the other: the geometric mean over rounds, and the interval that should hold it (95 %)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """`0.972 (0.919–1.028)`."""
        return f"{self.mean:.3f} ({self.low:.3f}–{self.high:.3f})"

    def beside(self, value: float, *, more_is_better: bool) -> Standing:
        """Whether the true one can be told from `value`, and on which side of it it is."""
        if self.low <= value <= self.high:
            return Standing.WITHIN_NOISE
        return Standing.BETTER if (self.low > value) == more_is_better else Standing.WORSE


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of `ours` to `theirs`, round by round: a machine at half its speed halves both and changes nothing.

    Logarithms are averaged, so that twice and half weigh alike and the inverse has the inverse interval (95 %).

    Raises:
        ValueError: as `difference`, or a figure that is not above 0 and has no ratio.
    """
    found = difference([math.log(value) for value in ours], [math.log(value) for value in theirs])
    return Ratio(math.exp(found.mean), math.exp(found.low), math.exp(found.high))
