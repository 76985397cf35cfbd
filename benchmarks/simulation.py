"""The simulation study: every machine, traffic and load under every policy, as a table and plots a machine.

A machine takes a quarter of an hour of two cores a seed, so each has a file of its own, written as soon as it is done:
`simulation-MACHINE.md`, with its command and commit. `simulation.md` says what the columns are and lists those files.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

from benchmarks.report import Line, origin, plot_over_load
from tests.simulation.machines import MACHINES
from tests.simulation.study import LOADS, Cell, capacity_per_s, run_cells, traffics
from tests.simulation.table import BASELINES, HEADER, Row, cells_of, markdown, rows, worst

RESULTS = Path(__file__).parent / "results"
SEEDS = (1, 2)
REQUESTS_MIN, DURATION_S_MIN = 1500, 1.25
NOISE, NOISY_TRAFFIC = 0.1, ("poisson", "gamma cv2=4")
IMPROVE_ROUNDS = 3

NOTES = """Every policy runs through the real scheduler on a fake clock, with the same arrivals, budgets (log-uniform,
10–500 ms), queue, door and timers. Load 1 is what the workers carry at the cheapest choice and its best batch. Each
run first sees two seconds of the same traffic, then starts with an empty machine, as the bound does; all that arrives
from there on counts.

- **ours, best static, maxacc, maxbatch, slackfit**: effective accuracy in top-1 percent over all requests, late and
  refused ones counted 0. *best static* is the one variant at one width that turns out best in hindsight; each static
  server and baseline knows one width only.
- **bound**: what no policy can exceed: a linear program over the whole known future with divisible runs and full
  batches (`tests/simulation/upper_bound.py` has the proof). **ratio** is ours over it, **headroom** is
  (ours - best static) / (bound - best static), left out where that is less than 0.1 points.
- **clairvoyant**: a real schedule of whole runs, searched for by someone who knows the future, from ours
  (`tests/simulation/clairvoyant.py`). The best there is lies between it and the bound; what separates it from ours is
  reached by knowing what will come.
- **admitted in time**: share of the admitted that were answered by their deadline; **refused**: share refused at
  the door.
- Rows with *noise* have log-normal run times (spread {noise:g}, 95 % of them within the prediction); bound and
  clairvoyant hold for runs of known length and are left out.

What bounds the ratio where it is below its goal: the bound cuts runs up, so it serves every short budget in the middle
of a long run. A worker finishes what it has started, and nobody knows when the next short budget comes. On `cpu-b` and
`gpu-b` one budget in six and one in seven is shorter than two of the fastest runs. The clairvoyant schedule,
which knows them all, closes 26 % of the distance to the bound on `cpu-lite`, 46 on `cpu-b`, 15 on `gpu-b` and 38 on
`cpu-lite-8`, summed over the rows of each file: so much at least is knowledge of the future, and what else could be
reached is not known. What was tried is in docs/decisions, 1, 2, 4, 7 and 18. Each file names its commit and its seed;
no choice was made by these seeds but one: that blocking stays in the price where batches pay (decision 7), by that of
`gpu-b`.

What bounds *admitted in time*: with exact runs, that the planner starts another run than the door went through, since
the price of core time has changed meanwhile; with noise, that one run in twenty takes longer than was predicted, and
whoever has just time for it is late.
"""


def main(argv: Sequence[str]) -> None:
    """Run the study and write a file with plots for each machine, and `simulation.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few requests, one seed, Poisson and one burst only")
    parser.add_argument("--traces", type=Path, help="folder of CSV traces: arrival_ms,count,slo_ms")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES))
    parser.add_argument("--loads", nargs="+", type=float, default=LOADS, help="fractions of capacity")
    parser.add_argument("--seeds", nargs="+", type=int, help="1 and 2 by default, 1 with --quick")
    chosen = parser.parse_args(argv)
    chosen.seeds = chosen.seeds or (SEEDS[:1] if chosen.quick else SEEDS)
    chosen.results.mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in traffics(chosen.traces) if not chosen.quick or kind in NOISY_TRAFFIC]
    for machine in chosen.machines:
        head = _head(machine, chosen, argv)
        found = _study(machine, kinds, chosen)
        text = f"{head}\n\n{_section(machine, found, chosen.results)}\n"
        print(text, flush=True)
        (chosen.results / f"simulation-{machine}.md").write_text(text)
        print(f"written: {chosen.results / f'simulation-{machine}.md'}", flush=True)
    (chosen.results / "simulation.md").write_text(_index(chosen.results))
    print(f"written: {chosen.results / 'simulation.md'}")


def _head(machine: str, chosen: argparse.Namespace, argv: Sequence[str]) -> str:
    """Where the results come from, before the study. Names no folder: traces lie elsewhere for every reader."""
    command = " ".join(["python -m benchmarks simulation", *argv])
    for folder in filter(None, (chosen.traces, chosen.results)):
        command = command.replace(str(folder), "DIR")
    source = origin(command, ("scipy",))
    seeds = ("Seed " if len(chosen.seeds) == 1 else "Seeds ") + ", ".join(map(str, chosen.seeds))
    traces = "" if chosen.traces else " No recorded traces: `--traces DIR` was not given."
    return f"# Simulation: {machine}\n\n{source}\n\n{seeds}.{traces} `simulation.md` says what the columns are."


def _index(folder: Path) -> str:
    """What the files of all machines have in common, and which there are."""
    files = [name for machine in MACHINES if (folder / (name := f"simulation-{machine}.md")).exists()]
    listed = "\n".join(f"- [{name}]({name})" for name in files)
    notes = NOTES.format(noise=NOISE)
    return f"# Simulation: one decision policy against another\n\n{listed}\n\n{notes}"


def _study(machine: str, kinds: Sequence[str], chosen: argparse.Namespace) -> list[Row]:
    cells = [
        Cell(machine, kind, load, seed, _requests(machine, load, quick=chosen.quick), noise, IMPROVE_ROUNDS)
        for noise in (0.0, NOISE)
        for kind in (NOISY_TRAFFIC if noise else kinds)
        for load in chosen.loads
        for seed in chosen.seeds
    ]
    return rows(run_cells(cells))


def _requests(machine: str, load: float, *, quick: bool) -> int:
    """Enough for steady means, and long enough that the time until the machine is full does not decide."""
    if quick:
        return REQUESTS_MIN // 2
    return max(REQUESTS_MIN, round(DURATION_S_MIN * load * capacity_per_s(machine)))


def _section(machine: str, found: Sequence[Row], folder: Path) -> str:
    plots = {
        "effective accuracy": attrgetter("effective_accuracy"),
        "share in time of all": attrgetter("in_time"),
    }
    images = []
    for title, pick in plots.items():
        name = f"simulation-{machine}-{title.replace(' ', '-')}.svg"
        exact = [row for row in found if not row.noise]
        plot_over_load(folder / name, f"{machine}: {title} over load", title, _lines(exact, pick))
        images.append(f"![{title}]({name})")
    missed = ", ".join(f"{goal} {count} of {len(found)} rows" for goal, count in worst(found).items())
    table = markdown([HEADER, *map(cells_of, found)])
    return f"Goals missed: {missed}.\n\n{table}\n\n{' '.join(images)}"


def _lines(found: Sequence[Row], pick: Callable[..., float]) -> dict[str, Line]:
    """One line a policy over load: the mean over kinds of traffic, with the lowest and highest of them."""
    policies: dict[str, Callable[[Row], float]] = {
        "phiserve": lambda row: row.ours(pick),
        "best static": lambda row: row.static(pick),
    }
    for name in BASELINES:
        policies[name] = partial(Row.baseline, name=name, pick=pick)
    loads = sorted({row.load for row in found})
    lines = {}
    for name, value in policies.items():
        by_load = [[value(row) for row in found if row.load == load] for load in loads]
        means = [math.fsum(values) / len(values) for values in by_load]
        lines[name] = Line(loads, means, list(map(min, by_load)), list(map(max, by_load)), name == "phiserve")
    return lines


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
