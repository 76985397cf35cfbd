"""One cell of the simulation study: a machine, a kind of traffic, a load and a seed, under every policy.

Every policy gets the same arrivals, the same queue bound, door, timers and noise; only the choice differs. Each first
sees `WARM_UP_S` of the same traffic, since an estimate that has seen nothing would weigh heavily in runs of some
seconds. Then what waits and runs is dropped: everybody, the bound and the clairvoyant schedule included, starts with an
empty machine, and every arrival from there on counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from service.core.batch_planner import BatchPlanner, PlannerSettings, Situation
from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator
from service.core.menu import Menu
from service.core.request import Plan
from service.core.scheduler import Scheduler, SchedulerSettings
from tests.simulation.arrivals import arrivals, diurnal, ramp, read_trace, shaped_arrivals, trace_arrivals
from tests.simulation.baselines import POLICIES, static
from tests.simulation.clairvoyant import Clairvoyant
from tests.simulation.machines import MACHINES
from tests.simulation.simulator import MS, Arrival, Report, Simulator, exact, noisy
from tests.simulation.upper_bound import upper_bound

NS_PER_S = 1_000_000_000
LOADS = (0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 3.0)
BURSTINESS = {"poisson": 1.0, "gamma cv2=2": 2.0, "gamma cv2=4": 4.0, "gamma cv2=8": 8.0}
SHAPES = {"ramp": ramp, "diurnal": diurnal}
WARM_UP_S = 2.0
WARM_UP_NS = int(WARM_UP_S * NS_PER_S)
BATCH_SIZE_MAX = 32
QUEUE_SIZE_MAX = 2000

_Planner = TypeVar("_Planner", bound=BatchPlanner)


@dataclass(frozen=True, slots=True)
class Cell:
    """What to simulate. `load` in fractions of `capacity_per_s`; `traffic` one of `traffics()` or a trace's path.

    `noise`: spread of log-normal run times, 0 for exact ones. `improve_rounds`: effort of the clairvoyant schedule.
    """

    machine: str
    traffic: str
    load: float
    seed: int
    requests: int
    noise: float = 0.0
    improve_rounds: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """How one policy did. Accuracies in top-1 percent over all offered; shares of 1."""

    effective_accuracy: float
    in_time: float
    attainment_of_admitted: float
    refused: float


@dataclass(frozen=True, slots=True)
class Result:
    """All scores of a cell. `bound` and `clairvoyant` are None with noise: both hold for exact runs."""

    cell: Cell
    requests: int
    ours: Score
    statics: dict[str, Score]
    baselines: dict[str, Score]
    bound: float | None
    clairvoyant: float | None


def capacity_per_s(machine: str) -> float:
    """Requests a second that the machine carries at its cheapest choice and that choice's best batch."""
    build, workers = MACHINES[machine]
    return workers / build().cheapest.core_ns_per_image * NS_PER_S


def traffics(trace_folder: Path | None = None) -> list[str]:
    """Names of all kinds of traffic: generated ones, then the traces of a folder."""
    traces = sorted(trace_folder.glob("*.csv")) if trace_folder else []
    return [*BURSTINESS, *SHAPES, *map(str, traces)]


_times_of_trace = cache(read_trace)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Arrivals before and after `WARM_UP_NS`."""

    warm_up: tuple[Arrival, ...]
    counted: tuple[Arrival, ...]


def traffic_of(cell: Cell) -> Traffic:
    """The arrivals of a cell: the warm-up, then about `cell.requests`, at `cell.load` of capacity."""
    rate_per_s = cell.load * capacity_per_s(cell.machine)
    counted_s = cell.requests / rate_per_s
    if cell.traffic in BURSTINESS:
        cv2 = BURSTINESS[cell.traffic]
        found = arrivals(cell.seed, rate_per_s=rate_per_s, duration_s=WARM_UP_S + counted_s, cv2=cv2)
    elif cell.traffic in SHAPES:
        shape = SHAPES[cell.traffic]
        found = shaped_arrivals(cell.seed, shape, rate_per_s=rate_per_s, duration_s=counted_s, lead_in_s=WARM_UP_S)
    else:
        requests = cell.requests + int(WARM_UP_S * rate_per_s)
        times_ns = _times_of_trace(Path(cell.traffic))
        found = trace_arrivals(cell.seed, times_ns, rate_per_s=rate_per_s, requests=requests)
    first = sum(arrival.at_ns < WARM_UP_NS for arrival in found)
    return Traffic(tuple(found[:first]), tuple(found[first:]))


class Recording(BatchPlanner):
    """Our planner, noting in `made` what it plans and when."""

    def __init__(self, menu: Menu, load: LoadEstimator, settings: PlannerSettings) -> None:
        super().__init__(menu, load, settings)
        self.made: list[tuple[int, Plan]] = []

    def plan(self, situation: Situation) -> Plan | None:
        plan = super().plan(situation)
        if plan is not None:
            self.made.append((situation.now_ns, plan))
        return plan


def planner_of(kind: type[_Planner], menu: Menu, workers: int) -> _Planner:
    """A planner that has seen nothing yet."""
    return kind(menu, LoadEstimator(menu, workers), PlannerSettings(BATCH_SIZE_MAX, overhead_ns=0))


def simulate(planner: BatchPlanner, cell: Cell, traffic: Traffic) -> Report:
    """Run the real scheduler with `planner` over the warm-up; then, from an empty machine, over what counts."""
    workers = MACHINES[cell.machine][1]
    noise = noisy(cell.noise) if cell.noise else exact

    def simulator() -> Simulator:
        settings = SchedulerSettings(workers, late_wait_ns_max=10_000 * MS)
        scheduler = Scheduler(planner, DeadlineQueue(QUEUE_SIZE_MAX), settings)
        return Simulator(scheduler, planner.menu, workers=workers, seed=cell.seed, noise=noise)

    simulator().run(traffic.warm_up, until_ns=WARM_UP_NS)
    planner.load.running(WARM_UP_NS, anything=False)
    return simulator().run(traffic.counted)


def run_cell(cell: Cell) -> Result:
    """Simulate every policy, solve the bound, and search a clairvoyant schedule where the cell asks for it."""
    build, workers = MACHINES[cell.machine]
    traffic = traffic_of(cell)
    recording = planner_of(Recording, build(), workers)
    ours = simulate(recording, cell, traffic)
    # The other policies learn nothing from traffic, so a warm-up would change nothing for them but take its time.
    cold = Traffic((), traffic.counted)
    statics = {
        f"{choice.variant.name} on {choice.threads}": simulate(
            planner_of(static(choice.variant.name), Menu([choice]), workers), cell, cold
        )
        for choice in build().choices
    }
    baselines = {
        name: simulate(planner_of(policy(), _narrow(build()), workers), cell, cold) for name, policy in POLICIES.items()
    }
    return Result(
        cell,
        len(traffic.counted),
        _score(ours),
        {name: _score(report) for name, report in statics.items()},
        {name: _score(report) for name, report in baselines.items()},
        None if cell.noise else upper_bound(build(), workers, traffic.counted),
        _clairvoyant(cell, traffic, recording.made) if cell.improve_rounds and not cell.noise else None,
    )


def _clairvoyant(cell: Cell, traffic: Traffic, plans: Sequence[tuple[int, Plan]]) -> float:
    """What a search that starts from our plans and knows the future reaches."""
    build, workers = MACHINES[cell.machine]
    search = Clairvoyant(build(), workers, traffic.counted, cell.seed)
    search.adopt((at_ns, plan) for at_ns, plan in plans if at_ns >= WARM_UP_NS)
    return search.solve(cell.improve_rounds)


def run_cells(cells: Iterable[Cell], processes: int | None = None) -> Iterator[Result]:
    """Results in the order of `cells`, as many at a time as there are cores."""
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        yield from pool.map(run_cell, cells)


def _score(report: Report) -> Score:
    return Score(
        report.effective_accuracy,
        report.attainment,
        report.admitted_attainment,
        report.refused / max(1, report.offered),
    )


def _narrow(menu: Menu) -> Menu:
    """Every variant at one thread: what a server with one fixed width chooses for throughput."""
    threads = min(choice.threads for choice in menu.choices)
    return Menu([choice for choice in menu.choices if choice.threads == threads])
