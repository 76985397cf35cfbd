"""The scheduler as a state machine, in single scenarios."""

from __future__ import annotations

from service.core.menu import Menu
from service.core.request import OnMiss, QueuedRequest, RoutingPolicy
from service.core.scheduler import Dispatch, Outcome, Scheduler, Settle, WakeAt
from tests.fakes.menus import MS, choice, cpu_menu, gpu_menu, scheduler

START_NS = 1_000_000_000
LATE = RoutingPolicy(on_miss=OnMiss.LATE)


def request(request_id: int, budget_ms: float, policy: RoutingPolicy = RoutingPolicy()) -> QueuedRequest:  # noqa: B008 - frozen
    return QueuedRequest(request_id, START_NS, START_NS + round(budget_ms * MS), policy)


def dispatched(actions: tuple[object, ...]) -> list[tuple[str, tuple[int, ...]]]:
    return [(a.plan.variant, a.plan.request_ids) for a in actions if isinstance(a, Dispatch)]


def settled(actions: tuple[object, ...]) -> dict[int, Outcome]:
    return {a.request_id: a.outcome for a in actions if isinstance(a, Settle)}


def wake_time(actions: tuple[object, ...]) -> int | None:
    (found,) = [a.at_ns for a in actions if isinstance(a, WakeAt)]
    return found


def test_idle_server_uses_the_most_accurate_variant_that_fits() -> None:
    """On an idle server a larger budget gets a variant at least as accurate, and the most accurate that fits."""
    for budget_ms, expected in [(10, "small"), (19, "small"), (20, "medium"), (49, "medium"), (50, "large")]:
        actions = scheduler(cpu_menu()).submit(request(1, budget_ms), START_NS)
        assert dispatched(actions) == [(expected, (1,))]


def test_a_client_that_waits_for_each_answer_is_never_degraded() -> None:
    """Requests sent one after the other, hasty ones among them, each get the most accurate variant that fits."""
    machine = scheduler(cpu_menu())
    now_ns = START_NS
    for request_id, (budget_ms, expected) in enumerate([(20, "medium"), (1000, "large")] * 40, start=1):
        made = QueuedRequest(request_id, now_ns, now_ns + budget_ms * MS)
        assert dispatched(machine.submit(made, now_ns)) == [(expected, (request_id,))]
        now_ns += 20 * MS if expected == "medium" else 50 * MS
        machine.worker_idle(0, now_ns)


def test_predictions_follow_a_machine_that_got_slower() -> None:
    """When runs take twice what was predicted, the same budget soon gets a variant that makes it at that speed."""
    machine = scheduler(cpu_menu())
    now_ns = START_NS
    chosen = []
    for request_id in range(1, 7):
        made = QueuedRequest(request_id, now_ns, now_ns + 60 * MS)
        ((name, _),) = dispatched(machine.submit(made, now_ns))
        chosen.append(name)
        now_ns += {"small": 20, "medium": 40, "large": 100}[name] * MS
        machine.worker_idle(0, now_ns)
    assert chosen == ["large", "large", "large", "medium", "medium", "medium"]


def test_distrust_fades() -> None:
    """A variant that was slow is tried again after a while without evidence, even if the door refused all requests."""
    machine = scheduler(cpu_menu())
    now_ns = START_NS
    for request_id in range(1, 4):
        machine.submit(QueuedRequest(request_id, now_ns, now_ns + 15 * MS), now_ns)
        now_ns += 40 * MS
        machine.worker_idle(0, now_ns)
    assert machine.infeasible(now_ns + 15 * MS, RoutingPolicy(), ready_ns=now_ns, now_ns=now_ns) is not None
    now_ns += 30_000 * MS
    assert machine.infeasible(now_ns + 15 * MS, RoutingPolicy(), ready_ns=now_ns, now_ns=now_ns) is None


def test_slow_deliveries_are_part_of_the_budget_until_they_are_over() -> None:
    """Where answers wait for the event loop, budgets get what leaves them that time; some quiet seconds undo it."""
    machine = scheduler(cpu_menu(), overhead_ns=1 * MS)
    now_ns = START_NS

    def chosen(request_id: int, budget_ms: float) -> str:
        nonlocal now_ns
        made = QueuedRequest(request_id, now_ns, now_ns + round(budget_ms * MS))
        ((name, _),) = dispatched(machine.submit(made, now_ns))
        now_ns += {"small": 10, "medium": 20, "large": 50}[name] * MS
        machine.worker_idle(0, now_ns)
        return name

    assert chosen(1, 51) == "large"
    for _ in range(20):
        machine.delivered(8 * MS, now_ns)
    assert machine.infeasible(now_ns + 17 * MS, RoutingPolicy(), ready_ns=now_ns, now_ns=now_ns) is not None
    assert chosen(2, 51) == "medium"
    assert chosen(3, 58) == "large"
    now_ns += 30_000 * MS
    assert machine.infeasible(now_ns + 12 * MS, RoutingPolicy(), ready_ns=now_ns, now_ns=now_ns) is None
    assert chosen(4, 51.1) == "large"


def test_quick_deliveries_leave_more_of_the_budget() -> None:
    """Where answers go out sooner than the profile says, a budget that only just does not fit comes to fit."""
    machine = scheduler(cpu_menu(), overhead_ns=2 * MS)
    assert dispatched(machine.submit(request(1, 51), START_NS)) == [("medium", (1,))]
    machine.worker_idle(0, START_NS + 20 * MS)
    for _ in range(5):
        machine.delivered(MS // 2, START_NS + 20 * MS)
    later = QueuedRequest(2, START_NS + 20 * MS, START_NS + 71 * MS)
    assert dispatched(machine.submit(later, START_NS + 20 * MS)) == [("large", (2,))]


def test_overhead_is_part_of_the_budget() -> None:
    """The time from run to written answer is taken off the slack before a variant is chosen."""
    actions = scheduler(cpu_menu(), overhead_ns=MS).submit(request(1, 50), START_NS)
    assert dispatched(actions) == [("medium", (1,))]


def test_binding_is_late() -> None:
    """A request that waits is bound when a worker is idle, to what its slack then allows, not at arrival."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 1000), START_NS)
    assert dispatched(machine.submit(request(2, 61), START_NS)) == []
    actions = machine.worker_idle(0, START_NS + 40 * MS)
    assert dispatched(actions) == [("medium", (2,))]


def test_earliest_deadline_goes_first() -> None:
    """When a worker becomes idle the request with the earliest deadline is served, not the first to arrive."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 1000), START_NS)
    machine.submit(request(2, 900), START_NS)
    machine.submit(request(3, 300), START_NS)
    assert dispatched(machine.worker_idle(0, START_NS + 50 * MS))[0][1] == (3,)


def test_queued_deadlines_pull_the_choice_down() -> None:
    """A worker does not start a long run that would cost a request already queued its deadline."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 10), START_NS)
    machine.submit(request(2, 60), START_NS)
    machine.submit(request(3, 62), START_NS)
    actions = machine.worker_idle(0, START_NS + 10 * MS)
    assert dispatched(actions) in ([("medium", (2,))], [("small", (2,))])


def test_a_hopeless_request_is_shed_by_a_timer() -> None:
    """A queued request is refused once its fastest variant cannot make it, without waiting for a worker."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 1000), START_NS)
    actions = machine.submit(request(2, 30), START_NS)
    due_ns = wake_time(actions)
    assert due_ns == START_NS + 20 * MS + 1
    assert settled(machine.wake(due_ns)) == {2: Outcome.DEADLINE_EXCEEDED}


def test_a_run_that_overshoots_does_not_hold_back_the_refusal() -> None:
    """A request in a run that takes too long is refused at its deadline; its result, when it comes, is dropped."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 10), START_NS)
    assert settled(machine.wake(START_NS + 10 * MS)) == {}
    assert settled(machine.wake(START_NS + 10 * MS + 1)) == {1: Outcome.DEADLINE_EXCEEDED}
    assert settled(machine.worker_idle(0, START_NS + 15 * MS)) == {}
    assert machine.is_empty


def test_a_cancelled_caller_never_touches_its_batch_mates() -> None:
    """One caller of a batch leaves while it runs: the others get their answers, the worker its next run."""
    machine = scheduler(gpu_menu())
    machine.submit(request(1, 1000), START_NS)
    for request_id in (2, 3, 4, 5):
        machine.submit(request(request_id, 1000), START_NS)
    ((_, mates),) = dispatched(machine.worker_idle(0, START_NS + 20 * MS))
    assert mates == (2, 3, 4, 5)
    assert settled(machine.cancel(3, START_NS + 21 * MS)) == {3: Outcome.CANCELLED}
    done = machine.worker_idle(0, START_NS + 49 * MS)
    assert settled(done) == {2: Outcome.ANSWERED, 4: Outcome.ANSWERED, 5: Outcome.ANSWERED}
    assert dispatched(machine.submit(request(6, 2000), START_NS + 50 * MS)) != []


def test_every_caller_of_a_batch_may_leave() -> None:
    """A batch whose callers all left still frees its worker when the run is over."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 100), START_NS)
    machine.cancel(1, START_NS + 1)
    assert not machine.is_empty
    machine.worker_idle(0, START_NS + 50 * MS)
    assert machine.is_empty


def test_cancelling_a_queued_request_frees_its_place() -> None:
    """A queued request whose caller left is gone from the queue and never runs."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 1000), START_NS)
    machine.submit(request(2, 1000), START_NS)
    assert settled(machine.cancel(2, START_NS)) == {2: Outcome.CANCELLED}
    assert machine.pressure.queued == 0
    assert dispatched(machine.worker_idle(0, START_NS + 50 * MS)) == []


def test_cancelling_twice_or_after_the_answer_does_nothing() -> None:
    """A cancellation that comes too late, or twice, has no effect."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 100), START_NS)
    machine.worker_idle(0, START_NS + 50 * MS)
    assert machine.cancel(1, START_NS + 51 * MS) == ()


def test_a_full_queue_says_when_to_come_back() -> None:
    """A submit beyond the bound is refused with the time the queue needs, and disturbs nobody."""
    machine = scheduler(cpu_menu(), queue_size_max=2)
    for request_id in (1, 2, 3):
        machine.submit(request(request_id, 5000), START_NS)
    (refusal,) = [a for a in machine.submit(request(4, 5000), START_NS) if isinstance(a, Settle)]
    assert refusal.outcome is Outcome.OVERLOADED
    # One large run ahead (50 ms) and two queued at the cheapest choice (10 ms each).
    assert refusal.retry_after_ns == 70 * MS
    assert machine.pressure.queued == 2


def test_late_requests_are_answered_when_there_is_room() -> None:
    """With on_miss=late a request that misses is served by the fastest variant once no request in time waits."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 1000), START_NS)
    machine.submit(request(2, 5, LATE), START_NS)
    assert settled(machine.wake(START_NS + 1)) == {}
    actions = machine.worker_idle(0, START_NS + 50 * MS)
    assert dispatched(actions) == [("small", (2,))]
    assert settled(machine.worker_idle(0, START_NS + 60 * MS)) == {2: Outcome.ANSWERED}


def test_late_requests_do_not_wait_for_ever() -> None:
    """A late request that never gets room is refused when the server's bound on waiting is over."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 1000), START_NS)
    machine.submit(request(2, 5, LATE), START_NS)
    machine.wake(START_NS + 10 * MS)
    over_ns = START_NS + 5 * MS + 10_000 * MS + 1
    assert settled(machine.wake(over_ns))[2] is Outcome.DEADLINE_EXCEEDED


def test_a_failed_run_fails_its_requests_and_frees_its_worker() -> None:
    """When a run raises, each of its requests fails and the worker takes the next plan."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 1000), START_NS)
    machine.submit(request(2, 1000), START_NS)
    actions = machine.worker_idle(0, START_NS + MS, failed=True)
    assert settled(actions) == {1: Outcome.FAILED}
    assert dispatched(actions)[0][1] == (2,)


def test_a_wide_run_takes_its_cores() -> None:
    """A run on two threads takes two workers, and both are free when it is over."""
    menu = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
    machine = scheduler(menu, workers=2)
    (first,) = [a for a in machine.submit(request(1, 8), START_NS) if isinstance(a, Dispatch)]
    assert first.workers == (0, 1)
    assert dispatched(machine.submit(request(2, 100), START_NS)) == []
    actions = machine.worker_idle(0, START_NS + 6 * MS)
    assert settled(actions) == {1: Outcome.ANSWERED}
    assert [name for name, _ in dispatched(actions)] == ["only"]


def test_a_pinned_head_does_not_block_others() -> None:
    """Requests pinned to different variants are packed apart: a batch holds one variant, each its own."""
    machine = scheduler(gpu_menu())
    machine.submit(request(1, 1000), START_NS)
    machine.submit(request(2, 500, RoutingPolicy(variant="small")), START_NS)
    machine.submit(request(3, 600, RoutingPolicy(variant="large")), START_NS)
    machine.submit(request(4, 700, RoutingPolicy(variant="small")), START_NS)
    assert dispatched(machine.worker_idle(0, START_NS + 20 * MS)) == [("small", (2, 4))]


def test_what_waits_is_planned_with_an_adopted_menu() -> None:
    """A run goes on where it began, its end is no news to the new menu, and the next one is of the new menu."""
    machine = scheduler(cpu_menu())
    assert dispatched(machine.submit(request(1, 500), START_NS)) == [("large", (1,))]
    machine.submit(request(2, 400), START_NS)
    assert dispatched(machine.adopt(Menu([choice("other", 70, {1: 5})]), 0, START_NS + MS)) == []
    actions = machine.worker_idle(0, START_NS + 50 * MS)
    assert settled(actions) == {1: Outcome.ANSWERED}
    assert dispatched(actions) == [("other", (2,))]


def test_what_an_adopted_menu_does_not_allow_is_told_so_at_once() -> None:
    """Pins to what is gone and floors that nothing reaches end, in time or late; batch-mates and runs do not."""
    machine = scheduler(cpu_menu())
    machine.submit(request(1, 500, RoutingPolicy(variant="large")), START_NS)
    policies = [
        RoutingPolicy(variant="large"),
        RoutingPolicy(variant="small"),
        RoutingPolicy(min_accuracy=78),
        RoutingPolicy(variant="large", on_miss=OnMiss.LATE),
    ]
    for request_id, policy in enumerate(policies, start=2):
        budget_ms = 1 if policy.on_miss is OnMiss.LATE else 500
        machine.submit(request(request_id, budget_ms, policy), START_NS)
    machine.wake(START_NS + 2 * MS)
    assert machine.pressure.late == 1
    kept = Menu([choice("small", 75, {1: 10})])
    assert settled(machine.adopt(kept, 0, START_NS + 3 * MS)) == dict.fromkeys((2, 4, 5), Outcome.NOT_SERVED)
    assert settled(machine.worker_idle(0, START_NS + 50 * MS)) == {1: Outcome.ANSWERED}
    assert settled(machine.worker_idle(0, START_NS + 60 * MS)) == {3: Outcome.ANSWERED}
    assert machine.is_empty


def test_an_adopted_menu_that_is_slower_sheds_in_time() -> None:
    """Whoever cannot make it any more with the new menu gets the refusal before the deadline, not after it."""
    machine = scheduler(Menu([choice("quick", 70, {1: 5})]))
    machine.submit(request(1, 500), START_NS)
    machine.submit(request(2, 40), START_NS)
    actions = machine.adopt(Menu([choice("slow", 80, {1: 30})]), 0, START_NS + MS)
    assert wake_time(actions) == START_NS + 10 * MS + 1
    assert settled(machine.wake(START_NS + 10 * MS + 1)) == {2: Outcome.DEADLINE_EXCEEDED}


def test_a_busy_machine_stays_known_as_busy() -> None:
    """What was learned of the load holds for the next menu: it does not begin as on an idle machine."""
    machine, fresh = scheduler(cpu_menu()), scheduler(cpu_menu())
    for request_id in range(1, 20):
        machine.submit(request(request_id, 300), START_NS + request_id * MS)
    machine.adopt(cpu_menu(), 0, START_NS + 20 * MS)
    slack_ns, now_ns = 300 * MS, START_NS + 21 * MS
    assert machine.likely_variants(slack_ns, RoutingPolicy(), now_ns) == {"small"}
    assert "large" in fresh.likely_variants(slack_ns, RoutingPolicy(), now_ns)


def expecting(budget_ms: float, ready_ms: float) -> Scheduler:
    """A scheduler of one worker, and a request 1 between its door and its queue."""
    machine = scheduler(cpu_menu())
    deadline_ns, ready_ns = START_NS + round(budget_ms * MS), START_NS + round(ready_ms * MS)
    machine.expect(1, deadline_ns, RoutingPolicy(), ready_ns=ready_ns)
    return machine


def test_an_admitted_request_finds_the_worker_it_was_promised() -> None:
    """A patient one that is decoded first waits for it, and is served after it."""
    machine = expecting(19, 5)
    assert not dispatched(machine.submit(request(2, 500), START_NS))
    now_ns = START_NS + 6 * MS
    assert dispatched(machine.submit(request(1, 19), now_ns)) == [("small", (1,))]
    assert dispatched(machine.worker_idle(0, now_ns + 10 * MS)) == [("large", (2,))]


def test_nobody_waits_for_a_promise_that_has_lapsed() -> None:
    """If decoding takes too long the worker idles until it could not be kept any more, or until its caller leaves."""
    machine = expecting(19, 5)
    lapse_ns = wake_time(machine.submit(request(2, 500), START_NS))
    assert lapse_ns == START_NS + 9 * MS + 1
    assert dispatched(machine.wake(lapse_ns)) == [("large", (2,))]
    machine = expecting(19, 5)
    machine.submit(request(2, 500), START_NS)
    assert dispatched(machine.forget(1, START_NS + 1)) == [("large", (2,))]
