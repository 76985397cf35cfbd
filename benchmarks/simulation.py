"""The simulation study: every machine, traffic and load under every policy, as a table and plots a machine."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

from benchmarks.report import Line, origin, plot_over_load
from tests.simulation.machines import MACHINES
from tests.simulation.study import LOADS, Cell, run_cells, traffics
from tests.simulation.table import BASELINES, HEADER, Row, cells_of, markdown, rows, worst

RESULTS = Path(__file__).parent / "results"
SEEDS = (1, 2)
REQUESTS = {"gpu-b": 6000}
REQUESTS_DEFAULT = 2500

NOTES = """Effective accuracy in top-1 percent over all requests, 0 for late and refused ones. `ratio` is ours over the
bound (a linear program over the whole known future, `tests/simulation/upper_bound.py`), `best static` the
best single variant and width in hindsight, `headroom` (ours - best static) / (bound - best static). The
first two seconds warm every policy up and do not count; the bound starts from an empty machine, ours from
one with a queue, which at load 3 in short runs is most of the gap. Budgets log-uniform 10-500 ms. The bound
may cut runs up; a real worker cannot, so requests whose budget is shorter than what is left of the runs in
progress are lost to every policy: where the fastest run takes about as long as the shortest budgets
(`cpu-b`, `gpu-b`) that is much of the gap.
"""


def main(argv: Sequence[str]) -> None:
    """Run the study and write `simulation.md` with its plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few requests, one seed, Poisson and one burst only")
    parser.add_argument("--traces", type=Path, help="folder of CSV traces: arrival_ms,count,slo_ms")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES))
    chosen = parser.parse_args(argv)
    kinds = traffics(chosen.traces)
    kinds = [kinds[0], kinds[2]] if chosen.quick else kinds
    sections = []
    for machine in chosen.machines:
        found = _study(machine, kinds, quick=chosen.quick)
        sections.append(_section(machine, found, chosen.results))
        print(sections[-1], flush=True)
    seeds = SEEDS[:1] if chosen.quick else SEEDS
    source = origin(" ".join(["python -m benchmarks simulation", *argv]), ("scipy",))
    head = f"# Simulation: one decision policy against another\n\n{source}\n\nSeeds {seeds}.\n\n{NOTES}"
    chosen.results.mkdir(parents=True, exist_ok=True)
    (chosen.results / "simulation.md").write_text("\n\n".join([head, *sections]) + "\n")
    print(f"written: {chosen.results / 'simulation.md'}")


def _study(machine: str, kinds: Sequence[str], *, quick: bool) -> list[Row]:
    requests = 800 if quick else REQUESTS.get(machine, REQUESTS_DEFAULT)
    seeds = SEEDS[:1] if quick else SEEDS
    cells = [Cell(machine, kind, load, seed, requests) for kind in kinds for load in LOADS for seed in seeds]
    return rows(run_cells(cells))


def _section(machine: str, found: Sequence[Row], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "effective accuracy": attrgetter("effective_accuracy"),
        "share in time of all": attrgetter("in_time"),
    }
    images = []
    for title, pick in plots.items():
        name = f"simulation-{machine}-{title.replace(' ', '-')}.svg"
        plot_over_load(folder / name, f"{machine}: {title} over load", title, _lines(found, pick))
        images.append(f"![{title}]({name})")
    missed = ", ".join(f"{goal} {count} of {len(found)} rows" for goal, count in worst(found).items())
    table = markdown([HEADER, *map(cells_of, found)])
    return f"## {machine}\n\n{table}\n\nGoals missed: {missed}.\n\n{' '.join(images)}"


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
