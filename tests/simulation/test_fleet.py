"""A fleet on a fake clock: nobody is lost while replicas come and go, and the signals mean what they say."""

from __future__ import annotations

import pytest

from tests.simulation.arrivals import arrivals, diurnal, shaped_arrivals
from tests.simulation.autoscaler import Autoscaler, Behaviour
from tests.simulation.fleet import BUSY, GIVEN_UP, QUEUED, Fleet, FleetReport, Timing
from tests.simulation.machines import MACHINES
from tests.simulation.study import capacity_per_s

BUILD, WORKERS = MACHINES["cpu-b"]
HURRY = 60.0


def fleet(targets: dict[str, float], replicas: tuple[int, int], seed: int = 1) -> Fleet:
    behaviour = Behaviour(replicas_min=replicas[0], replicas_max=replicas[1], hurry=HURRY)
    return Fleet(BUILD, WORKERS, scaler=Autoscaler(targets, behaviour), timing=Timing().hurried(HURRY), seed=seed)


def day(targets: dict[str, float], replicas: tuple[int, int]) -> FleetReport:
    """Eight seconds of a wave around two replicas' worth of traffic."""
    rate_per_s = 2 * capacity_per_s("cpu-b")
    wave = shaped_arrivals(3, diurnal, rate_per_s=rate_per_s, duration_s=8)
    return fleet(targets, replicas).run(wave, replicas[0])


def test_two_replicas_carry_twice_the_traffic() -> None:
    """At the same load per replica, two behind the balancer do about as well as one by itself."""
    rate_per_s = 0.7 * capacity_per_s("cpu-b")
    one = fleet({BUSY: 1.0}, (1, 1)).run(arrivals(5, rate_per_s=rate_per_s, duration_s=6), 1)
    two = fleet({BUSY: 1.0}, (2, 2)).run(arrivals(5, rate_per_s=2 * rate_per_s, duration_s=6), 2)
    assert two.effective_accuracy == pytest.approx(one.effective_accuracy, abs=4)
    assert (one.replicas_mean, two.replicas_mean) == (1.0, 2.0)


def test_a_fleet_grows_with_its_traffic_and_shrinks_again() -> None:
    """By accuracy given up, it is larger at noon than on average, earns more than its least, costs less than its most.

    Every request is accounted for, which the report itself asserts.
    """
    least, most = day({BUSY: 9.0}, (1, 1)), day({BUSY: 9.0}, (4, 4))
    scaled = day({GIVEN_UP: 0.049, QUEUED: 2}, (1, 4))
    assert scaled.replicas_most > scaled.replicas_mean
    assert least.effective_accuracy < scaled.effective_accuracy
    assert scaled.replicas_mean < most.replicas_mean


def test_the_same_seed_gives_the_same_day() -> None:
    """Nothing in it depends on the machine it runs on."""
    assert day({QUEUED: 4}, (1, 3)) == day({QUEUED: 4}, (1, 3))
