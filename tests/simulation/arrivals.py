"""Seeded arrival processes, steady, bursty, changing and recorded, and the budgets that their requests bring."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from service.core.request import DEFAULT_POLICY, RoutingPolicy
from tests.simulation.simulator import MS, Arrival

NS_PER_S = 1_000_000_000


def log_uniform_budget_ns(rng: random.Random, low_ms: float = 10, high_ms: float = 500) -> int:
    """The stated mix: every factor of the range is as likely as any other."""
    return int(math.exp(rng.uniform(math.log(low_ms), math.log(high_ms))) * MS)


def gamma_gaps(rng: random.Random, rate_per_s: float, cv2: float = 1.0) -> Iterator[int]:
    """Inter-arrival gaps with squared coefficient of variation `cv2` (1 is Poisson), in nanoseconds."""
    shape = 1.0 / cv2
    while True:
        yield int(rng.gammavariate(shape, cv2 / rate_per_s) * NS_PER_S)


def arrivals(
    seed: int,
    *,
    rate_per_s: float,
    duration_s: float,
    cv2: float = 1.0,
    budget_ms: tuple[float, float] = (10, 500),
    policy: RoutingPolicy = DEFAULT_POLICY,
) -> list[Arrival]:
    """Arrivals for `duration_s` with log-uniform budgets."""
    rng = random.Random(seed)
    found: list[Arrival] = []
    now_ns = 0
    for gap_ns in gamma_gaps(rng, rate_per_s, cv2):
        now_ns += gap_ns
        if now_ns > duration_s * NS_PER_S:
            return found
        found.append(Arrival(now_ns, log_uniform_budget_ns(rng, *budget_ms), policy))
    raise AssertionError("unreachable: gaps are endless")


Shape = Callable[[float], float]
"""Rate over time: from the fraction of the run that is over, 0 to 1, to a factor of the mean rate."""


def ramp(passed: float) -> float:
    """From a quarter of the mean rate up to seven quarters, in a straight line."""
    return 0.25 + 1.5 * passed


def diurnal(passed: float) -> float:
    """One day: from the quiet of night through a noon of seven quarters of the mean rate, back to a quarter of it."""
    return 1.0 - 0.75 * math.cos(2 * math.pi * passed)


def shaped_arrivals(
    seed: int, shape: Shape, *, rate_per_s: float, duration_s: float, lead_in_s: float = 0.0
) -> list[Arrival]:
    """Poisson arrivals whose rate follows `shape` around `rate_per_s`, with log-uniform budgets.

    For `lead_in_s` before the shape begins, its first rate. By thinning (Lewis and Shedler 1979): candidates at the
    highest rate, each kept with the chance that makes up.
    """
    rng = random.Random(seed)
    peak = max(shape(step / 1000) for step in range(1001))
    found: list[Arrival] = []
    now_ns = 0
    for gap_ns in gamma_gaps(rng, rate_per_s * peak):
        now_ns += gap_ns
        passed = (now_ns / NS_PER_S - lead_in_s) / duration_s
        if passed > 1.0:
            return found
        if rng.random() * peak < shape(max(0.0, passed)):
            found.append(Arrival(now_ns, log_uniform_budget_ns(rng)))
    raise AssertionError("unreachable: gaps are endless")


def read_trace(path: Path) -> list[int]:
    """Arrival times of a recorded trace in nanoseconds, rising, one entry a request.

    A CSV of lines `arrival_ms,count[,slo_ms]` without a header; a recorded latency goal is left out, since budgets
    are drawn.

    Raises:
        ValueError: a line that is not two or more numbers, or a file without requests.
    """
    times: list[int] = []
    with path.open(newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            try:
                at_ms, count = float(row[0]), int(row[1])
            except (ValueError, IndexError):
                raise ValueError(f"{path}, line {number}: expected arrival_ms,count[,slo_ms], got {row}") from None
            times.extend([round(at_ms * MS)] * count)
    if not times:
        raise ValueError(f"{path} holds no requests; each line is arrival_ms,count[,slo_ms]")
    return sorted(times)


def trace_arrivals(seed: int, times_ns: Sequence[int], *, rate_per_s: float, requests: int) -> list[Arrival]:
    """A piece of a trace, with time stretched so that its mean rate is `rate_per_s`, and log-uniform budgets.

    The piece has `requests` requests and starts where `seed` says. A trace that is too short starts over at its end,
    a mean gap after its last request, as often as it takes.
    """
    rng = random.Random(seed)
    count = len(times_ns)
    if count >= requests:
        first = rng.randrange(count - requests + 1)
        piece = list(times_ns[first : first + requests])
    else:
        first, lasts_ns = rng.randrange(count), times_ns[-1] - times_ns[0]
        round_ns = lasts_ns + max(1, lasts_ns // max(1, count - 1))
        piece = [times_ns[at % count] + at // count * round_ns for at in range(first, first + requests)]
    stretch = len(piece) / rate_per_s * NS_PER_S / max(1, piece[-1] - piece[0])
    return [Arrival(int((at_ns - piece[0]) * stretch), log_uniform_budget_ns(rng)) for at_ns in piece]
