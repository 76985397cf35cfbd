"""What decoding is taken to cost, by who is ahead and by what was seen. The whole door is tested with the engine."""

from __future__ import annotations

import pytest

from model_store.latency_profile import StageCost
from service.core.door import DecodeCost
from service.core.request import PIXELS_FORMAT, ImageHeader
from tests.fakes.clock import FakeClock
from tests.fakes.menus import MS

PICTURE = ImageHeader("JPEG", 1000, 1000)


def decode_cost(threads: int = 1) -> DecodeCost:
    """Of a profile by which `PICTURE` takes 4 ms."""
    return DecodeCost(StageCost(fixed_ns=1 * MS, per_megapixel_ns=3 * MS), threads, FakeClock())


@pytest.mark.parametrize(("threads", "expected_ms"), [(1, 12), (4, 6)])
def test_who_is_ahead_is_waited_for(threads: int, expected_ms: int) -> None:
    """Two decodes ahead of it on one thread: three times its own. Four threads share them."""
    cost = decode_cost(threads)
    assert cost.cost_ns(PICTURE, 0.0) == 4 * MS
    assert cost.cost_ns(PICTURE, 2.0) == expected_ms * MS


def test_a_crowd_teaches_nothing_of_those_that_come_alone() -> None:
    """Pictures that took long behind others leave the prediction for one that finds nobody as it was."""
    cost = decode_cost()
    for _ in range(20):
        cost.took(PICTURE, 3.0, 16 * MS)
    assert cost.cost_ns(PICTURE, 0.0) == 4 * MS
    assert cost.cost_ns(PICTURE, 3.0) == 16 * MS


def test_a_slower_machine_is_noticed() -> None:
    """Whoever is ahead: what took twice as long as predicted is predicted to do so again."""
    cost = decode_cost()
    for ahead in (0.0, 1.0, 2.0) * 3:
        cost.took(PICTURE, ahead, round(8 * MS * (1 + ahead)))
    assert cost.cost_ns(PICTURE, 0.0) == 8 * MS
    assert cost.cost_ns(PICTURE, 1.0) == 16 * MS


def test_a_few_slow_ones_change_nothing() -> None:
    """What is usual counts: a run's prediction, which a budget has to cover besides, is cautious enough."""
    cost = decode_cost()
    for took_ms in (4, 40, 4, 4, 20, 4, 4, 30):
        cost.took(PICTURE, 0.0, took_ms * MS)
    assert cost.cost_ns(PICTURE, 0.0) == 4 * MS


def test_pixels_are_a_cost_of_their_own() -> None:
    """Slow decodes say nothing about pixels that need none."""
    cost = decode_cost()
    pixels = ImageHeader(PIXELS_FORMAT, 1000, 1000)
    before_ns = cost.cost_ns(pixels, 0.0)
    for _ in range(20):
        cost.took(PICTURE, 0.0, 40 * MS)
    assert cost.cost_ns(pixels, 0.0) == before_ns


def test_a_budget_is_named_by_what_nine_of_ten_took_at_most() -> None:
    """Two of sixteen took twice as long: the usual decides who enters, but a named budget leaves time for them."""
    cost = decode_cost()
    assert cost.surely_ns(PICTURE, 0.0) == cost.cost_ns(PICTURE, 0.0) == 4 * MS
    for took_ms in [4] * 14 + [8] * 2:
        cost.took(PICTURE, 0.0, took_ms * MS)
    assert cost.cost_ns(PICTURE, 0.0) == 4 * MS
    assert cost.surely_ns(PICTURE, 0.0) == 8 * MS
