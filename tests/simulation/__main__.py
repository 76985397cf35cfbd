"""`make sim`: the real scheduler on a fake clock, beside baselines and the upper bound, in about a minute."""

from __future__ import annotations

from tests.simulation.study import Cell, run_cells
from tests.simulation.table import HEADER, cells_of, plain, rows, worst

MACHINES = ("cpu-lite", "cpu-b")
TRAFFIC = ("poisson", "gamma cv2=4")
LOADS = (0.3, 0.7, 1.0, 3.0)
SEEDS = (1,)
REQUESTS = 1000


def main() -> None:
    """Simulate every machine, traffic and load, and print a table a machine."""
    print(f"seeds {SEEDS}; effective accuracy in top-1 percent; budgets log-uniform 10-500 ms")
    for machine in MACHINES:
        cells = [
            Cell(machine, traffic, load, seed, REQUESTS) for traffic in TRAFFIC for load in LOADS for seed in SEEDS
        ]
        found = rows(run_cells(cells))
        print(f"\n{machine}\n{plain([HEADER, *map(cells_of, found)])}")
        missed = ", ".join(f"{goal}: {count} of {len(found)} rows" for goal, count in worst(found).items() if count)
        print(f"goals missed: {missed or 'none'}")


if __name__ == "__main__":
    main()
