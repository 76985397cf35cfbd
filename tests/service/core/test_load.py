"""The load estimate: rate, price and blocking loss."""

from __future__ import annotations

import pytest

from service.core.load import LoadEstimator, LoadSettings
from service.core.menu import Menu
from tests.fakes.menus import MS, choice, cpu_menu, two_width_menu

NS_PER_S = 1_000_000_000


def fed(rate_per_s: float, budget_ms: float = 500, workers: int = 1, seconds: int = 10) -> tuple[LoadEstimator, int]:
    """An estimator after `seconds` of evenly spaced arrivals, and the time then."""
    estimator = LoadEstimator(cpu_menu(), workers)
    gap_ns = round(NS_PER_S / rate_per_s)
    now_ns = 0
    estimator.running(now_ns, anything=True)
    for _ in range(round(rate_per_s * seconds)):
        now_ns += gap_ns
        estimator.observe(round(budget_ms * MS), now_ns)
    return estimator, now_ns


def test_no_traffic_no_price() -> None:
    """Before any arrival core time is free and nothing can be blocked."""
    estimator = LoadEstimator(cpu_menu(), 1)
    assert estimator.arrivals_per_ns(0) == 0
    assert estimator.price_per_core_ns(0) == 0
    assert estimator.future_loss([50 * MS], 0.0, 0) == 0


@pytest.mark.parametrize("rate_per_s", [20, 100, 700])
def test_the_rate_converges_to_the_arrivals(rate_per_s: float) -> None:
    """After several windows the estimate is within 10 % of the true rate."""
    estimator, now_ns = fed(rate_per_s)
    assert estimator.arrivals_per_ns(now_ns) * NS_PER_S == pytest.approx(rate_per_s, rel=0.1)


def test_a_client_that_waits_for_its_answers_offers_no_competing_load() -> None:
    """Arrivals that only come when nothing runs are no reason to save capacity, however many they are."""
    estimator = LoadEstimator(cpu_menu(), 1)
    now_ns = 0
    for _ in range(200):
        estimator.observe(500 * MS, now_ns)
        estimator.running(now_ns, anything=True)
        now_ns += 50 * MS
        estimator.running(now_ns, anything=False)
    assert estimator.arrivals_per_ns(now_ns) == 0
    assert estimator.price_per_core_ns(now_ns) == 0


def test_the_rate_falls_when_traffic_stops() -> None:
    """Three windows of running without an arrival bring the rate down to a twentieth."""
    estimator, now_ns = fed(100)
    later_ns = now_ns + 3 * LoadSettings().window_ns
    assert estimator.arrivals_per_ns(later_ns) * NS_PER_S == pytest.approx(100 * 0.05, rel=0.1)


def test_core_time_is_free_while_the_best_variant_fits() -> None:
    """At a rate the large variant can carry (50 ms each) the price is zero."""
    estimator, now_ns = fed(15)
    assert estimator.price_per_core_ns(now_ns) == 0


def test_the_price_rises_with_the_rate_up_to_the_value_of_an_answer() -> None:
    """More traffic never makes core time cheaper; in overload it costs what the cheapest variant earns with it."""
    prices = []
    for rate_per_s in (10, 30, 60, 85, 200, 1000):
        estimator, now_ns = fed(rate_per_s)
        prices.append(estimator.price_per_core_ns(now_ns))
    assert prices == sorted(prices)
    assert prices[-1] == pytest.approx(75 / (10 * MS))


def test_more_workers_lower_the_price() -> None:
    """The same traffic on more cores makes core time cheaper."""
    one, now_ns = fed(60)
    four, _ = fed(60, workers=4)
    assert four.price_per_core_ns(now_ns) < one.price_per_core_ns(now_ns)


def test_a_busy_worker_costs_only_short_budgets() -> None:
    """Budgets longer than the wait plus the fastest run lose nothing; shorter ones lose more, the longer the wait."""
    patient, now_ns = fed(50, budget_ms=500)
    patient.price_per_core_ns(now_ns)
    assert patient.future_loss([50 * MS], 0.0, now_ns) == 0
    hasty, now_ns = fed(50, budget_ms=15)
    hasty.price_per_core_ns(now_ns)
    losses = [hasty.future_loss([ms * MS], 0.0, now_ns) for ms in (0, 10, 20, 50)]
    assert losses == sorted(losses)
    assert losses[0] == 0
    # 20 ms busy: arrivals in the first 15 ms find more than 5 ms of it left. 50/s * 15 ms * 75 points, and a little
    # more for those that then wait behind each other.
    assert 50 * 0.015 * 75 * 0.8 < losses[2] < 50 * 0.015 * 75 * 1.6


def test_an_idle_neighbour_makes_a_busy_worker_cheap() -> None:
    """While another worker is idle, one busy worker costs a part of what it costs alone."""
    estimator, now_ns = fed(50, budget_ms=12, workers=2)
    estimator.price_per_core_ns(now_ns)
    helped, both_busy = (estimator.future_loss([ms * MS, 20 * MS], 0.0, now_ns) for ms in (0, 20))
    assert 0 < helped < both_busy / 2


def test_a_backlog_costs_more_than_none() -> None:
    """Core time that is already spoken for makes waits longer, and never shorter."""
    estimator = LoadEstimator(cpu_menu(), 1)
    estimator.running(0, anything=True)
    now_ns = 0
    for step in range(400):
        now_ns = step * 12 * MS
        estimator.observe((12 + step % 60) * MS, now_ns)
    estimator.price_per_core_ns(now_ns)
    losses = [estimator.future_loss([0], backlog_ms * MS, now_ns) for backlog_ms in (0, 20, 60, 200)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_a_long_queue_prices_core_time_by_the_burst_that_made_it() -> None:
    """Bursts with pauses between them leave core time cheap, until so many wait that one must be going on."""
    estimator = LoadEstimator(cpu_menu(), 1)
    for second in range(10):
        at_ns = second * NS_PER_S
        estimator.running(at_ns, anything=True)
        for arrival in range(20):
            estimator.observe(500 * MS, at_ns + arrival * 5 * MS)
        estimator.running(at_ns + 100 * MS, anything=False)
    calm, burst = (estimator.price_per_core_ns(10 * NS_PER_S, backlog_ms * MS) for backlog_ms in (20, 200))
    assert calm < burst == pytest.approx(75 / (10 * MS))


def test_what_waits_is_priced_before_the_rate_has_followed() -> None:
    """Traffic that has tripled for a moment looks cheap by its rate; the more of it waits, the dearer core time is."""
    prices = []
    for waiting in (0, 10, 20, 60):
        estimator, now_ns = fed(20)  # a fifth of what the cheapest choice carries, 10 ms each
        prices.append(estimator.price_per_core_ns(now_ns, waiting * 10 * MS))
    assert prices[0] < prices[1] < prices[2] <= prices[3] == pytest.approx(75 / (10 * MS))


def test_many_workers_see_a_burst_before_each_has_three_waiting() -> None:
    """What waits by chance grows with the root of the workers: for sixteen 15 runs are nothing unusual, and 40 are."""
    prices = []
    for waiting in (0, 15, 40):
        estimator, now_ns = fed(1000, budget_ms=100, workers=16)
        prices.append(estimator.price_per_core_ns(now_ns, waiting * 10 * MS))
    assert prices[0] == prices[1] < prices[2]


def test_another_menu_is_priced_at_once() -> None:
    """The working point of a menu that is gone is not kept for the time prices are kept."""
    estimator, now_ns = fed(150, budget_ms=400, workers=1)
    before = estimator.price_per_core_ns(now_ns)
    estimator.adopt(Menu([choice("slow", 75.0, {1: 40})]))
    assert estimator.price_per_core_ns(now_ns) == pytest.approx(75 / (40 * MS)) != before


def test_core_time_is_priced_at_what_runs_usually_take() -> None:
    """Predicted twice as long as they usually are, runs cost as much a predicted nanosecond as at half the rate."""
    usual, exact = LoadEstimator(cpu_menu(), 1), fed(45)[0]
    usual.running(0, anything=True)
    for step in range(1, 901):
        usual.observe(500 * MS, round(step * NS_PER_S / 90))
    usual.menu.rescale([1.0] * 3, usual_share=0.5)
    slower = fed(90)[0]
    prices = [estimator.price_per_core_ns(10 * NS_PER_S, 20 * MS) for estimator in (usual, exact, slower)]
    assert 0.0 < prices[0] == pytest.approx(prices[1], rel=0.05)
    assert prices[0] < prices[2]


def test_what_decodes_take_of_runs_is_not_counted_twice() -> None:
    """Runs that last half as long again beside decodes of 5 ms, half of the smallest run: that is where those went."""

    def price(side_ms: float, scale: float, rate_per_s: float) -> float:
        estimator, now_ns = fed(rate_per_s)
        for _ in range(500):
            estimator.observe_side_cost(round(side_ms * MS))
        estimator.menu.rescale([scale] * 3)
        return estimator.price_per_core_ns(now_ns, 20 * MS)

    assert price(5, 1.5, 25) == price(0, 1.5, 25) > 0.0
    assert price(5, 1.25, 25) > price(0, 1.25, 25), "half of a decode is not in that"
    assert price(5, 1.0, 30) > price(0, 1.0, 30)


def test_wide_runs_leave_room_for_decodes_that_are_seen_as_longer_runs() -> None:
    """Runs on both cores, half as long again by the decodes beside them, are not usual where those need the cores."""

    def width(side_ms: float) -> int | None:
        estimator = LoadEstimator(two_width_menu(), 2)
        estimator.menu.rescale([1.5] * 4)
        for _ in range(500):
            estimator.observe_side_cost(round(side_ms * MS))
        estimator.running(0, anything=True)
        for step in range(1, 501):
            estimator.observe((20 if step % 2 else 200) * MS, round(step * NS_PER_S / 60))
        estimator.price_per_core_ns(500 * NS_PER_S // 60)
        return estimator.width

    assert width(0) == 2
    assert width(2) == 1
