"""Seeded simulations of the real scheduler: the invariants hold, and the choice makes sense over a whole run."""

from __future__ import annotations

import random

import pytest

from service.core.request import OnMiss, RoutingPolicy
from tests.fakes.menus import MS, cpu_menu, gpu_menu, scheduler
from tests.simulation.arrivals import arrivals
from tests.simulation.simulator import Arrival, Report, Simulator, exact, noisy

MENUS = {"cpu": cpu_menu, "gpu": gpu_menu}


def simulate(
    kind: str, rate_per_s: float, *, workers: int = 2, seed: int = 1, duration_s: float = 10, **knobs: object
) -> Report:
    menu = MENUS[kind]()
    machine = scheduler(menu, workers=workers, queue_size_max=500)
    found = arrivals(seed, rate_per_s=rate_per_s, duration_s=duration_s, cv2=knobs.pop("cv2", 1.0))
    return Simulator(machine, menu, workers=workers, seed=seed, **knobs).run(found)


@pytest.mark.parametrize("kind", MENUS)
@pytest.mark.parametrize("rate_per_s", [5, 60, 200, 800])
def test_invariants_hold_at_every_load(kind: str, rate_per_s: float) -> None:
    """With noisy, failing runs and impatient callers each request still settles once, and no rule is broken."""
    rng = random.Random(7)
    menu = MENUS[kind]()
    found = []
    for base in arrivals(7, rate_per_s=rate_per_s, duration_s=5, cv2=4):
        policy = RoutingPolicy(
            variant=rng.choice([None, None, None, "small", "large"]),
            on_miss=rng.choice([OnMiss.REJECT, OnMiss.REJECT, OnMiss.LATE]),
            priority=rng.randrange(10),
        )
        patience_ns = int(rng.expovariate(1 / (50 * MS))) if rng.random() < 0.2 else None
        found.append(Arrival(base.at_ns, base.budget_ns, policy, patience_ns))
    machine = scheduler(menu, workers=2, queue_size_max=100)
    simulator = Simulator(machine, menu, workers=2, seed=7, noise=noisy(0.3), failure_rate=0.02)
    report = simulator.run(found)
    assert sum(report.outcomes.values()) == report.admitted


def test_the_same_seed_gives_the_same_run() -> None:
    """The scheduler is deterministic: two runs of one seed make the same decisions at the same times."""
    first, second = (simulate("gpu", 150, seed=3, duration_s=2, noise=noisy(0.2)) for _ in range(2))
    assert first.log == second.log
    assert first.log != simulate("gpu", 150, seed=4, duration_s=2, noise=noisy(0.2)).log


@pytest.mark.parametrize("kind", MENUS)
@pytest.mark.parametrize("decode_ms", [5, 20])
def test_who_is_admitted_finds_a_worker_once_decoded(kind: str, decode_ms: int) -> None:
    """In bursts too: a patient request that is in the queue already does not take the worker it was promised."""
    for rate_per_s in (30, 60, 200):
        report = simulate(kind, rate_per_s, cv2=4, decode_ns=decode_ms * MS)
        assert report.admitted_attainment > 0.99, f"at {rate_per_s} a second"


@pytest.mark.parametrize("kind", MENUS)
def test_idle_is_accurate_and_busy_is_in_time(kind: str) -> None:
    """Accuracy falls with load, in steps, while almost every admitted deadline is kept up to capacity."""
    reports = [simulate(kind, rate, noise=exact) for rate in (5, 60, 180)]
    accuracies = [report.serving_accuracy for report in reports]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 78
    assert all(report.admitted_attainment > 0.995 for report in reports[:2])


def test_overload_carries_what_the_cheapest_variant_can() -> None:
    """At twice the capacity of two cores (200/s of the small variant) nearly all capacity still makes deadlines."""
    report = simulate("cpu", 400)
    assert report.in_time / 10 > 0.9 * 200


def test_runs_take_what_the_profile_says_whatever_was_predicted() -> None:
    """The truth does not follow the predictions: a machine ten percent faster than its profile stays that fast."""
    menu = cpu_menu()
    machine = scheduler(menu, workers=1, queue_size_max=500)
    asked: list[int] = []

    def faster(profiled_ns: int, rng: random.Random) -> int:
        asked.append(profiled_ns)
        return int(0.9 * profiled_ns)

    Simulator(machine, menu, workers=1, noise=faster).run([Arrival(i * 100 * MS, 80 * MS) for i in range(50)])
    assert set(asked) == {50 * MS}
    assert menu.choices[0].scale == pytest.approx(0.9, abs=0.01)
