"""A disturbance that is over is forgotten, also by those who could not use anything while it lasted.

The real engine, door and scheduler in fake time. Whoever asks for little time is refused as long as runs are thought
to be slow, and what is refused runs nothing that could show that they are fast again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from service.core.menu import Menu
from service.core.request import Plan, RequestOptions
from service.errors import PhiserveError
from tests.fakes.event_loop import run_in_fake_time
from tests.fakes.menus import MS
from tests.fakes.runtime import FakeDecoder, FakeWorkers, build_engine
from tests.simulation.machines import cpu_lite

FRAMES_PER_S = 30
DISTURBED_S = (2.0, 4.0)
RECOVERED_S = 8.0
"""How long after a disturbance the latest frame may be refused because of it: distrust of a machine that took four
times as long fades to a tenth of that in three seconds without runs and five half-lives of one."""


def everything_slow(plan: Plan) -> float:
    return 4.0


def wide_runs_slow(plan: Plan) -> float:
    """What another process on one of two cores does."""
    return 3.0 if plan.threads == 2 else 1.0


class Machine:
    """Runs take what the profile says with some noise, and longer while it is disturbed."""

    def __init__(self, menu: Menu, slowness: Callable[[Plan], float]) -> None:
        self._profiles = {(choice.variant.name, choice.threads): choice.profile for choice in menu.choices}
        self._slowness = slowness
        self._rng = random.Random(1)

    def takes_ns(self, plan: Plan) -> float:
        profiled_ns = self._profiles[plan.variant, plan.threads].latency_ns(len(plan.request_ids))
        disturbed = DISTURBED_S[0] <= asyncio.get_running_loop().time() < DISTURBED_S[1]
        return profiled_ns * self._rng.uniform(0.85, 1.1) * (self._slowness(plan) if disturbed else 1.0)


async def shares_in_time(
    slowness: Callable[[Plan], float], budget_ms: float, others_per_s: float
) -> tuple[float, float, float]:
    """Of a stream's frames: in time before, during, and `RECOVERED_S` after the disturbance, as shares."""
    menu, loop, rng = cpu_lite(), asyncio.get_running_loop(), random.Random(2)
    workers = FakeWorkers(takes_ns=Machine(menu, slowness).takes_ns)
    engine = build_engine(menu=menu, workers=workers, decoder=FakeDecoder(), worker_count=2)
    frames: list[tuple[float, bool]] = []

    async def send(budget_ns: int, outcomes: list[tuple[float, bool]]) -> None:
        sent_s = loop.time()
        try:
            answer = await engine.infer(b"A", RequestOptions(budget_ns, 5), received_ns=engine.now_ns())
        except PhiserveError:
            outcomes.append((sent_s, False))
        else:
            outcomes.append((sent_s, answer.budget_met))

    async def patient_traffic(group: asyncio.TaskGroup) -> None:
        while others_per_s:
            await asyncio.sleep(rng.expovariate(others_per_s))
            group.create_task(send(rng.randint(100, 1000) * MS, []))

    async with asyncio.TaskGroup() as group:
        others = group.create_task(patient_traffic(group))
        while loop.time() < DISTURBED_S[1] + RECOVERED_S + 2.0:
            group.create_task(send(round(budget_ms * MS), frames))
            await asyncio.sleep(1 / FRAMES_PER_S)
        others.cancel()

    def share(from_s: float, to_s: float) -> float:
        told = [in_time for sent_s, in_time in frames if from_s <= sent_s < to_s]
        return sum(told) / len(told)

    return share(0.0, DISTURBED_S[0]), share(*DISTURBED_S), share(DISTURBED_S[1] + RECOVERED_S, float("inf"))


@pytest.mark.parametrize("others_per_s", [0, 20, 60])
@pytest.mark.parametrize(("budget_ms", "slowness"), [(20, everything_slow), (9, everything_slow), (6, wide_runs_slow)])
def test_a_stream_of_short_budgets_recovers(
    budget_ms: float, slowness: Callable[[Plan], float], others_per_s: float
) -> None:
    """After two slow seconds a stream gets the answers it got before, whether or not others keep the machine busy.

    A budget of 6 ms is made by one choice alone, on two cores, which nobody else has a use for.
    """
    before, during, after = run_in_fake_time(shares_in_time(slowness, budget_ms, others_per_s))
    assert before > 0.7, "the load itself must leave room"
    assert during < 0.9 * before, "the disturbance must hurt"
    assert after > 0.85 * before
