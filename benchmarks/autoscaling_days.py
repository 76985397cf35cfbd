"""What the autoscaling study plays: days of traffic, and rules that say how many replicas there should be.

One run of one rule on one day is a function of its arguments alone, so that runs can go side by side.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulation.arrivals import arrivals, diurnal, log_uniform_budget_ns, read_trace, shaped_arrivals
from tests.simulation.autoscaler import Autoscaler, Behaviour
from tests.simulation.fleet import BUSY, NS_PER_S, SIGNALS, Fleet, FleetReport, Timing
from tests.simulation.machines import MACHINES
from tests.simulation.simulator import Arrival
from tests.simulation.study import capacity_per_s

HURRY = 60.0
"""A day and every time of the autoscaler are this much shorter than in a cluster; requests and budgets are not."""

MEAN_LOAD = 1.5
"""Mean traffic, in replicas at their cheapest choice; at noon it is seven quarters of that."""

_BURSTS, _BURST_SHARE = 8, 0.2


def bursty(passed: float) -> float:
    """The day's wave, with steps up and down again that no forecast of the hour would show."""
    shape: float = diurnal(passed)
    return shape * (2.0 if passed * _BURSTS % 1.0 < _BURST_SHARE else 0.8)


@dataclass(frozen=True, slots=True)
class Day:
    """Traffic for one machine: the bursty wave, or the recorded trace at `trace`. Each seed is another one."""

    machine: str
    duration_s: float
    trace: Path | None = None
    seed: int = 1

    def arrivals(self) -> list[Arrival]:
        """The same for every rule."""
        rate_per_s = MEAN_LOAD * capacity_per_s(self.machine)
        if self.trace is not None:
            return _repeated(self.seed, read_trace(self.trace), rate_per_s, self.duration_s)
        found: list[Arrival] = shaped_arrivals(self.seed, bursty, rate_per_s=rate_per_s, duration_s=self.duration_s)
        return found


def _repeated(seed: int, times_ns: Sequence[int], rate_per_s: float, duration_s: float) -> list[Arrival]:
    """A recorded trace stretched over the day; each of its requests stands for as many as the rate asks for.

    They come at random within the mean gap after it, so that the trace's bursts stay bursts.
    """
    rng = random.Random(seed)
    span_ns = max(1, times_ns[-1] - times_ns[0])
    stretch = duration_s * NS_PER_S / span_ns
    copies = rate_per_s * duration_s / len(times_ns)
    gap_ns = duration_s * NS_PER_S / len(times_ns)
    found = []
    for at_ns in times_ns:
        for _ in range(int(copies) + (rng.random() < copies % 1)):
            at = int((at_ns - times_ns[0]) * stretch + rng.random() * gap_ns)
            found.append(Arrival(at, log_uniform_budget_ns(rng)))
    return sorted(found, key=lambda arrival: arrival.at_ns)


@dataclass(frozen=True, slots=True)
class Rule:
    """Targets of signals, or a fixed number of replicas; how slowly it shrinks, and how slowly replicas start."""

    targets: Mapping[str, float] = field(default_factory=dict)
    fixed: int | None = None
    down_window_s: float = Behaviour().down_window_s
    start_s: float = Timing().start_s

    @property
    def behaviour(self) -> Behaviour:
        """The bounds of the manifests, or none to move in."""
        if self.fixed is not None:
            return Behaviour(replicas_min=self.fixed, replicas_max=self.fixed, hurry=HURRY)
        return Behaviour(down_window_s=self.down_window_s, hurry=HURRY)


def run_rule(day: Day, rule: Rule) -> FleetReport:
    """One day under one rule."""
    build, workers = MACHINES[day.machine]
    behaviour = rule.behaviour
    scaler = Autoscaler(rule.targets or {BUSY: 1.0}, behaviour)
    timing = Timing(start_s=rule.start_s).hurried(HURRY)
    fleet = Fleet(build, workers, scaler=scaler, timing=timing, seed=day.seed)
    return fleet.run(day.arrivals(), replicas=behaviour.replicas_min)


@dataclass(frozen=True, slots=True)
class Steady:
    """What one replica's signals say under steady traffic at `load`, on average, and what it earns."""

    load: float
    signals: Mapping[str, float]
    effective_accuracy: float
    in_time: float


class _Listener:
    """In an autoscaler's place: changes nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[Mapping[str, Sequence[float]]] = []

    def wish(self, replicas: int, ready: Mapping[str, Sequence[float]], now_ns: int) -> int:  # noqa: ARG002 as there
        self.heard.append(ready)
        return replicas


def steady(machine: str, load: float, duration_s: float = 20.0, seed: int = 1) -> Steady:
    """One replica under Poisson traffic at `load` of its capacity at the cheapest choice."""
    build, workers = MACHINES[machine]
    listener, timing = _Listener(), Timing().hurried(HURRY)
    scaler: Any = listener
    traffic = arrivals(seed, rate_per_s=load * capacity_per_s(machine), duration_s=duration_s)
    report = Fleet(build, workers, scaler=scaler, timing=timing, seed=seed).run(traffic, 1)
    heard = listener.heard[round(timing.window_s / timing.look_s) :]
    means = {name: sum(ready[name][0] for ready in heard) / len(heard) for name in SIGNALS}
    return Steady(load, means, report.effective_accuracy, report.in_time)
