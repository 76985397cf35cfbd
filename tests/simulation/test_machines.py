"""The machines that are simulated have the shape their sources say."""

from __future__ import annotations

import pytest

from service.core.menu import Choice
from tests.simulation.machines import MACHINES, cpu_b, cpu_lite, gpu_b
from tests.simulation.study import capacity_per_s


def by_name(choices: tuple[Choice, ...]) -> dict[str, dict[int, Choice]]:
    found: dict[str, dict[int, Choice]] = {}
    for one in choices:
        found.setdefault(one.variant.name, {})[one.threads] = one
    return found


@pytest.mark.parametrize("build", [cpu_lite, cpu_b])
def test_two_threads_are_faster_and_dearer(build: object) -> None:
    """On the CPUs each variant has two widths: the wide one answers sooner and takes more core time."""
    for widths in by_name(build().choices).values():
        assert sorted(widths) == [1, 2]
        assert widths[2].latency_ns(1) < widths[1].latency_ns(1) < 2 * widths[2].latency_ns(1)


@pytest.mark.parametrize("build", [cpu_lite, cpu_b])
def test_batches_do_not_pay_on_cpus(build: object) -> None:
    """A batch costs its size times one image there, so only single images are on the menu."""
    assert all(one.batch_sizes == (1,) for one in build().choices)


def test_batches_pay_on_the_gpu_and_most_for_small_networks() -> None:
    """An image of a full batch costs a fraction of a lone one: a tenth for B0, more than half for B7."""
    names = by_name(gpu_b().choices)
    gains = [names[f"b{phi}"][1].latency_ns(1) / names[f"b{phi}"][1].core_ns_per_image for phi in range(8)]
    assert gains == sorted(gains, reverse=True)
    assert 5 < gains[0] < 20
    assert gains[7] > 1.2


@pytest.mark.parametrize("build", [cpu_b, gpu_b])
def test_accuracy_has_its_price(build: object) -> None:
    """From B0 to B7 each network is more accurate than the one before, and slower."""
    choices = [by_name(build().choices)[f"b{phi}"][1] for phi in range(8)]
    assert [one.accuracy for one in choices] == sorted({one.accuracy for one in choices})
    assert [one.latency_ns(1) for one in choices] == sorted({one.latency_ns(1) for one in choices})
    assert (choices[0].accuracy, choices[7].accuracy) == (77.1, 84.3)


@pytest.mark.parametrize("machine", MACHINES)
def test_capacity_is_what_the_cheapest_choice_carries(machine: str) -> None:
    """Load 1 is the rate at which every worker is busy all the time with the cheapest choice at its best batch."""
    build, workers = MACHINES[machine]
    cheapest_s = (
        min(one.latency_ns(size) * one.threads / size for one in build().choices for size in one.batch_sizes) / 1e9
    )
    assert capacity_per_s(machine) * cheapest_s == pytest.approx(workers)
