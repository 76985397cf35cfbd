"""What decisions cost: one plan, for several menus and queues; and all that one request asks of the scheduler.

Queues of 1 to 1000 on menus of several machines, seeded; `request_cost.py` has the second. Thread time, so that other
work on the machine does not count. Each situation is planned for once, as in service: the prices that the load estimate
keeps for some milliseconds are solved anew in a share of the situations, and fall into the upper percentiles. Writes
`results/planner_cost.md`. Judges cost only, never the plans.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import request_cost
from benchmarks.report import origin, table
from benchmarks.scores import Percentiles
from benchmarks.traffic import NS_PER_MS, Mix, Stretch, gamma_bursts, schedule
from service.core.batch_planner import BatchPlanner, PlannerSettings, Situation
from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator
from service.core.menu import Menu
from service.core.request import DEFAULT_POLICY, QueuedRequest
from tests.simulation.machines import MACHINES

BOUND_US = 100.0
QUEUES = (1, 10, 100, 1000)
MENUS = ("cpu-lite", "cpu-b", "gpu-b")
OVERHEAD_NS = NS_PER_MS
BATCH_SIZE_MAX = 32
_MIX = Mix(budget_ms_low=10, budget_ms_high=500, photographs=1)
_HISTORY_S = 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of thread time per plan, over `situations` situations."""

    menu: str
    queued: int
    situations: int
    p50_us: float
    p99_us: float
    max_us: float


def measure(menu_name: str, queued: int, situations: int, seed: int = 0) -> Cost:
    """Time one plan in each of many situations with `queued` requests waiting."""
    build, workers = MACHINES[menu_name]
    menu = build()
    rng = random.Random(f"{menu_name} {queued} {seed}")
    took_us: list[float] = []
    planner, now_ns = _planner_with_history(rng, menu, workers)
    arrives_ns = now_ns  # and so on, as many as the machine carries: prices and losses are those of a full machine
    gc.collect()
    gc.disable()
    try:
        for _ in range(situations):
            # A few milliseconds apart, as plans are: some find the kept price still fresh, some must solve it.
            now_ns += rng.randrange(10 * NS_PER_MS)
            while arrives_ns < now_ns:
                planner.load.observe(_budget_ns(rng), arrives_ns)
                arrives_ns += round(menu.cheapest.core_ns_per_image / workers)
            situation = _situation(rng, menu, queued, workers, now_ns)
            started_ns = time.thread_time_ns()
            planner.plan(situation)
            took_us.append((time.thread_time_ns() - started_ns) / 1000)
    finally:
        gc.enable()
    found = Percentiles(took_us)
    return Cost(menu_name, queued, situations, found.at(50), found.at(99), found.at(100))


def _budget_ns(rng: random.Random) -> int:
    return schedule(gamma_bursts(1.0), [Stretch(1, 1)], _MIX, rng.randrange(2**32))[0].budget_ns


def _planner_with_history(rng: random.Random, menu: Menu, workers: int) -> tuple[BatchPlanner, int]:
    """A planner that has seen bursty traffic of about the machine's capacity, and the time it is there."""
    load = LoadEstimator(menu, workers)
    capacity_per_s = workers * 1e9 / menu.cheapest.core_ns_per_image
    past = schedule(gamma_bursts(4.0), [Stretch(capacity_per_s, _HISTORY_S)], _MIX, rng.randrange(2**32))
    load.running(0, anything=True)  # as at that load: arrivals that no run sees would make the look ahead free
    for request in past:
        load.observe(request.budget_ns, request.at_ns)
    return BatchPlanner(menu, load, PlannerSettings(BATCH_SIZE_MAX, OVERHEAD_NS)), round(_HISTORY_S * 1e9)


def _situation(rng: random.Random, menu: Menu, queued: int, workers: int, now_ns: int) -> Situation:
    """Requests that have waited for some part of their budgets, and at least one idle worker.

    Each can still be served by the fastest choice: the scheduler sheds the others before it plans.
    """
    queue = DeadlineQueue(max(QUEUES))
    needed_ns = menu.fastest_ns(DEFAULT_POLICY) + OVERHEAD_NS
    for number, request in enumerate(schedule(gamma_bursts(1.0), [Stretch(queued, 1)], _MIX, rng.randrange(2**32))):
        budget_ns = max(request.budget_ns, needed_ns)
        waited_ns = round(rng.random() * (budget_ns - needed_ns))
        queue.push(QueuedRequest(number, now_ns - waited_ns, now_ns - waited_ns + budget_ns))
    idle = rng.randint(1, workers)
    busy = tuple(sorted(now_ns + rng.randrange(20 * NS_PER_MS) for _ in range(workers - idle)))
    return Situation(queue, now_ns, idle, busy)


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks planner`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks planner", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few situations, to see that it works; figures are rough")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args(argv)
    situations = 20 if options.quick else 2000
    costs = [measure(menu, queued, situations) for menu, queued in itertools.product(MENUS, QUEUES)]
    inside = itertools.product((False, True), request_cost.INSIDE)
    requests = [request_cost.measure(others, pinned=pinned, requests=situations) for pinned, others in inside]
    command = "python -m benchmarks planner" + (" --quick" if options.quick else "")
    text = document(costs, command) + "\n" + request_cost.section(requests)
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "planner_cost.md").write_text(text)


def document(costs: Sequence[Cost], command: str) -> str:
    """The costs as Markdown, each beside the bound."""
    rows = [
        (
            f"{cost.menu}, {cost.queued} queued",
            f"{cost.p50_us:.0f}",
            f"{cost.p99_us:.0f}",
            f"{cost.max_us:.0f}",
            f"{BOUND_US:.0f}",
            "yes" if cost.p99_us <= BOUND_US else "only the median" if cost.p50_us <= BOUND_US else "**no**",
        )
        for cost in costs
    ]
    header = ("menu, queue", "median µs", "99th percentile µs", "highest µs", "bound µs", "within the bound")
    return (
        f"# What one plan costs\n\n{origin(command)}\n\n"
        f"Microseconds of thread time of one `BatchPlanner.plan`, over {costs[0].situations} seeded situations each. "
        "Menus are those of `tests/simulation/machines.py`; budgets are log-uniform from "
        f"{_MIX.budget_ms_low:g} to {_MIX.budget_ms_high:g} ms, and as many requests arrive as the machine carries. "
        "One plan in ten solves the price of core time anew, which is kept for 50 ms: the 99th percentile is that of "
        f"those.\n\n{table(header, rows)}\n"
    )
