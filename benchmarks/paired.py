"""How much two ways differ that were measured in turns on the same requests, and how well that is known."""

from __future__ import annotations

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
