"""Seeded arrival processes and budget mixes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

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
    found, now_ns = [], 0
    for gap_ns in gamma_gaps(rng, rate_per_s, cv2):
        now_ns += gap_ns
        if now_ns > duration_s * NS_PER_S:
            return found
        found.append(Arrival(now_ns, log_uniform_budget_ns(rng, *budget_ms), policy))
    raise AssertionError("unreachable: gaps are endless")
