"""What is offered to the server: when each request is due, with which budget and which photograph.

A shape says only how arrivals are spread over a stretch of time; the rate and the length come from the scenario, so
that one shape can be offered at any load. Everything is drawn from a seed, and every policy under test gets the
same requests. Sends nothing.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

Shape = Callable[[random.Random, int], list[float]]
"""Given a generator and a count n: n rising times within [0, 1), as shares of the stretch to be filled."""


class TraceError(ValueError):
    """A trace that cannot be replayed. The message names the file and what it should hold."""


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """One request: due `at_ns` after the start of its run, with its budget, and the photograph's index."""

    at_ns: int
    budget_ns: int
    photograph: int


@dataclass(frozen=True, slots=True)
class Mix:
    """What requests ask for: budgets log-uniform between the two bounds, photographs equally often."""

    budget_ms_low: float
    budget_ms_high: float
    photographs: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """`duration_s` seconds at `rate_per_s` requests a second."""

    rate_per_s: float
    duration_s: float


def gamma_bursts(cv2: float) -> Shape:
    """Gamma-distributed gaps whose squared coefficient of variation is `cv2`: 1 is Poisson, more is burstier."""
    if cv2 <= 0:
        raise ValueError(f"cv2 must be above 0 (1 is Poisson), got {cv2}")

    def shape(rng: random.Random, count: int) -> list[float]:
        gaps = [rng.gammavariate(1 / cv2, cv2) for _ in range(count + 1)]
        ends = list(itertools.accumulate(gaps))
        return [end / ends[-1] for end in ends[:-1]]

    return shape


def trace(path: Path) -> Shape:
    """The arrivals of a CSV file, `arrival_ms,count,slo_ms` a line without a header; its SLO column is not used.

    Asked for n arrivals, it takes n consecutive ones from a random place and stretches them evenly, which keeps
    their shape and gives exactly the wanted rate.

    Raises:
        TraceError: unreadable, not rising, or empty; and by the shape, when more arrivals are asked for than it has.
    """
    arrivals_ms = _read_trace(path)

    def shape(rng: random.Random, count: int) -> list[float]:
        if count >= len(arrivals_ms):
            raise TraceError(
                f"{path.name} has {len(arrivals_ms)} arrivals, too few for {count}; replay for a shorter time"
            )
        first = rng.randrange(len(arrivals_ms) - count)
        window = arrivals_ms[first : first + count + 1]
        length_ms = max(window[-1] - window[0], 1e-9)
        # Requests of the same millisecond as the one after the window would fall on its end.
        return [min((at_ms - window[0]) / length_ms, math.nextafter(1.0, 0.0)) for at_ms in window[:-1]]

    return shape


def _read_trace(path: Path) -> list[float]:
    arrivals_ms: list[float] = []
    with path.open(newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            try:
                at_ms, count = float(row[0]), int(row[1])
            except (ValueError, IndexError) as error:
                raise TraceError(f"{path.name}:{number} is not `arrival_ms,count,slo_ms`: {row}") from error
            if arrivals_ms and at_ms < arrivals_ms[-1]:
                raise TraceError(f"{path.name}:{number} goes back in time; sort the file by arrival_ms")
            arrivals_ms.extend([at_ms] * count)
    if not arrivals_ms:
        raise TraceError(f"{path.name} holds no arrivals; expected lines of `arrival_ms,count,slo_ms`")
    return arrivals_ms


def schedule(shape: Shape, stretches: Sequence[Stretch], mix: Mix, seed: int) -> list[ScheduledRequest]:
    """The requests of one run, in order of time: each stretch filled by `shape` at exactly its rate."""
    rng = random.Random(seed)
    found: list[ScheduledRequest] = []
    starts_s = 0.0
    for stretch in stretches:
        count = round(stretch.rate_per_s * stretch.duration_s)
        found.extend(
            ScheduledRequest(
                at_ns=round((starts_s + share * stretch.duration_s) * NS_PER_S),
                budget_ns=_log_uniform_ns(rng, mix),
                photograph=rng.randrange(mix.photographs),
            )
            for share in shape(rng, count)
        )
        starts_s += stretch.duration_s
    return found


def _log_uniform_ns(rng: random.Random, mix: Mix) -> int:
    budget_ms = math.exp(rng.uniform(math.log(mix.budget_ms_low), math.log(mix.budget_ms_high)))
    return round(budget_ms * NS_PER_MS)
