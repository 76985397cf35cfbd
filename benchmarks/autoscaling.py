"""Which signal a fleet should be scaled by: replicas with the real scheduler behind a balancer, through a day.

Simulated on a fake clock, since a cluster's day is long and noisy: the same arrivals for every rule, and what it earns
beside what it costs. Writes `results/autoscaling.md`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.report import origin
from tests.simulation.arrivals import diurnal, log_uniform_budget_ns, read_trace, shaped_arrivals
from tests.simulation.autoscaler import Autoscaler, Behaviour
from tests.simulation.fleet import BUSY, DEGRADED, NS_PER_S, QUEUED, Fleet, FleetReport, Timing
from tests.simulation.machines import MACHINES
from tests.simulation.simulator import Arrival
from tests.simulation.study import capacity_per_s
from tests.simulation.table import markdown

RESULTS = Path(__file__).parent / "results"
HURRY = 60.0
SEED = 1
MEAN_LOAD = 2.5
"""Mean traffic, in replicas at their cheapest choice; at noon it is seven quarters of that."""

FIXED = (2, 3, 4, 5, 6, 8, 10)
RULES: dict[str, Mapping[str, float]] = {
    **{f"CPU {share:.0%}": {BUSY: share} for share in (0.5, 0.7, 0.9)},
    **{f"degraded {share:.0%}": {DEGRADED: share} for share in (0.1, 0.25, 0.5)},
    "queue 8": {QUEUED: 8},
    **{f"degraded {share:.0%}, queue 8": {DEGRADED: share, QUEUED: 8} for share in (0.1, 0.25, 0.5)},
}

NOTES = """Every replica runs the real scheduler with the menu of `{machine}` ({workers} cores) on a fake clock; a
balancer sends each request to the less busy of two replicas drawn at random; the autoscaler follows Kubernetes'
published algorithm with the bounds of `deploy/kubernetes/components/hpa` (2 to 10 replicas). Budgets are log-uniform,
10–500 ms. Every time of the autoscaler, the metrics' windows and the start of a replica (60 s) are divided by
{hurry:g}, and so is the day: {day_s:g} s stand for {hours:.1f} hours.

- **replicas**: mean number over the day, from being asked for to being gone: the cost. **most**: the highest number.
- **effective accuracy**: top-1 percent over all requests, late and refused ones counted 0. **in time**: share of all.
- **same cost, fixed**: effective accuracy of a fixed fleet of the same mean size, between the sizes that were run.
"""


@dataclass(frozen=True, slots=True)
class Day:
    """Traffic for one machine: `trace` is a recorded one's path, or None for a diurnal wave."""

    machine: str
    duration_s: float
    trace: Path | None = None

    def arrivals(self) -> list[Arrival]:
        """The same for every rule."""
        rate_per_s = MEAN_LOAD * capacity_per_s(self.machine)
        if self.trace is None:
            wave: list[Arrival] = shaped_arrivals(SEED, diurnal, rate_per_s=rate_per_s, duration_s=self.duration_s)
            return wave
        return _repeated(read_trace(self.trace), rate_per_s, self.duration_s)


def _repeated(times_ns: Sequence[int], rate_per_s: float, duration_s: float) -> list[Arrival]:
    """A recorded trace stretched over the day; each of its requests stands for as many as the rate asks for.

    They come at random within the mean gap after it, so that the trace's bursts stay bursts.
    """
    rng = random.Random(SEED)
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


def run_rule(day: Day, rule: Mapping[str, float] | int) -> FleetReport:
    """A day under a rule: targets per metric, or a fixed number of replicas."""
    build, workers = MACHINES[day.machine]
    fixed = rule if isinstance(rule, int) else None
    behaviour = Behaviour(hurry=HURRY)
    if fixed is not None:
        behaviour = Behaviour(replicas_min=fixed, replicas_max=fixed, hurry=HURRY)
    targets = {BUSY: 1.0} if isinstance(rule, int) else rule
    fleet = Fleet(build, workers, scaler=Autoscaler(targets, behaviour), timing=Timing().hurried(HURRY), seed=SEED)
    return fleet.run(day.arrivals(), replicas=fixed or behaviour.replicas_min)


def main(argv: Sequence[str]) -> None:
    """Run every rule over every day and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks autoscaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a day of half a minute instead of four minutes")
    parser.add_argument("--traces", type=Path, help="folder of CSV traces: arrival_ms,count,slo_ms; the first is used")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--machine", choices=MACHINES, default="cpu-b")
    chosen = parser.parse_args(argv)
    duration_s = 30.0 if chosen.quick else 240.0
    traces = sorted(chosen.traces.glob("*.csv"))[:1] if chosen.traces else []
    days = [Day(chosen.machine, duration_s), *(Day(chosen.machine, duration_s, trace) for trace in traces)]
    command = " ".join(["python -m benchmarks autoscaling", *argv])
    for folder in filter(None, (chosen.traces, chosen.results)):
        command = command.replace(str(folder), "DIR")
    notes = NOTES.format(
        machine=chosen.machine,
        workers=MACHINES[chosen.machine][1],
        hurry=HURRY,
        day_s=duration_s,
        hours=duration_s * HURRY / 3600,
    )
    sections = [f"# By what to scale a fleet\n\n{origin(command, ())}\n\nSeed {SEED}.\n\n{notes}"]
    for day in days:
        sections.append(_section(day))
        print(sections[-1], flush=True)
    chosen.results.mkdir(parents=True, exist_ok=True)
    (chosen.results / "autoscaling.md").write_text("\n\n".join(sections) + "\n")
    print(f"written: {chosen.results / 'autoscaling.md'}")


def _section(day: Day) -> str:
    rules: dict[str, Mapping[str, float] | int] = {**{f"fixed {count}": count for count in FIXED}, **RULES}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        reports = dict(zip(rules, pool.map(partial(run_rule, day), rules.values()), strict=True))
    frontier = [
        (reports[f"fixed {count}"].replicas_mean, reports[f"fixed {count}"].effective_accuracy) for count in FIXED
    ]
    rows = [("rule", "replicas", "most", "effective accuracy", "in time", "same cost, fixed", "gain")]
    for name, report in reports.items():
        same = _between(frontier, report.replicas_mean)
        rows.append(
            (
                name,
                f"{report.replicas_mean:.2f}",
                str(report.replicas_most),
                f"{report.effective_accuracy:.2f}",
                f"{report.in_time:.4f}",
                f"{same:.2f}",
                f"{report.effective_accuracy - same:+.2f}",
            )
        )
    title = "A recorded trace, stretched over the day" if day.trace else "A wave: night, noon, night"
    return f"## {title}\n\n{reports['fixed 2'].offered} requests.\n\n{markdown(rows)}"


def _between(frontier: Sequence[tuple[float, float]], replicas: float) -> float:
    """Effective accuracy of a fixed fleet of this mean size, in a straight line between its neighbours."""
    for (fewer, low), (more, high) in itertools.pairwise(frontier):
        if replicas <= more:
            return low + (high - low) * max(0.0, replicas - fewer) / (more - fewer)
    return frontier[-1][1]


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
