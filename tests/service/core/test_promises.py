"""What a run costs requests that are admitted and still being decoded, in situations small enough to check by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.core.menu import Menu
from service.core.promises import Promised, Promises
from service.core.request import RoutingPolicy
from tests.fakes.menus import MS, choice, cpu_menu, two_width_menu

NOW_NS = 1_000_000_000
POINTS = 75.0
"""What `cpu_menu`'s cheapest choice, which takes 10 ms on one worker, earns."""


def at(ms: float) -> int:
    return NOW_NS + round(ms * MS)


def promises(
    promised: list[tuple[float, float]],
    *,
    free_ms: tuple[float, ...],
    menu: Menu | None = None,
    policy: RoutingPolicy = RoutingPolicy(),  # noqa: B008 - frozen
    points_per_ms: float = 0.0,
) -> Promises:
    """Promises, each due and decoded so many milliseconds from now."""
    return Promises(
        [Promised(at(due), number, at(ready), policy) for number, (due, ready) in enumerate(sorted(promised))],
        menu or cpu_menu(),
        price=points_per_ms / MS,
        now_ns=NOW_NS,
        overhead_ns=0,
        free_at_ns=[at(ms) for ms in free_ms],
    )


def test_nothing_promised_costs_nothing() -> None:
    """However long a run takes."""
    assert promises([], free_ms=(0,)).broken(at(1000), 1) == 0.0


def test_a_run_on_the_only_worker_breaks_what_cannot_wait_for_it() -> None:
    """Decoded in 5 ms and due in 20: a run of 10 ms leaves the 10 that it needs, one of 11 does not."""
    one = promises([(20, 5)], free_ms=(0,))
    assert one.broken(at(10), 1) == 0.0
    assert one.broken(at(11), 1) == POINTS
    assert one.kept_by_ns == at(15)


def test_a_promise_is_worth_what_it_earns_beyond_the_price() -> None:
    """Of its 75 points 10 ms of core time at 3 points each are others' to earn; in a flood all are."""
    assert promises([(20, 5)], free_ms=(0,), points_per_ms=3).broken(at(11), 1) == POINTS - 30
    assert promises([(20, 5)], free_ms=(0,), points_per_ms=7.5).broken(at(11), 1) == 0.0
    assert promises([(20, 5)], free_ms=(0,), points_per_ms=9).broken(at(11), 1) == 0.0


def test_a_worker_that_is_left_idle_keeps_it() -> None:
    """With a second worker idle nothing is broken, unless the run takes both."""
    one = promises([(20, 5)], free_ms=(0, 0))
    assert one.broken(at(100), 1) == 0.0
    assert one.broken(at(100), 2) == POINTS


def test_what_is_broken_anyway_does_not_count() -> None:
    """A promise that no worker can keep any more holds nobody back."""
    late = promises([(20, 11)], free_ms=(0,))
    assert late.broken(at(100), 1) == 0.0
    assert late.kept_by_ns == NOW_NS


def test_each_takes_the_narrowest_run_that_is_in_time() -> None:
    """A budget that only both workers make needs both; one that a narrow run makes leaves the other to the next."""
    menu = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
    assert promises([(7, 0)], free_ms=(0, 0), menu=menu).broken(at(2), 1) == POINTS
    assert promises([(10, 0), (10, 0)], free_ms=(0, 0), menu=menu).broken(at(1), 1) == POINTS
    assert promises([(12, 0), (22, 0)], free_ms=(0, 0), menu=menu).broken(at(2), 1) == 0.0


def test_a_pinned_one_needs_its_own_variant() -> None:
    """A pin to the large variant takes 50 ms of a worker; one that the menu no longer has is no promise."""
    large = RoutingPolicy(variant="large")
    assert promises([(60, 0)], free_ms=(0,), policy=large).broken(at(11), 1) == POINTS
    assert promises([(60, 0)], free_ms=(0,), policy=RoutingPolicy(variant="gone")).broken(at(1000), 1) == 0.0


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(0, 30)), max_size=12),
    st.lists(st.floats(0, 40), min_size=1, max_size=3),
    st.floats(0, 200),
)
def test_a_run_costs_no_more_than_all_that_was_promised(promised, free_ms, ends_ms) -> None:
    """And nothing if it takes no time; whatever the workers do."""
    found = promises(promised, free_ms=tuple(sorted([0.0, *free_ms])), menu=two_width_menu())
    assert found.broken(NOW_NS, 1) == 0.0
    assert 0.0 <= found.broken(at(ends_ms), 1) <= len(promised) * POINTS


@given(st.floats(1, 100), st.floats(0, 30), st.floats(0, 40), st.lists(st.floats(0, 200), min_size=2, max_size=2))
def test_a_longer_run_breaks_no_fewer(due_ms, ready_ms, free_ms, ends_ms) -> None:
    """Of two runs on one worker the one that ends later costs at least as much."""
    found = promises([(due_ms, ready_ms)], free_ms=(0.0, free_ms), menu=two_width_menu())
    sooner, later = (found.broken(at(ms), 1) for ms in sorted(ends_ms))
    assert sooner <= later
