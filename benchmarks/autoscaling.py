"""Which signal a fleet should be scaled by: replicas with the real scheduler behind a balancer, through several days.

Simulated on a fake clock, since a cluster's day is long and noisy: the same arrivals for every rule, and what it earns
beside what it costs. Each rule is judged by several days, and on each beside fixed fleets of that day. Writes
`results/autoscaling.md` and its plots.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.autoscaling_days import HURRY, MEAN_LOAD, Day, Rule, Steady, run_rule, steady
from benchmarks.autoscaling_plots import plot_costs, plot_signals
from benchmarks.report import origin, spread, table
from tests.simulation.fleet import BUSY, DEGRADED, GIVEN_UP, QUEUED, SIGNALS, FleetReport

RESULTS = Path(__file__).parent / "results"
STUDIED = ("cpu-lite", "cpu-b")
LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
FIXED = (4, 5, 6, 8)
"""Fleets that never change, around the sizes that rules come to: beside them a rule's gain is told. Accuracy over size
bends sharply at the second, and a line without it would give rules beside it half a point too much."""
GIVEN = {"cpu-lite": 2.0, "cpu-b": 4.9}
"""Accuracy given up, in points: of the two stores' 3.2 and 6.1 where nothing is left to give."""

Reports = Mapping[int, FleetReport]
"""What one rule came to, by the day's seed."""

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
- **gain**: effective accuracy beyond that of a fixed fleet of the same mean size on the same day, in straight lines
  between the sizes that were run; of the days on which all of them were.

Figures are medians over days of different seeds, with the lowest and the highest.
"""


def rules(machine: str) -> dict[str, Rule]:
    """Everything that is compared on every day."""
    given = GIVEN[machine]
    return {
        **{f"fixed {count}": Rule(fixed=count) for count in FIXED},
        **{f"CPU {share:.0%}": Rule({BUSY: share}) for share in (0.7, 0.8)},
        f"given up {given:g}, queue 2": Rule({GIVEN_UP: given / 100, QUEUED: 2.0}),
        "CPU 70%, queue 8": Rule({BUSY: 0.7, QUEUED: 8.0}),
    }


def main(argv: Sequence[str]) -> None:
    """Run every rule over every day of every machine, and write tables and plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks autoscaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a day of 20 s instead of a minute")
    parser.add_argument("--seeds", type=int, default=5, help="days of each kind")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--traces", type=Path, help="folder of CSV traces: arrival_ms,count,slo_ms; the last is used")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--machines", nargs="+", choices=STUDIED, default=list(STUDIED))
    parser.add_argument(
        "--kept", type=Path, help="file that keeps each run, for a study that is continued; a line each"
    )
    parser.add_argument("--only-kept", action="store_true", help="run nothing: report what there is")
    chosen = parser.parse_args(argv)
    duration_s = 20.0 if chosen.quick else 60.0
    command = " ".join(["python -m benchmarks autoscaling", *argv])
    for folder in filter(None, (chosen.traces, chosen.results, chosen.kept)):
        command = command.replace(str(folder), "PATH")
    notes = NOTES.format(
        mean=MEAN_LOAD, hurry=HURRY, day_s=duration_s, hours=duration_s * HURRY / 3600, start_s=Rule().start_s
    )
    sections = [f"# By what to scale a fleet\n\n{origin(command)}\n\nSeeds 1 to {chosen.seeds}.\n\n{notes}"]
    chosen.results.mkdir(parents=True, exist_ok=True)
    traces = sorted(chosen.traces.glob("*.csv"))[-1:] if chosen.traces else []
    with ProcessPoolExecutor(chosen.processes) as pool:
        study = Study(pool, chosen.kept, runs=not chosen.only_kept)
        for machine in chosen.machines:
            sections.append(_signals(machine, study.signals(machine), chosen.results))
            print(sections[-1], flush=True)
            for trace in (None, *traces):
                days = [Day(machine, duration_s, trace, seed) for seed in range(1, chosen.seeds + 1)]
                sections.append(_section(days[0], study.days(days, rules(machine)), chosen.results))
                print(sections[-1], flush=True)
    (chosen.results / "autoscaling.md").write_text("\n\n".join(sections) + "\n")
    print(f"written: {chosen.results / 'autoscaling.md'}")


class Study:
    """Runs what is not kept yet, and keeps it."""

    def __init__(self, pool: ProcessPoolExecutor, kept: Path | None, *, runs: bool) -> None:
        """`kept`: a file of earlier runs, to which new ones are added; None keeps nothing. False `runs`: make none."""
        self._pool = pool
        self._runs = runs
        self._path = kept
        lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
        self._known = {_key(line): line for line in map(json.loads, lines)}

    def signals(self, machine: str) -> list[Steady]:
        """One replica at each of `LOADS`."""
        wanted = [{"machine": machine, "steady": load} for load in LOADS]
        missing = [line for line in wanted if self._runs and _key(line) not in self._known]
        found = self._pool.map(partial(steady, machine), [line["steady"] for line in missing])
        for line, one in zip(missing, found, strict=True):
            self._keep(line | dataclasses.asdict(one))
        rows = (self._known[_key(line)] for line in wanted if _key(line) in self._known)
        return [Steady(row["steady"], row["signals"], row["effective_accuracy"], row["in_time"]) for row in rows]

    def days(self, days: Sequence[Day], compared: Mapping[str, Rule]) -> dict[str, Reports]:
        """Every rule on every day."""
        wanted = [(day, name, _day_line(day, name)) for day in days for name in compared]
        missing = [
            (day, compared[name], line) for day, name, line in wanted if self._runs and _key(line) not in self._known
        ]
        found = self._pool.map(run_rule, [day for day, _, _ in missing], [rule for _, rule, _ in missing])
        for (_, _, line), report in zip(missing, found, strict=True):
            self._keep(line | {"report": dataclasses.asdict(report)})
        kept = [(day.seed, name, self._report(line)) for day, name, line in wanted if _key(line) in self._known]
        return {rule: {seed: report for seed, name, report in kept if name == rule} for rule in compared}

    def _report(self, line: Mapping[str, Any]) -> FleetReport:
        return FleetReport(**self._known[_key(line)]["report"])

    def _keep(self, line: Mapping[str, Any]) -> None:
        self._known[_key(line)] = dict(line)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _day_line(day: Day, rule: str) -> dict[str, Any]:
    """What tells a run from others in the file of those that are kept."""
    name = day.trace.name if day.trace else "bursts"
    return {"machine": day.machine, "day": name, "duration_s": day.duration_s, "seed": day.seed, "rule": rule}


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("machine", "steady", "day", "duration_s", "seed", "rule"))


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


def _section(day: Day, found: Mapping[str, Reports], folder: Path) -> str:
    """One kind of day under every rule."""
    rows = [
        (
            name,
            str(len(reports)),
            spread([report.replicas_mean for report in reports.values()]),
            str(max(report.replicas_most for report in reports.values())),
            spread([report.effective_accuracy for report in reports.values()]),
            spread([report.in_time for report in reports.values()], 4),
            spread(list(gains(reports, found))),
        )
        for name, reports in found.items()
    ]
    kind = "trace" if day.trace else "bursts"
    name = f"autoscaling-{day.machine}-{kind}.svg"
    plot_costs(folder / name, f"{day.machine}: {kind}", found)
    header = ("rule", "days", "replicas", "most", "effective accuracy", "in time", "gain")
    offered = spread([report.offered for report in next(iter(found.values())).values()], 0)
    title = f"## {day.machine}: {'a recorded trace, stretched over the day' if day.trace else 'a wave with bursts'}"
    return f"{title}\n\n{offered} requests.\n\n{table(header, rows)}\n\n![accuracy over cost]({name})"


def gains(reports: Reports, found: Mapping[str, Reports]) -> Iterator[float]:
    """On each day, what a rule has beyond a fixed fleet of its mean size."""
    for seed, report in reports.items():
        fixed = [found[f"fixed {count}"].get(seed) for count in FIXED]
        frontier = [(one.replicas_mean, one.effective_accuracy) for one in fixed if one is not None]
        if len(frontier) == len(FIXED):
            yield report.effective_accuracy - _between(frontier, report.replicas_mean)


def _between(frontier: Sequence[tuple[float, float]], replicas: float) -> float:
    """Effective accuracy of a fixed fleet of this mean size, in a straight line through its neighbours."""
    pairs = list(itertools.pairwise(frontier))
    (fewer, low), (more, high) = next((pair for pair in pairs if replicas <= pair[1][0]), pairs[-1])
    return low + (high - low) * (replicas - fewer) / (more - fewer)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
