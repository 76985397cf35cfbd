"""How many replicas a horizontal pod autoscaler asks for, by the rules that Kubernetes documents for it.

For each metric, desired = ceil(replicas * average / target), no change within the tolerance, and the largest wish of
all metrics wins. Replicas that are not ready yet have no metric: they count as zero where the others ask for more, so
that one peak is not answered twice. Growing is bounded by a percentage a period. Shrinking follows the highest wish of
the stabilisation window and is bounded by a number of replicas a period. Reads no clock and knows no traffic.

Source: Kubernetes documentation, "Horizontal Pod Autoscaling", sections "Algorithm details" and "Configurable scaling
behavior".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NS_PER_S = 1_000_000_000
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Bounds of `deploy/kubernetes/components/hpa`; `hurry` divides every time, for a day that is that much shorter."""

    replicas_min: int = 2
    replicas_max: int = 10
    up_percent: int = 100
    up_period_s: float = 60
    down_replicas: int = 1
    down_period_s: float = 120
    down_window_s: float = 300
    hurry: float = 1.0


class Autoscaler:
    """Wishes over time for one deployment."""

    def __init__(self, targets: Mapping[str, float], behaviour: Behaviour) -> None:
        """`targets`: per metric, the average over ready replicas that should hold."""
        self._targets = dict(targets)
        self._behaviour = behaviour
        self._wishes: deque[tuple[int, int]] = deque()
        self._changes: deque[tuple[int, int]] = deque()

    def wish(self, replicas: int, ready: Mapping[str, Sequence[float]], now_ns: int) -> int:
        """Replicas there should be, of `replicas`, ready or not. `ready`: per metric one value for each ready one."""
        behaviour = self._behaviour
        wanted = max(self._by(replicas, ready[name], target) for name, target in self._targets.items())
        wanted = min(behaviour.replicas_max, max(behaviour.replicas_min, wanted))
        self._wishes.append((now_ns, wanted))
        while now_ns - self._wishes[0][0] > self._ns(behaviour.down_window_s):
            self._wishes.popleft()
        found = self._bounded(replicas, wanted, now_ns)
        if found != replicas:
            self._changes.append((now_ns, found - replicas))
        return found

    def _by(self, replicas: int, values: Sequence[float], target: float) -> int:
        """What one metric asks for."""
        if not values:
            return replicas
        ratio = math.fsum(values) / len(values) / target
        if abs(ratio - 1.0) <= TOLERANCE:
            return replicas
        if ratio > 1.0 and len(values) < replicas:
            ratio = math.fsum(values) / replicas / target
            if ratio <= 1.0 + TOLERANCE:
                return replicas
        return math.ceil(ratio * replicas)

    def _bounded(self, replicas: int, wanted: int, now_ns: int) -> int:
        behaviour = self._behaviour
        if wanted > replicas:
            before = replicas - self._changed(now_ns, behaviour.up_period_s, up=True)
            return max(replicas, min(wanted, math.ceil(before * (1 + behaviour.up_percent / 100))))
        stable = max(wish for _, wish in self._wishes)
        before = replicas + self._changed(now_ns, behaviour.down_period_s, up=False)
        return min(replicas, max(stable, before - behaviour.down_replicas))

    def _changed(self, now_ns: int, period_s: float, *, up: bool) -> int:
        """How many replicas were added, or taken away, in the last period."""
        recent = [change for at_ns, change in self._changes if now_ns - at_ns < self._ns(period_s)]
        return sum(change for change in recent if change > 0) if up else -sum(change for change in recent if change < 0)

    def _ns(self, seconds: float) -> int:
        return int(seconds / self._behaviour.hurry * NS_PER_S)
