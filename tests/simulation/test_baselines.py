"""The baselines choose as their papers say, on a queue where the right answer can be read off the menu."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.batch_planner import BatchPlanner, PlannerSettings, Situation
from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator
from service.core.menu import Menu
from service.core.request import Plan, QueuedRequest
from tests.fakes.menus import MS, choice, cpu_menu, gpu_menu
from tests.simulation.baselines import POLICIES, static


def decide(kind: type[BatchPlanner], menu: Menu, budgets_ms: list[float], *, idle: int = 1) -> Plan | None:
    """What `kind` does at time 0 with requests of these budgets in the queue; ids count from 1 by rising budget."""
    queue = DeadlineQueue(1000)
    for request_id, budget_ms in enumerate(sorted(budgets_ms), start=1):
        queue.push(QueuedRequest(request_id, 0, round(budget_ms * MS)))
    planner = kind(menu, LoadEstimator(menu, 2), PlannerSettings(16, overhead_ns=0))
    return planner.plan(Situation(queue, 0, idle, ()))


def variant_and_size(plan: Plan | None) -> tuple[str, int] | None:
    return None if plan is None else (plan.variant, len(plan.request_ids))


def test_static_knows_one_variant() -> None:
    """A static server runs its variant with the largest batch that the head's slack allows, or nothing."""
    assert variant_and_size(decide(static("medium"), gpu_menu(), [12] * 9)) == ("medium", 5)
    assert variant_and_size(decide(static("medium"), gpu_menu(), [200] * 3)) == ("medium", 3)
    assert decide(static("medium"), gpu_menu(), [7.9] * 9) is None


def test_maxacc_takes_accuracy_first() -> None:
    """MaxAcc takes the most accurate variant that fits the head, however long the queue, then fills its batch."""
    assert variant_and_size(decide(POLICIES["maxacc"](), gpu_menu(), [23.5] * 100)) == ("large", 2)
    assert variant_and_size(decide(POLICIES["maxacc"](), gpu_menu(), [19.9] * 100)) == ("medium", 12)


def test_maxbatch_takes_the_batch_first() -> None:
    """MaxBatch takes the largest batch that fits the head, and only among those the most accurate variant."""
    assert variant_and_size(decide(POLICIES["maxbatch"](), gpu_menu(), [21.6] * 100)) == ("small", 16)
    assert variant_and_size(decide(POLICIES["maxbatch"](), gpu_menu(), [70] * 100)) == ("large", 16)
    assert variant_and_size(decide(POLICIES["maxbatch"](), gpu_menu(), [70] * 3)) == ("large", 3)


@pytest.mark.parametrize(
    ("slack_ms", "waiting", "expected"),
    [
        (12, 100, ("small", 16)),  # buckets are 61/32 ms wide; 9.7–11.6 holds small x16, medium x2, x4: most images
        (10, 100, ("medium", 2)),  # 7.8–9.7 holds medium x1, x2 and is the highest that starts under the slack
        (66, 100, ("large", 16)),  # the last bucket holds one pair
        (12, 1, ("medium", 1)),  # fewer wait than the bucket's batch: the most accurate that still fits
    ],
)
def test_slackfit_takes_the_highest_bucket(slack_ms: float, waiting: int, expected: tuple[str, int]) -> None:
    """SlackFit takes the largest batch of the highest latency bucket under the head's slack."""
    assert variant_and_size(decide(POLICIES["slackfit"](), gpu_menu(), [slack_ms] * waiting)) == expected


@pytest.mark.parametrize("name", POLICIES)
def test_one_width_for_all(name: str) -> None:
    """Baselines run every request on one thread, though wider runs are on the menu and fit better."""
    menu = Menu([*cpu_menu().choices, choice("large", 80.0, {1: 28}, threads=2)])
    plan = decide(POLICIES[name](), menu, [45], idle=2)
    assert plan is not None
    assert (plan.variant, plan.threads) == ("medium", 1)


def test_baselines_plan_by_what_runs_take_now() -> None:
    """On a machine that has become slower than its profile, batches are as small as the slower runs require."""
    slowed = gpu_menu()
    slowed.rescale([1.5 for _ in slowed.choices])
    assert variant_and_size(decide(static("medium"), slowed, [15] * 9)) == ("medium", 3)
    assert variant_and_size(decide(POLICIES["maxacc"](), slowed, [31] * 9)) == ("large", 1)
    assert variant_and_size(decide(POLICIES["maxbatch"](), slowed, [17.3] * 100)) == ("small", 16)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([*POLICIES, "small", "large"]),
    menu=st.sampled_from([cpu_menu, gpu_menu]),
    budgets_ms=st.lists(st.floats(0.1, 300), max_size=40),
    idle=st.integers(0, 2),
)
def test_baselines_never_plan_a_miss(name: str, menu: object, budgets_ms: list[float], idle: int) -> None:
    """Whatever waits, a baseline's run starts with the head, in deadline order, and ends within the head's slack."""
    kind = POLICIES[name]() if name in POLICIES else static(name)
    plan = decide(kind, menu(), budgets_ms, idle=idle)
    if plan is not None:
        assert idle
        assert plan.request_ids == tuple(range(1, len(plan.request_ids) + 1))
        assert plan.latency_ns <= round(min(budgets_ms) * MS)
    elif idle and budgets_ms and name in POLICIES:
        assert min(budgets_ms) * MS < menu().cheapest.latency_ns(1) + 1
