"""The runs to come, one after another: who would be in time if nobody else came."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from service.core.menu import Menu
from service.core.promises import Promised
from service.core.request import RoutingPolicy
from service.core.timetable import Timetable
from tests.fakes.menus import MS, choice

NOW_NS = 1_000_000_000
ANY = RoutingPolicy()
ONE = Menu([choice("only", 75, {1: 10})])
TWO_WIDTHS = Menu([choice("only", 75, {1: 10}), choice("only", 75, {1: 6}, threads=2)])
BATCHING = Menu([choice("only", 75, {1: 10, 8: 17})])


def table(menu: Menu, free_ms: Sequence[float] = (0,), points_per_ms: float = 0.0) -> Timetable:
    free_at_ns = [NOW_NS + round(ms * MS) for ms in free_ms]
    return Timetable(menu, price=points_per_ms / MS, now_ns=NOW_NS, overhead_ns=0, free_at_ns=free_at_ns)


def waiting(*due_ms: float, ready_ms: dict[int, float] | None = None, policy: RoutingPolicy = ANY) -> list[Promised]:
    """Requests from number 0 on that have so many milliseconds left; those of `ready_ms` are being decoded."""
    found = enumerate(due_ms)
    ready = ready_ms or {}
    return [Promised(NOW_NS + round(ms * MS), at, NOW_NS + round(ready.get(at, 0) * MS), policy) for at, ms in found]


def test_one_after_another_by_their_deadlines() -> None:
    """Runs of 10 ms on one worker: the third has its turn after 20, and who is late takes nobody's time."""
    assert table(ONE).kept(waiting(30, 10, 20)) == {0, 1, 2}
    assert table(ONE).kept(waiting(10, 19, 20)) == {0, 2}
    assert table(ONE, free_ms=(5,)).kept(waiting(14, 15)) == {1}
    assert table(ONE, free_ms=(0, 0)).kept(waiting(10, 10, 20, 20)) == {0, 1, 2, 3}


def test_the_narrowest_run_that_is_in_time() -> None:
    """Two on a core each where that will do; a budget that only both cores make moves those behind it on by 6 ms."""
    assert table(TWO_WIDTHS, (0, 0)).kept(waiting(10, 10)) == {0, 1}
    assert table(TWO_WIDTHS, (0, 0)).kept(waiting(6, 16, 16)) == {0, 1, 2}
    assert table(TWO_WIDTHS, (0, 0)).kept(waiting(6, 15.5, 15.5)) == {0, 1}
    assert table(TWO_WIDTHS, (0, 3)).kept(waiting(6)) == set()


def test_a_run_that_does_not_pay_is_not_taken() -> None:
    """12 ms of cores for one answer, where they could earn that in 10: nobody gets it, unless nobody else waits."""
    assert table(TWO_WIDTHS, (0, 0), points_per_ms=7.5).kept(waiting(6, 40)) == {1}
    assert table(TWO_WIDTHS, (0, 0), points_per_ms=7.5).kept(waiting(6)) == {0}
    assert table(TWO_WIDTHS, (2, 2), points_per_ms=7.5).kept(waiting(8)) == set()
    assert table(TWO_WIDTHS, (0, 0), points_per_ms=70).kept(waiting(40)) == {0}, "the cheapest run is always to be had"


def test_who_is_being_decoded_finds_the_worker_taken() -> None:
    """A worker starts on who is there. It waits for one due sooner as long as that costs less than it earns."""
    mixed = waiting(100, 16, ready_ms={1: 5})
    assert table(ONE).kept(mixed) == {0, 1}
    assert table(ONE, points_per_ms=4).kept(mixed) == {0, 1}
    assert table(ONE, points_per_ms=5.5).kept(mixed) == {0}
    assert table(ONE, points_per_ms=5.5).kept(waiting(100, 20, ready_ms={1: 5})) == {0, 1}, "there is time for both"


def test_work_goes_on_while_a_picture_is_decoded() -> None:
    """Two that are there are done by the time the third is decoded."""
    assert table(ONE).kept(waiting(10, 20, 30, ready_ms={2: 20})) == {0, 1, 2}
    assert table(ONE).kept(waiting(10, 20, 30, ready_ms={2: 20.5})) == {0, 1}


def test_a_batch_is_as_large_as_its_first_ones_slack() -> None:
    """Eight take 17 ms and seven 16: who is due in 16 leaves the eighth for a run of its own."""
    assert table(BATCHING).kept(waiting(*[17] * 8)) == set(range(8))
    assert table(BATCHING).kept(waiting(16, *[25] * 7)) == set(range(7))
    assert table(BATCHING).kept(waiting(16, *[26] * 7)) == set(range(8))
    assert table(BATCHING, (0, 0)).kept(waiting(*[13] * 8)) == set(range(8)), "two workers take four each"


def test_a_pinned_one_takes_its_own_variants_time() -> None:
    """And moves those behind it on by that."""
    menu = Menu([choice("small", 75, {1: 10}), choice("large", 80, {1: 50})])
    pinned = waiting(50, policy=RoutingPolicy(variant="large"))
    assert table(menu).kept([*pinned, *waiting(0, 60)[1:]]) == {0, 1}
    assert table(menu).kept([*pinned, *waiting(0, 59)[1:]]) == {0}
    assert table(menu, (0.5,)).kept(pinned) == set()


due = st.lists(st.integers(1, 120), min_size=1, max_size=12)
free = st.lists(st.integers(0, 40), min_size=1, max_size=3)


@given(due, free, st.dictionaries(st.integers(0, 11), st.integers(0, 40)), st.sampled_from([0.0, 3.0, 7.5, 20.0]))
def test_the_quick_way_to_know_agrees(due_ms: list[int], free_ms: list[int], ready_ms: dict[int, float], price) -> None:
    """Where all are surely kept, they are."""
    for menu in (ONE, TWO_WIDTHS, BATCHING):
        everybody, runs = waiting(*due_ms, ready_ms=ready_ms), table(menu, free_ms, price)
        if runs.all_surely_kept(everybody):
            assert runs.kept(everybody) == set(range(len(due_ms)))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 15))
def test_no_order_keeps_all_where_this_does_not(due_ms: list[int], free_ms: int) -> None:
    """On one worker, everybody decoded: all are kept exactly if some order of them is in time (Jackson 1955)."""

    def in_time(order: Sequence[int]) -> bool:
        return all(free_ms + 10 * place <= left_ms for place, left_ms in enumerate(order, start=1))

    everybody = waiting(*due_ms)
    kept = table(ONE, (free_ms,)).kept(everybody)
    assert (len(kept) == len(due_ms)) is any(map(in_time, itertools.permutations(due_ms)))


@given(due, free, st.integers(0, 40))
def test_a_worker_that_is_free_later_keeps_no_more(due_ms: list[int], free_ms: list[int], later_ms: int) -> None:
    """Of runs that all take one core and one length, as many as can be are kept: waiting never helps."""
    everybody = waiting(*due_ms)
    later = table(ONE, [ms + later_ms for ms in free_ms]).kept(everybody)
    assert len(later) <= len(table(ONE, free_ms).kept(everybody))
