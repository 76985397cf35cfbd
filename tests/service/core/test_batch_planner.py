"""What the planner prefers, in situations small enough to check by hand."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from service.core.batch_planner import BatchPlanner, PlannerSettings, Situation, value_of
from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator
from service.core.menu import Menu
from service.core.promises import Promised
from service.core.request import OnMiss, Plan, QueuedRequest, RoutingPolicy
from tests.fakes.menus import MS, choice, cpu_menu, gpu_menu, two_width_menu

NOW_NS = 1_000_000_000


def plan(
    menu: Menu,
    budgets_ms: list[float],
    *,
    idle: int = 1,
    free_ms: tuple[float, ...] = (),
    rate_per_s: float = 0,
    batch_size_max: int = 16,
    promised_ms: tuple[tuple[float, float], ...] = (),
) -> Plan | None:
    """The plan for queued requests with these budgets left, after three seconds of arrivals at `rate_per_s`.

    `promised_ms`: when admitted requests that are being decoded are due, and when they should be decoded.
    """
    queue = DeadlineQueue(size_max=2000)
    for request_id, budget_ms in enumerate(budgets_ms, start=1):
        queue.push(QueuedRequest(request_id, NOW_NS, NOW_NS + round(budget_ms * MS)))
    planner = planner_after(menu, idle + len(free_ms), rate_per_s, batch_size_max)
    free_at_ns = tuple(NOW_NS + round(ms * MS) for ms in free_ms)
    promised = [
        Promised(NOW_NS + round(due * MS), 1000 + number, NOW_NS + round(ready * MS), RoutingPolicy())
        for number, (due, ready) in enumerate(promised_ms)
    ]
    return planner.plan(Situation(queue, NOW_NS, idle, free_at_ns, len(promised), promised))


def planner_after(menu: Menu, workers: int, rate_per_s: float, batch_size_max: int = 16) -> BatchPlanner:
    """A planner that has seen three seconds of arrivals at `rate_per_s`, each with 200 ms left."""
    load = LoadEstimator(menu, workers)
    load.running(NOW_NS - 3_000 * MS, anything=True)
    for step in range(int(rate_per_s * 3)):
        load.observe(200 * MS, NOW_NS - 3_000 * MS + int(step * 1e9 / rate_per_s))
    return BatchPlanner(menu, load, PlannerSettings(batch_size_max, overhead_ns=0))


def test_nothing_to_do_is_no_plan() -> None:
    """An empty queue, or no idle worker, gives no plan."""
    assert plan(cpu_menu(), []) is None
    assert plan(cpu_menu(), [100], idle=0, free_ms=(5,)) is None


def test_no_plan_rather_than_a_hopeless_one() -> None:
    """Where no choice fits the slack of any queued request there is no plan."""
    assert plan(cpu_menu(), [9.9]) is None


@given(st.floats(0.5, 2.0))
def test_a_run_that_fits_to_the_nanosecond_is_planned(scale: float) -> None:
    """Rounding never leaves a batch of none: a head with exactly its run's time left gets that run."""
    menu = gpu_menu()
    menu.rescale([scale for _ in menu.choices])
    found = plan(menu, [menu.fastest_ns(RoutingPolicy()) / MS, 200])
    assert found is not None
    assert found.request_ids[0] == 1


def test_accuracy_is_given_up_before_queued_deadlines_are() -> None:
    """With a queue that only the small variant can clear in time, the head gets the small one although more fits."""
    found = plan(cpu_menu(), [60, 60, 60, 60, 60, 60])
    assert found is not None
    assert found.variant == "small"


def test_a_patient_request_gives_way_to_a_promise() -> None:
    """One worker, and an urgent request decoded in 5 ms: who has time for it waits, unless a run is over by then."""
    assert plan(cpu_menu(), [200], promised_ms=((19, 5),)) is None
    for due_ms in (31, 55):  # room for the small one first, and for the medium one
        found = plan(cpu_menu(), [200], promised_ms=((due_ms, 5),))
        assert found is not None
        assert found.latency_ns + 10 * MS <= due_ms * MS
    kept = plan(cpu_menu(), [200], promised_ms=((20, 11),))
    assert kept is not None, "nobody can keep it: no reason to wait"


def test_a_promise_leaves_a_worker_idle_rather_than_take_it_for_a_wide_run() -> None:
    """Two workers idle: the patient one gets one of them, and the most accurate variant on it."""
    found = plan(two_width_menu(), [200], idle=2, promised_ms=((16, 5),))
    assert found is not None
    assert (found.variant, found.threads) == ("large", 1)


def test_who_cannot_wait_is_served_although_a_promise_breaks() -> None:
    """Of two of whom one is lost either way, the one that is there is served."""
    found = plan(cpu_menu(), [22], promised_ms=((19, 5),))
    assert found is not None


def test_a_head_that_needs_two_workers_keeps_them() -> None:
    """While it waits for the second one, only what is done by then may use the first."""
    head_ms, free_ms = 9.0, 2.0
    assert plan(two_width_menu(), [head_ms, 200], idle=1, free_ms=(free_ms,)) is None
    both = plan(two_width_menu(), [head_ms, 200], idle=2)
    assert both is not None
    assert (both.request_ids, both.threads) == ((1,), 2)


def test_a_head_beyond_help_keeps_nothing() -> None:
    """If the second worker comes too late for it, the next in the queue is served."""
    found = plan(two_width_menu(), [9, 200], idle=1, free_ms=(8,))
    assert found is not None
    assert found.request_ids == (2,)


def test_in_a_flood_no_worker_waits() -> None:
    """When core time is worth more than the head, nothing is kept idle for it."""
    found = plan(two_width_menu(), [9, 200], idle=1, free_ms=(2,), rate_per_s=2000)
    assert found is not None
    assert found.request_ids == (2,)


def test_in_a_flood_two_free_workers_take_two_runs() -> None:
    """Where more arrive than can be served only their number counts: no wide run, though it frees the cores sooner."""
    menu = Menu([choice("b0", 77.1, {1: 14.4}), choice("b0", 77.1, {1: 9.4}, threads=2)])
    load = LoadEstimator(menu, workers=2)
    load.running(NOW_NS - 3_000 * MS, anything=True)
    for step in range(1200):
        load.observe(round(10 * 50 ** (step % 17 / 16) * MS), NOW_NS - 3_000 * MS + int(step * 2.5 * MS))
    planner = BatchPlanner(menu, load, PlannerSettings(1, overhead_ns=0))
    queue = DeadlineQueue(size_max=100)
    for request_id, budget_ms in enumerate([27, 34, 49, 54, 54, 56, *range(60, 310, 10)], start=1):
        queue.push(QueuedRequest(request_id, NOW_NS, NOW_NS + budget_ms * MS))
    found = planner.plan(Situation(queue, NOW_NS, 2, ()))
    assert found is not None
    assert found.threads == 1


def test_nobody_is_given_up_while_all_can_be_served_in_turn() -> None:
    """A short head that would shrink a batch is served, alone, if the rest makes its deadlines after it."""
    found = plan(gpu_menu(), [4.2, 200, 200, 200], rate_per_s=300)
    assert found is not None
    assert 1 in found.request_ids


def test_an_idle_neighbour_takes_the_queue() -> None:
    """A second idle worker can clear the queue, so the first may spend its time on accuracy."""
    alone, helped = plan(cpu_menu(), [50, 59]), plan(cpu_menu(), [50, 59], idle=2)
    assert alone is not None
    assert helped is not None
    assert (alone.variant, helped.variant) == ("medium", "large")


def test_arrival_rate_alone_pulls_the_choice_down() -> None:
    """With an empty queue but a rate the large variant could not carry, a cheaper one is chosen in advance."""
    calm, busy = plan(cpu_menu(), [500], rate_per_s=2), plan(cpu_menu(), [500], rate_per_s=120)
    assert calm is not None
    assert busy is not None
    assert (calm.variant, busy.variant) == ("large", "small")


def test_under_load_no_variant_is_likely_that_is_not_worth_its_time() -> None:
    """Idle, whatever fits is likely; in a flood only the cheapest is, whatever the budget, unless it cannot be used."""
    calm, flood = planner_after(cpu_menu(), 1, 2), planner_after(cpu_menu(), 1, 200)
    assert calm.likely_variants(30 * MS, RoutingPolicy(), 0, NOW_NS) == {"small", "medium"}
    assert calm.likely_variants(100 * MS, RoutingPolicy(), 0, NOW_NS) == {"small", "medium", "large"}
    assert flood.likely_variants(100 * MS, RoutingPolicy(), 0, NOW_NS) == {"small"}
    assert flood.likely_variants(100 * MS, RoutingPolicy(min_accuracy=79), 0, NOW_NS) == {"large"}
    assert flood.likely_variants(5 * MS, RoutingPolicy(), 0, NOW_NS) == {"small"}


def test_batches_where_batching_pays() -> None:
    """On a machine where batches save time all waiting requests go in one run."""
    found = plan(gpu_menu(), [500] * 8)
    assert found is not None
    assert (found.variant, len(found.request_ids)) == ("large", 8)


def test_batch_size_is_bounded() -> None:
    """No batch is larger than the setting, however many wait."""
    found = plan(gpu_menu(), [500] * 50, batch_size_max=4)
    assert found is not None
    assert len(found.request_ids) == 4


def test_a_batch_never_costs_a_packed_deadline() -> None:
    """The tightest packed request limits variant and batch: here only the small variant makes 6 ms with four."""
    found = plan(gpu_menu(), [6, 500, 500, 500])
    assert found is not None
    assert found.latency_ns <= 6 * MS or 1 not in found.request_ids


def test_a_wide_run_answers_what_one_core_cannot() -> None:
    """A budget that only two cores can make for a variant gets it on two threads."""
    menu = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
    found = plan(menu, [8], idle=2)
    assert found is not None
    assert found.threads == 2


def test_idle_cores_speed_up_a_lone_request() -> None:
    """With nobody else waiting a request takes all cores, since that answers sooner at the same accuracy."""
    menu = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
    lone, pair = plan(menu, [100], idle=2), plan(menu, [100, 100], idle=2)
    assert lone is not None
    assert pair is not None
    assert (lone.threads, pair.threads) == (2, 1)


@given(
    budgets_ms=st.lists(st.floats(1, 400), max_size=30),
    idle=st.integers(1, 3),
    rate=st.sampled_from([0, 5, 50, 500]),
    gpu=st.booleans(),
)
def test_every_plan_keeps_every_packed_deadline(budgets_ms: list[float], idle: int, rate: float, *, gpu: bool) -> None:
    """Whatever the queue, a plan packs each request once, and is predicted to meet all their deadlines."""
    menu = gpu_menu() if gpu else cpu_menu()
    found = plan(menu, budgets_ms, idle=idle, rate_per_s=rate)
    fastest_ms = min(c.latency_ns(1) for c in menu.choices) / MS
    if found is None:
        assert all(budget_ms < fastest_ms + 1e-6 for budget_ms in budgets_ms)
        return
    assert len(set(found.request_ids)) == len(found.request_ids)
    for request_id in found.request_ids:
        assert found.latency_ns <= round(budgets_ms[request_id - 1] * MS)


def test_a_head_that_can_run_nowhere_now_lets_others_pass() -> None:
    """A head pinned to a variant whose run needs two cores waits; the next request takes the idle one."""
    menu = Menu([choice("wide", 80, {1: 20}, threads=2), choice("small", 75, {1: 10})])
    queue = DeadlineQueue(size_max=4)
    queue.push(QueuedRequest(1, NOW_NS, NOW_NS + 100 * MS, RoutingPolicy(variant="wide")))
    queue.push(QueuedRequest(2, NOW_NS, NOW_NS + 200 * MS))
    planner = BatchPlanner(menu, LoadEstimator(menu, 2), PlannerSettings(16, 0))
    found = planner.plan(Situation(queue, NOW_NS, 1, (NOW_NS + 30 * MS,)))
    assert found is not None
    assert (found.variant, found.request_ids) == ("small", (2,))


def test_late_plans_use_the_fastest_allowed_variant() -> None:
    """A request that missed is served by the fastest variant its policy allows, on the cores there are."""
    menu = cpu_menu()
    planner = BatchPlanner(menu, LoadEstimator(menu, 1), PlannerSettings(16, 0))
    late = QueuedRequest(1, NOW_NS, NOW_NS, RoutingPolicy(on_miss=OnMiss.LATE, min_accuracy=76))
    found = planner.plan_late(late, idle=1)
    assert found is not None
    assert found.variant == "medium"
    assert planner.plan_late(late, idle=0) is None


def test_a_soft_target_trades_accuracy_for_latency() -> None:
    """With a target far below the accurate variants' latency a faster one maximises the paper's objective."""
    menu = cpu_menu()
    planner = BatchPlanner(menu, LoadEstimator(menu, 1), PlannerSettings(16, 0))
    chosen = []
    for target_ns in (None, 10 * MS):
        queue = DeadlineQueue(size_max=1)
        queue.push(QueuedRequest(1, NOW_NS, NOW_NS + 1000 * MS, RoutingPolicy(target_ns=target_ns)))
        found = planner.plan(Situation(queue, NOW_NS, 1, ()))
        assert found is not None
        chosen.append(found.variant)
    # By hand: 75 * (10/10)^-.07 = 75.0, 77 * (20/10)^-.07 = 73.4, 80 * (50/10)^-.07 = 71.5.
    assert chosen == ["large", "small"]


@given(st.integers(1, 1000), st.sampled_from([75.0, 77.0, 80.0]))
def test_the_objective_is_the_papers(latency_ms: int, accuracy: float) -> None:
    """At the target an answer is worth its accuracy; sooner is worth more, later less, by the power -0.07."""
    request = QueuedRequest(1, NOW_NS, NOW_NS + 2000 * MS, RoutingPolicy(target_ns=100 * MS))
    worth = value_of(request, accuracy, NOW_NS + latency_ms * MS)
    assert math.isclose(worth, accuracy * (latency_ms / 100) ** -0.07, rel_tol=1e-9)


@given(budget_us=st.integers(1, 200_000), idle=st.integers(1, 3))
def test_a_lone_request_gets_the_most_accurate_that_fits(budget_us: int, idle: int) -> None:
    """On an idle server the plan is MaxAcc's for every budget, down to the last microsecond of slack."""
    menu = Menu([*cpu_menu().choices, choice("large", 80.0, {1: 28}, threads=2)])
    found = plan(menu, [budget_us / 1000], idle=idle)
    usable = [c for c in menu.choices if c.threads <= idle and c.latency_ns(1) <= budget_us * 1000]
    assert (found is None) == (not usable)
    if found is not None:
        assert found.variant == max(usable, key=lambda c: c.accuracy).variant.name
