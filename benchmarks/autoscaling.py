"""Which signal a fleet should be scaled by: replicas with the real scheduler behind a balancer, through a day.

Simulated on a fake clock, since a cluster's day is long and noisy: the same arrivals for every rule, and what it earns
beside what it costs. Writes `results/autoscaling.md` and its plots.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.autoscaling_days import HURRY, MEAN_LOAD, SEED, Day, Rule, Steady, run_rule, steady
from benchmarks.autoscaling_plots import plot_costs, plot_signals
from benchmarks.report import origin, table
from tests.simulation.fleet import BUSY, DEGRADED, GIVEN_UP, QUEUED, SIGNALS, FleetReport

RESULTS = Path(__file__).parent / "results"
STUDIED = ("cpu-lite", "cpu-b")
LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
FIXED = (2, 3, 4, 6, 10)
POINTS = {"cpu-lite": (1.0, 1.5, 2.0), "cpu-b": (4.0, 4.9)}
"""Accuracy given up, in points: of the two stores' 3.2 and 6.1 where nothing is left to give."""
QUEUES = (1.0, 2.0)
CHOSEN = {"cpu-lite": 2.0, "cpu-b": 4.9}
CHOSEN_QUEUE = 2.0

NOTES = """Every replica runs the real scheduler on a fake clock, with the menu and the two cores of a machine of
`tests/simulation/machines.py`: `cpu-lite` is the default store, `cpu-b` is B0 to B7 in fp32. A balancer sends each
request to the less busy of two replicas drawn at random; the autoscaler follows Kubernetes' published algorithm with
the bounds of `deploy/kubernetes/components/hpa` (2 to 10 replicas). Budgets are log-uniform, 10–500 ms. Load 1 is what
a replica carries at its cheapest choice; traffic is {mean:g} of that on average. The wave goes from night over noon,
seven times as much, to night, with eight bursts of a fortieth of the day each, 2.5 times what is around them.

Every time of the autoscaler, of the metrics' windows and of the start of a replica ({start_s:g} s, unless said
otherwise) is divided by {hurry:g}, and so is the day: {day_s:g} s stand for {hours:.1f} hours, a steeper wave than a
real day's. Decoding takes no core here, so that real cores are busier than *cores in use* says.

- **accuracy given up**: points that answers lack of what an idle server would have used for them, on average.
- **degraded answers**: the share of answers that lack any.
- **queue depth**: decoded requests that wait; **cores in use**: share of the cores' time that runs take.
- **replicas**: mean number over the day, from being asked for to being gone: the cost. **most**: the highest number.
- **effective accuracy**: top-1 percent over all requests, late and refused ones counted 0. **in time**: share of all.
- **gain**: effective accuracy beyond that of a fixed fleet of the same mean size, between the sizes that were run.
"""


def rules(machine: str) -> dict[str, Rule]:
    """Everything that is compared on every day."""
    chosen = CHOSEN[machine]
    return {
        **{f"fixed {count}": Rule(fixed=count) for count in FIXED},
        **{f"CPU {share:.0%}": Rule({BUSY: share}) for share in (0.5, 0.7, 0.8)},
        "degraded 25%": Rule({DEGRADED: 0.25}),
        **{f"given up {points:g}": Rule({GIVEN_UP: points / 100}) for points in POINTS[machine]},
        **{f"queue {depth:g}": Rule({QUEUED: depth}) for depth in QUEUES},
        f"given up {chosen:g}, queue {CHOSEN_QUEUE:g}": Rule({GIVEN_UP: chosen / 100, QUEUED: CHOSEN_QUEUE}),
    }


def variations(machine: str) -> dict[str, Rule]:
    """What the chosen rule and the usual one owe to the times around them."""
    targets = {GIVEN_UP: CHOSEN[machine] / 100, QUEUED: CHOSEN_QUEUE}
    name = f"given up {CHOSEN[machine]:g}, queue {CHOSEN_QUEUE:g}"
    return {
        **{f"{name}; starts in {start:g} s": Rule(targets, start_s=start) for start in (15.0, 180.0)},
        **{f"{name}; shrinks after {wait:g} s": Rule(targets, down_window_s=wait) for wait in (60.0, 600.0)},
        **{f"CPU 70%; starts in {start:g} s": Rule({BUSY: 0.7}, start_s=start) for start in (15.0, 180.0)},
    }


def main(argv: Sequence[str]) -> None:
    """Run every rule over every day of every machine, and write tables and plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks autoscaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a day of 20 s instead of a minute")
    parser.add_argument("--traces", type=Path, help="folder of CSV traces: arrival_ms,count,slo_ms; the last is used")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--machines", nargs="+", choices=STUDIED, default=list(STUDIED))
    chosen = parser.parse_args(argv)
    duration_s = 20.0 if chosen.quick else 60.0
    command = " ".join(["python -m benchmarks autoscaling", *argv])
    for folder in filter(None, (chosen.traces, chosen.results)):
        command = command.replace(str(folder), "DIR")
    notes = NOTES.format(
        mean=MEAN_LOAD, hurry=HURRY, day_s=duration_s, hours=duration_s * HURRY / 3600, start_s=Rule().start_s
    )
    sections = [f"# By what to scale a fleet\n\n{origin(command)}\n\nSeed {SEED}.\n\n{notes}"]
    chosen.results.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for machine in chosen.machines:
            traces = sorted(chosen.traces.glob("*.csv"))[-1:] if chosen.traces else []
            days = [Day(machine, duration_s), *(Day(machine, duration_s, trace) for trace in traces)]
            sections.append(_signals(machine, list(pool.map(partial(steady, machine), LOADS)), chosen.results))
            print(sections[-1], flush=True)
            for day in days:
                compared = rules(machine) | ({} if day.trace else variations(machine))
                found = dict(zip(compared, pool.map(partial(run_rule, day), compared.values()), strict=True))
                sections.append(_section(day, found, chosen.results))
                print(sections[-1], flush=True)
    (chosen.results / "autoscaling.md").write_text("\n\n".join(sections) + "\n")
    print(f"written: {chosen.results / 'autoscaling.md'}")


def _signals(machine: str, found: Sequence[Steady], folder: Path) -> str:
    """What each signal says of a replica's load."""
    plot_signals(folder / f"autoscaling-{machine}-signals.svg", machine, found)
    header = ("load", *SIGNALS, "effective accuracy", "in time")
    rows = [
        (
            f"{one.load:g}",
            f"{one.signals[GIVEN_UP] * 100:.2f}",
            f"{one.signals[DEGRADED]:.2f}",
            f"{one.signals[QUEUED]:.2f}",
            f"{one.signals[BUSY]:.2f}",
            f"{one.effective_accuracy:.2f}",
            f"{one.in_time:.4f}",
        )
        for one in found
    ]
    image = f"![signals over load](autoscaling-{machine}-signals.svg)"
    return f"## {machine}: what the signals of one replica say\n\n{table(header, rows)}\n\n{image}"


def _section(day: Day, found: Mapping[str, FleetReport], folder: Path) -> str:
    """One day under every rule."""
    frontier = [(report.replicas_mean, report.effective_accuracy) for report in map(found.get, _fixed()) if report]
    rows = [
        (
            name,
            f"{report.replicas_mean:.2f}",
            str(report.replicas_most),
            f"{report.effective_accuracy:.2f}",
            f"{report.in_time:.4f}",
            f"{report.effective_accuracy - _between(frontier, report.replicas_mean):+.2f}",
        )
        for name, report in found.items()
    ]
    kind = "trace" if day.trace else "bursts"
    name = f"autoscaling-{day.machine}-{kind}.svg"
    plot_costs(folder / name, f"{day.machine}: {kind}", found)
    header = ("rule", "replicas", "most", "effective accuracy", "in time", "gain")
    offered = next(iter(found.values())).offered
    title = f"## {day.machine}: {'a recorded trace, stretched over the day' if day.trace else 'a wave with bursts'}"
    return f"{title}\n\n{offered} requests.\n\n{table(header, rows)}\n\n![accuracy over cost]({name})"


def _fixed() -> list[str]:
    return [f"fixed {count}" for count in FIXED]


def _between(frontier: Sequence[tuple[float, float]], replicas: float) -> float:
    """Effective accuracy of a fixed fleet of this mean size, in a straight line between its neighbours."""
    for (fewer, low), (more, high) in itertools.pairwise(frontier):
        if replicas <= more:
            return low + (high - low) * max(0.0, replicas - fewer) / (more - fewer)
    return frontier[-1][1]


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
