"""The door: hopeless requests are refused, promises are kept, and everybody else may come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.core.admission import Admission
from service.core.deadline_queue import DeadlineQueue
from service.core.menu import Menu
from service.core.request import QueuedRequest, RoutingPolicy
from tests.fakes.menus import MS, choice, cpu_menu

NOW_NS = 1_000_000_000
ANY = RoutingPolicy()


def door(menu: Menu | None = None, queued_ms: list[float] | None = None) -> Admission:
    """A door before a queue of requests that have these many milliseconds left."""
    queue = DeadlineQueue(size_max=2000)
    for request_id, left_ms in enumerate(queued_ms or [], start=1):
        queue.push(QueuedRequest(request_id, NOW_NS, NOW_NS + round(left_ms * MS)))
    return Admission(menu or cpu_menu(), queue, overhead_ns=0)


def judge(
    admission: Admission,
    budget_ms: float,
    policy: RoutingPolicy = ANY,
    *,
    free_ms: tuple[float, ...] = (0,),
    points_per_ms: float = 0.0,
    offered: float = 0.0,
):
    return admission.judge(
        NOW_NS + round(budget_ms * MS),
        policy,
        now_ns=NOW_NS,
        ready_ns=NOW_NS,
        free_at_ns=[NOW_NS + round(ms * MS) for ms in free_ms],
        price=points_per_ms / MS,
        offered=offered,
    )


def test_an_idle_server_admits_what_its_fastest_variant_makes() -> None:
    """The limit is the fastest allowed run: 10 ms here, 20 ms for one that is pinned to the medium variant."""
    assert judge(door(), 10) is None
    assert judge(door(), 9.9).needed_ns == 10 * MS
    pinned = RoutingPolicy(variant="medium")
    assert judge(door(), 20, pinned) is None
    assert judge(door(), 19, pinned).needed_ns == 20 * MS


def test_what_is_due_sooner_is_in_the_way() -> None:
    """Three requests due before it take 30 ms at the cheapest: 40 ms of budget will do, 39 will not."""
    queued = [15, 25, 35]
    assert judge(door(queued_ms=queued), 40) is None
    found = judge(door(queued_ms=queued), 39)
    assert found.retry_after_ns is None
    assert found.needed_ns == 40 * MS
    assert "queue ahead takes about 30.0 ms" in found.reason


def test_a_budget_too_short_for_any_variant_is_told_of_the_queue_too() -> None:
    """Its own run takes 10 ms, but would cost the one due in 35 ms its deadline: whoever is due after that one passes.

    With the worker busy for 50 ms and nobody waiting, 60 ms will do.
    """
    found = judge(door(queued_ms=[15, 25, 35]), 5)
    assert "no allowed variant" in found.reason
    assert found.needed_ns == 40 * MS
    assert judge(door(), 5, free_ms=(50,)).needed_ns == 60 * MS


def test_a_crowd_is_told_of_the_end_of_the_queue() -> None:
    """Nine wait: that they and the newcomer take 100 ms is known at once, and which of them it could overtake is not.

    So it is for fewer while more arrives than can be carried.
    """
    assert judge(door(queued_ms=[400.0] * 8), 5).needed_ns == 10 * MS
    assert judge(door(queued_ms=[400.0] * 9), 5).needed_ns == 100 * MS
    assert judge(door(queued_ms=[400.0] * 8), 5, offered=1.0).needed_ns == 90 * MS
    wide = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
    assert judge(door(wide), 5, free_ms=(0, 0), offered=1.0).needed_ns == 6 * MS, "nobody waits"


@given(
    queued_ms=st.lists(st.floats(10, 500), max_size=40),
    free_ms=st.lists(st.floats(0, 50), min_size=1, max_size=3),
    budget_ms=st.floats(0.5, 300),
    policy=st.sampled_from([ANY, RoutingPolicy(variant="medium")]),
    offered=st.sampled_from([0.5, 1.5]),
)
def test_the_budget_that_a_refusal_names_is_let_in(
    queued_ms: list[float], free_ms: list[float], budget_ms: float, policy: RoutingPolicy, offered: float
) -> None:
    """Who comes back at once with what would have been enough passes the door, whatever waits."""
    menu = cpu_menu()
    menu.rescale([1.0, 1.0, 1.0], usual_share=0.7)  # judged by count: what the runs to come say is `_too_many`'s
    admission = door(menu, queued_ms)
    found = judge(admission, budget_ms, policy, free_ms=tuple(free_ms), offered=offered)
    if found is not None and found.retry_after_ns is None:
        assert found.needed_ns > budget_ms * MS
        assert judge(admission, found.needed_ns / MS, policy, free_ms=tuple(free_ms), offered=offered) is None


def test_promises_are_kept() -> None:
    """A request that would make it, but push one already admitted past its deadline, is told to come back."""
    admission = door(queued_ms=[15, 35])
    found = judge(admission, 12)
    assert found.retry_after_ns == 5 * MS
    assert "already admitted" in found.reason
    assert judge(door(queued_ms=[20, 30]), 12) is None


def test_requests_being_decoded_count() -> None:
    """Between door and queue a request is expected: it stands in the way like a queued one, until it is forgotten."""
    admission = door()
    admission.expect(1, NOW_NS + 15 * MS, ANY, NOW_NS)
    assert judge(admission, 18) is not None
    admission.forget(1)
    admission.forget(1)
    assert judge(admission, 18) is None
    assert admission.expected == 0


def test_a_busy_worker_must_be_waited_for() -> None:
    """With the only worker busy for 30 ms the fastest answer takes 40; a second, idle worker changes that."""
    assert judge(door(), 39, free_ms=(30,)) is not None
    assert judge(door(), 40, free_ms=(30,)) is None
    assert judge(door(), 10, free_ms=(30, 0)) is None


def test_a_wide_run_waits_for_all_its_cores() -> None:
    """A budget that only a run on two cores makes is refused while one of them is busy."""
    menu = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
    assert judge(door(menu), 8, free_ms=(0, 0)) is None
    assert judge(door(menu), 8, free_ms=(0, 5)) is not None
    assert judge(door(menu), 10, free_ms=(0, 5)) is None


def test_a_run_that_does_not_pay_is_no_promise() -> None:
    """Where core time is worth what the narrow run earns, a budget that only the wide one makes is refused."""
    menu = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
    assert judge(door(menu), 9, free_ms=(2, 2)) is None
    assert judge(door(menu), 9, free_ms=(2, 2), points_per_ms=7.5) is not None
    assert judge(door(menu), 12, free_ms=(2, 2), points_per_ms=7.5) is None
    assert judge(door(menu), 9, points_per_ms=7.5, free_ms=(0, 0)) is None, "nobody waits: whatever fits is run"


def test_a_newcomer_rides_in_the_batch_that_pays() -> None:
    """Under load a batch takes all who wait, so the newcomer's budget must cover a batch and not one image."""
    menu = Menu([choice("only", 75, {1: 10, 8: 16})])
    later = [200.0] * 7
    assert judge(door(menu, later), 14, free_ms=(2,)) is None
    assert judge(door(menu, later), 14, free_ms=(2,), points_per_ms=75 / 2) is not None
    assert judge(door(menu, later), 18, free_ms=(2,), points_per_ms=75 / 2) is None
    assert judge(door(menu), 13, free_ms=(2,), points_per_ms=75 / 2) is None, "a batch of the one that waits"


def test_who_shares_a_batch_takes_its_time() -> None:
    """Seven due before the newcomer make its run one of eight, which takes 16 ms: it has no run of its own."""
    menu = Menu([choice("only", 75, {1: 10, 8: 16})])
    assert judge(door(menu, [16.0] * 7), 15.8) is not None
    assert judge(door(menu, [16.0] * 7), 16) is None
    assert judge(door(menu, [15.5] * 7), 16) is not None, "who is due soonest leaves room for seven"
    assert judge(door(menu, [15.5] * 7), 13, free_ms=(0, 0)) is None, "two workers take four of them each"


def test_who_is_moved_into_the_next_batch_still_makes_it() -> None:
    """A newcomer moves the eighth into a second batch: where only full ones pay, that one is done after 32 ms."""
    menu = Menu([choice("only", 75, {1: 10, 8: 16})])
    found = judge(door(menu, [20.0] * 7 + [30.0]), 18, points_per_ms=75 / 2)
    assert found.retry_after_ns == 2 * MS
    assert judge(door(menu, [20.0] * 7 + [32.0]), 18, points_per_ms=75 / 2) is None
    assert judge(door(menu, [20.0] * 7 + [30.0]), 18) is None, "a batch of one pays"


def test_the_next_batch_may_start_with_one_that_is_being_decoded() -> None:
    """Who is moved on may be queued or expected: the eighth of both by deadline is the one that counts."""
    menu = Menu([choice("only", 75, {1: 10, 8: 16})])
    for eighth_ms, fits in ((31.9, False), (32, True)):
        admission = door(menu, [20.0] * 4 + [200.0] * 4)
        for request_id, left_ms in enumerate([20, 20, 20, eighth_ms, 200], start=100):
            admission.expect(request_id, NOW_NS + round(left_ms * MS), ANY, NOW_NS)
        assert (judge(admission, 18, points_per_ms=75 / 2) is None) is fits


def test_a_price_above_what_any_run_earns_leaves_full_batches() -> None:
    """Predictions rose since the price was solved: under a flood a batch takes all who wait even so."""
    menu = Menu([choice("only", 75, {1: 10, 8: 16})])
    assert judge(door(menu, [200.0] * 8), 14, free_ms=(2,), points_per_ms=75 / 2 * 1.01) is not None
    assert judge(door(menu, [200.0] * 8), 18, free_ms=(2,), points_per_ms=75 / 2 * 1.01) is None
    assert judge(door(menu, [200.0] * 7), 14, free_ms=(2,), points_per_ms=75 / 2 * 1.01) is None, "no full batch waits"


def test_pinned_traffic_makes_the_queue_dearer() -> None:
    """Four that are pinned to an expensive variant take 200 ms, and 40 if they are not."""
    for pinned, least_ms in ((RoutingPolicy(variant="large"), 210), (ANY, 50)):
        admission = door()
        for request_id in range(1, 5):
            admission.expect(request_id, NOW_NS + (least_ms - 5) * MS, pinned, NOW_NS)
        assert judge(admission, least_ms - 1) is not None
        assert judge(admission, least_ms) is None


@given(st.lists(st.floats(10, 500), max_size=40), st.floats(1, 600))
def test_who_is_admitted_alone_after_promises_never_overfills(queued_ms: list[float], budget_ms: float) -> None:
    """Admitting one by one, everybody admitted makes its deadline when served cheapest and earliest first."""
    admission = Admission(cpu_menu(), DeadlineQueue(size_max=100), overhead_ns=0)
    admitted: list[int] = []
    for request_id, left_ms in enumerate([*queued_ms, budget_ms], start=1):
        deadline_ns = NOW_NS + round(left_ms * MS)
        if admission.judge(deadline_ns, ANY, now_ns=NOW_NS, ready_ns=NOW_NS, free_at_ns=[NOW_NS]) is None:
            admission.expect(request_id, deadline_ns, ANY, NOW_NS)
            admitted.append(deadline_ns)
    for position, deadline_ns in enumerate(sorted(admitted), start=1):
        # Spaced looks may miss one place in five behind the newcomer; a run's length bounds what that can cost.
        assert NOW_NS + position * 10 * MS <= deadline_ns + 10 * MS


def test_who_would_be_late_by_high_quantiles_alone_is_let_in() -> None:
    """Who is due first will take the free core for 10 ms, the other is free in 5 ms: with 14 ms left the next is late.

    By count it would start in 5 ms on both. That is one of three predictions that must come true; where runs usually
    take much less than predicted they do not all, and the count decides.
    """

    def verdict(usual_share: float) -> object:
        menu = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
        menu.rescale([1.0, 1.0], usual_share)
        return judge(door(menu, queued_ms=[12, 24]), 14, free_ms=(0, 5))

    assert verdict(1.0) is not None
    assert verdict(0.9) is not None
    assert verdict(0.7) is None
