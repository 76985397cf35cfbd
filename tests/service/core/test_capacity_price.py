"""The working point: free when idle, cheapest when flooded, and better than a fixed target in between."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from service.core.capacity_price import IDLE, Operation, best_operation
from service.core.menu import Menu
from tests.fakes.menus import MS, choice, cpu_menu, gpu_menu, two_width_menu
from tests.service.core.every_working_point import every_working_point

LONG = [500 * MS] * 8


def operation(rate_per_s: float, budgets_ns: list[int] = LONG, *, workers: int = 1, decode_ms: float = 0) -> Operation:
    return best_operation(
        cpu_menu(),
        budgets_ns,
        workers=workers,
        arrivals_per_ns=rate_per_s / 1e9,
        side_core_ns=round(decode_ms * MS),
    )


def test_nothing_known_is_idle() -> None:
    """Without budgets or arrivals core time is free."""
    assert operation(0) == IDLE
    assert operation(100, []) == IDLE


def test_light_traffic_is_free() -> None:
    """A rate that the most accurate variant carries easily has no price."""
    assert operation(5).above == 0


def test_one_variant_alone_is_free_until_the_cores_are_full() -> None:
    """Nothing cheaper could be chosen, so core time that is idle costs nothing: a run may take all cores."""
    menu = Menu([choice("only", 75.0, {1: 10}), choice("only", 75.0, {1: 6}, threads=2)])

    def price(rate_per_s: float) -> float:
        return best_operation(menu, LONG, workers=2, arrivals_per_ns=rate_per_s / 1e9, side_core_ns=0).above

    assert price(60) == 0
    assert price(300) > 0


def test_where_two_prices_serve_everybody_alike_the_lower_one_is_meant() -> None:
    """From the price on at which all take the cheapest variant nothing changes: not yet what it earns is the price."""
    found = operation(150, [15 * MS, 15 * MS, 500 * MS, 500 * MS], workers=2)
    assert found.below == found.above
    assert found.above < 75 / (10 * MS)


def test_overload_is_priced_at_what_the_cheapest_variant_earns() -> None:
    """Above the capacity of the cheapest variant no choice but that one is worth its time."""
    assert operation(500).below >= 75 / (10 * MS) * 0.999


def test_decoding_counts() -> None:
    """Core time that decoding takes leaves less for runs: the price is at least as high."""
    assert operation(14, decode_ms=30).above > operation(14).above


def usual(rate_per_s: float, budgets_ms: list[float], *, side_ms: float = 0, cores_shared: bool = False) -> Operation:
    return best_operation(
        two_width_menu(),
        [round(budget * MS) for budget in budgets_ms],
        workers=2,
        arrivals_per_ns=rate_per_s / 1e9,
        side_core_ns=round(side_ms * MS),
        cores_shared=cores_shared,
    )


def width(rate_per_s: float, budgets_ms: list[float], *, side_ms: float = 0) -> int | None:
    return usual(rate_per_s, budgets_ms, side_ms=side_ms).width


def test_wide_runs_where_short_budgets_need_an_idle_machine() -> None:
    """At light load with budgets that one core cannot make, runs take all cores and are over soon."""
    assert width(40, [7, 8, 9, 12, 100, 100]) == 2


def test_wide_runs_need_room_where_decoding_takes_their_cores() -> None:
    """What is wide with cores to itself stays so at light load only, if requests take the cores besides."""
    budgets_ms = [7, 8, 9, 12, 100, 100]
    assert width(110, budgets_ms) == 2
    assert width(110, budgets_ms, side_ms=2) == 1
    assert width(20, budgets_ms, side_ms=2) == 2


def test_wide_runs_need_room_also_where_decoding_is_seen_as_longer_runs() -> None:
    """Who decodes takes the cores from wide runs, reckoned beside them or as what they are longer by."""
    budgets_ms = [7.0, 8.0, 9.0, 12.0, 100.0, 100.0]
    assert usual(110, budgets_ms).width == 2
    assert usual(110, budgets_ms, cores_shared=True).width == 1


def test_wide_runs_take_what_they_have_room_for() -> None:
    """They serve no worse than room requires: a cheaper way to serve by them is taken before narrow runs are."""
    patient = [40.0, 60.0, 100.0, 400.0]
    alone, beside = usual(30, [7.0, 8.0, *patient]), usual(30, [7.0, 8.0, *patient], cores_shared=True)
    assert alone.width == beside.width == 2
    assert alone.utilisation > 0.42 >= beside.utilisation
    assert alone.above < beside.above


def test_nobody_is_charged_for_whom_a_run_on_all_cores_might_block() -> None:
    """Core time that nobody needs is free at light load: who is blocked is seen before each run."""
    found = usual(20, [7.0, 8.0, 9.0, 12.0, 100.0, 400.0])
    assert (found.below, found.above, found.width) == (0.0, 0.0, 2)


def test_whom_a_run_blocks_is_charged_where_batches_pay() -> None:
    """There a price of nothing would have every request served by itself, at the most accurate variant it can get."""
    budgets_ns = [round(budget * MS) for budget in (12, 15, 20, 40, 100, 400)]
    found = best_operation(gpu_menu(), budgets_ns, workers=1, arrivals_per_ns=25 / 1e9, side_core_ns=0)
    assert found.utilisation < 0.5
    assert found.above > 0.0


def test_narrow_runs_where_the_machine_must_carry_most() -> None:
    """Near the capacity of one run a core, runs on two cores would not keep up."""
    assert width(180, [7, 8, 9, 12, 100, 100]) == 1


def test_in_a_flood_the_width_that_is_flooded_least() -> None:
    """Beyond all capacity the width that carries most is usual."""
    assert width(2000, [100] * 4) == 1


@given(
    rate=st.floats(1, 2000),
    budgets_ms=st.lists(st.floats(1, 1000), min_size=1, max_size=16),
    workers=st.integers(1, 8),
    gpu=st.booleans(),
)
def test_a_working_point_is_always_sound(rate: float, budgets_ms: list[float], workers: int, *, gpu: bool) -> None:
    """Whatever the traffic, prices are finite and ordered, and the utilisation is a share."""
    found = best_operation(
        gpu_menu() if gpu else cpu_menu(),
        [round(budget * MS) for budget in budgets_ms],
        workers=workers,
        arrivals_per_ns=rate / 1e9,
        side_core_ns=0,
    )
    assert 0 <= found.below <= found.above < 1
    assert 0 <= found.utilisation <= 1


@st.composite
def menus(draw: st.DrawFn) -> Menu:
    """Variants that cost more the more accurate they are, on one width or several; batches pay or do not."""
    widths = draw(st.sampled_from([(1,), (1, 2), (1, 2, 4)]))
    marginal = draw(st.sampled_from([0.1, 0.4, 1.0]))
    choices, top1, ms = [], 60.0, draw(st.floats(1, 10))
    for number in range(draw(st.integers(1, 5))):
        top1 += draw(st.floats(0.1, 5))
        ms *= draw(st.floats(1.05, 3))
        for threads in widths:
            by_size = {size: ms / threads**0.7 * (1 + marginal * (size - 1)) for size in (1, 2, 4, 8, 16)}
            choices.append(choice(f"v{number}", top1, by_size, threads))
    return Menu(choices)


@given(
    menu=menus(),
    load=st.floats(0.02, 1.3),
    budgets_ms=st.lists(st.floats(2, 400), min_size=1, max_size=12),
    more_workers=st.integers(0, 2),
    side_ms=st.sampled_from([0.0, 2.0]),
)
def test_no_working_point_is_worth_more(
    menu: Menu, load: float, budgets_ms: list[float], more_workers: int, side_ms: float
) -> None:
    """What is found is one of all there are, and none of those is worth more, reckoned the plain way."""
    workers = max(threads for threads, _ in menu.fastest_by_width) + more_workers
    rate = load * workers / (menu.cheapest.core_ns_per_image + side_ms * MS)
    budgets_ns = [round(budget * MS) for budget in budgets_ms]
    found = best_operation(menu, budgets_ns, workers=workers, arrivals_per_ns=rate, side_core_ns=side_ms * MS)
    every = every_working_point(menu, budgets_ns, workers=workers, arrivals_per_ns=rate, side_core_ns=side_ms * MS)
    worth = max(value for operation, value in every.items() if is_same(operation, found))
    assert worth >= max(every.values()) - 1e-9 * abs(worth)


def is_same(one: Operation, other: Operation) -> bool:
    """But for rounding."""
    pairs = ((one.below, other.below), (one.above, other.above), (one.utilisation, other.utilisation))
    return one.width == other.width and all(math.isclose(a, b, rel_tol=1e-8) for a, b in pairs)
