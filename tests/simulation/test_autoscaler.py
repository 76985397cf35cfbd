"""The autoscaler follows the published rules, in cases small enough to check by hand."""

from __future__ import annotations

from tests.simulation.autoscaler import NS_PER_S, Autoscaler, Behaviour

LOAD = "load"


def wishes(*looks: tuple[float, int, list[float]], behaviour: Behaviour | None = None) -> list[int]:
    """Wishes at (second, replicas, load of each ready one), with a target of 1."""
    scaler = Autoscaler({LOAD: 1.0}, behaviour or Behaviour())
    return [scaler.wish(replicas, {LOAD: values}, int(at_s * NS_PER_S)) for at_s, replicas, values in looks]


def test_it_asks_for_what_brings_the_average_to_the_target() -> None:
    """Four replicas at 1.5 times the target become six; within the tolerance, or with no metric, nothing changes."""
    assert wishes((0, 4, [1.5] * 4)) == [6]
    assert wishes((0, 4, [1.09] * 4)) == [4]
    assert wishes((0, 4, [])) == [4]


def test_replicas_that_are_not_ready_count_as_idle() -> None:
    """Two more are on their way already: the peak that asked for them asks for no others; a higher one does."""
    assert wishes((0, 6, [1.5] * 4)) == [6]
    assert wishes((0, 6, [3.0] * 4)) == [10]


def test_growth_is_bounded_by_its_period() -> None:
    """At most twice as many within a minute, and not past the most."""
    assert wishes((0, 2, [9] * 2), (15, 4, [9] * 4), (61, 4, [9] * 4), (122, 8, [9] * 8)) == [4, 4, 8, 10]


def test_it_shrinks_slowly_and_late() -> None:
    """One at a time each two minutes, and only once five minutes have asked for no more."""
    quiet = [0.1] * 6
    found = wishes((0, 6, [1.0] * 6), (150, 6, quiet), (301, 6, quiet), (350, 5, quiet[:5]), (422, 5, quiet[:5]))
    assert found == [6, 6, 5, 5, 4]


def test_the_greatest_wish_of_all_metrics_wins() -> None:
    """One metric that is at rest does not hold back another that is not."""
    scaler = Autoscaler({"a": 1.0, "b": 8.0}, Behaviour())
    assert scaler.wish(2, {"a": [0.1, 0.1], "b": [12, 12]}, 0) == 3


def test_a_hurried_day_has_the_same_wishes() -> None:
    """With every time divided by sixty a minute is a second."""
    slow = wishes((0, 2, [9] * 2), (15, 4, [9] * 4), (61, 4, [9] * 4))
    fast = wishes((0, 2, [9] * 2), (0.25, 4, [9] * 4), (61 / 60, 4, [9] * 4), behaviour=Behaviour(hurry=60))
    assert slow == fast
