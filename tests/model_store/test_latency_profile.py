"""Latency profiles: interpolation, their inverse, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.latency_profile import (
    SCHEMA_VERSION,
    LatencyPoint,
    LatencyProfile,
    MachineProfile,
    ProfileError,
    StageCost,
)


@st.composite
def profiles(draw: st.DrawFn) -> LatencyProfile:
    sizes = [1, *sorted(draw(st.sets(st.integers(2, 32), max_size=5)))]
    latencies = sorted(draw(st.lists(st.integers(1, 10**9), min_size=len(sizes), max_size=len(sizes))))
    return LatencyProfile("v", 1, tuple(map(LatencyPoint, sizes, latencies)))


@given(profiles())
def test_measured_points_are_kept_and_the_rest_lies_between(profile: LatencyProfile) -> None:
    """At measured sizes the prediction is the measurement; between them it never falls."""
    for point in profile.points:
        assert profile.latency_ns(point.batch_size) == point.latency_ns
    curve = [profile.latency_ns(size) for size in range(1, profile.batch_size_limit + 1)]
    assert curve == sorted(curve)


@given(profiles())
def test_a_padded_batch_takes_what_the_next_measured_size_takes(profile: LatencyProfile) -> None:
    """Where batches are filled up to a measured size, one between two takes as long as the larger one."""
    padded = LatencyProfile(profile.variant, profile.threads, profile.points, padded=True)
    for size in range(1, padded.batch_size_limit + 1):
        following = next(point for point in profile.points if point.batch_size >= size)
        assert padded.latency_ns(size) == following.latency_ns


@given(profiles(), st.integers(0, 10**9 + 1))
def test_batch_size_max_is_the_inverse(profile: LatencyProfile, budget_ns: int) -> None:
    """The largest batch within a budget fits it, and the next larger one does not."""
    size = profile.batch_size_max(budget_ns)
    assert size == 0 or profile.latency_ns(size) <= budget_ns
    assert size == profile.batch_size_limit or profile.latency_ns(size + 1) > budget_ns


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "must rise from 1"),
        ([(2, 10)], "must rise from 1"),
        ([(1, 10), (4, 20), (2, 30)], "must rise from 1"),
        ([(1, 10), (1, 20)], "must rise from 1"),
        ([(1, 0)], "must be positive"),
        ([(1, 10), (2, 9)], "not fall"),
    ],
)
def test_what_no_measurement_can_give_is_refused(points: list[tuple[int, int]], message: str) -> None:
    """Points out of order, without size 1, or with falling latencies are refused with the variant's name."""
    with pytest.raises(ProfileError, match=message):
        LatencyProfile("v", 1, tuple(LatencyPoint(*point) for point in points))


@pytest.mark.parametrize("size", [0, 5])
def test_a_batch_size_that_was_not_measured_is_refused(size: int) -> None:
    """Nothing is predicted beyond the measured sizes."""
    with pytest.raises(ProfileError, match=r"outside 1\.\.4"):
        LatencyProfile("v", 1, (LatencyPoint(1, 10), LatencyPoint(4, 30))).latency_ns(size)


def test_stage_cost_grows_with_pixels() -> None:
    """A stage costs its fixed part plus its part per megapixel."""
    assert StageCost(fixed_ns=100, per_megapixel_ns=2000).cost_ns(3_500_000) == 7100


def test_a_machine_profile_survives_json() -> None:
    """A profile written is read back equal; another schema version is refused."""
    profile = MachineProfile(
        schema_version=SCHEMA_VERSION,
        machine="m",
        runtime="r",
        workers=2,
        model_sha256={"v": "00"},
        latencies=(LatencyProfile("v", 1, (LatencyPoint(1, 10),)),),
        decode=StageCost(1, 2),
        overhead_ns=3,
    )
    assert MachineProfile.from_json(profile.to_json()) == profile
    with pytest.raises(ProfileError, match="schema_version is 99"):
        MachineProfile.from_json(profile.to_json().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(ProfileError, match="not JSON"):
        MachineProfile.from_json("{")
