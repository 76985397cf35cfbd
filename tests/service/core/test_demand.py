"""What was asked for lately: bounded, weighed by how often, and forgotten after a minute."""

from __future__ import annotations

from service.core.demand import WINDOW_NS, Demand, Wish, Worth, best_for, prior
from service.core.request import DEFAULT_POLICY, RoutingPolicy
from tests.fakes.menus import MS, cpu_menu

CHOICES = cpu_menu().choices


def wish(slack_ms: float, price: float = 0.0, policy: RoutingPolicy = DEFAULT_POLICY) -> Wish:
    return Wish(0, round(slack_ms * MS), policy, price, 1.0)


def test_kept_wishes_stand_for_all_requests() -> None:
    """Of 60,000 in a minute a bounded number is kept, whose weights add up to nearly all; after another one none."""
    demand = Demand()
    for at_ms in range(60_000):
        if not demand.skips(at_ms * MS):
            demand.note(50 * MS, DEFAULT_POLICY, 0.0, at_ms * MS)
    kept = demand.wishes(60_000 * MS)
    assert len(kept) <= 128
    assert 58_000 <= sum(w.weight for w in kept) <= 60_000
    assert demand.wishes(60_000 * MS + WINDOW_NS + 1) == ()


def test_a_rhythm_hides_nobody() -> None:
    """Of two kinds of requests that alternate evenly, neither is taken for more than two thirds of all."""
    demand = Demand()
    for at in range(6000):
        now_ns = at * 10 * MS
        if not demand.skips(now_ns):
            demand.note((50 if at % 2 else 500) * MS, DEFAULT_POLICY, 0.0, now_ns)
    kept = demand.wishes(60_000 * MS)
    slow = sum(w.weight for w in kept if w.slack_ns > 100 * MS)
    assert 1 / 3 < slow / sum(w.weight for w in kept) < 2 / 3


def test_the_best_is_the_most_accurate_in_time_unless_core_time_is_dear() -> None:
    """As the planner chooses: accuracy less the price of core time, among what is in time and allowed."""
    assert best_for(CHOICES, wish(100)) == "large"
    assert best_for(CHOICES, wish(30)) == "medium"
    assert best_for(CHOICES, wish(30), ratio=2.0) == "small"
    assert best_for(CHOICES, wish(5)) is None
    assert best_for(CHOICES, wish(100, price=1.0 / MS)) == "small"
    assert best_for(CHOICES, wish(100, policy=RoutingPolicy(variant="medium"))) == "medium"
    assert best_for(CHOICES, wish(30, policy=RoutingPolicy(min_accuracy=79.0))) is None


def test_a_set_is_worth_what_its_best_are() -> None:
    """Each wish is served once: two that serve it are worth no more than the better one."""
    worth = Worth(CHOICES, [wish(100), wish(12)])
    assert worth.of({"small", "large"}) == 80.0 + 75.0
    assert worth.of({"medium", "large"}) == 80.0
    assert worth.of(set()) == 0.0


def test_nobodys_wishes_span_all_budgets() -> None:
    """Before anybody asked, budgets from the fastest run to the default are taken to be asked for."""
    slacks = [w.slack_ns for w in prior(CHOICES, 1000 * MS)]
    assert slacks == sorted(slacks)
    assert slacks[0] <= 11 * MS
    assert slacks[-1] >= 990 * MS
