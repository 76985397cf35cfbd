"""Predictions that follow what is observed."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.drift import RATIO_MAX, RATIO_MIN, RECENT_NS, RELAX_NS, Drift, LatencyModel
from tests.fakes.menus import MS, cpu_menu

NS_PER_S = 1_000_000_000


def test_without_observations_the_prediction_holds() -> None:
    """Nothing observed, nothing changed; two observations are not yet enough."""
    drift = Drift()
    assert drift.ratio(0) == 1.0
    drift.observe(10, 50, 0)
    drift.observe(10, 50, 1)
    assert drift.ratio(1) == 1.0
    assert drift.median(1) is None


@given(st.floats(0.1, 10), st.integers(3, 40))
def test_a_steady_ratio_is_found(ratio: float, count: int) -> None:
    """After three observations of the same ratio it is the estimate."""
    drift = Drift()
    for step in range(count):
        drift.observe(1_000_000, round(1_000_000 * ratio), step * MS)
    assert drift.ratio(count * MS) == pytest.approx(ratio, rel=1e-3)


def test_the_estimate_is_a_high_quantile() -> None:
    """With one slow run in eight the estimate is the slow one, as deadlines are kept by what a run may take."""
    drift = Drift()
    for step in range(16):
        drift.observe(100, 300 if step % 8 == 0 else 100, step)
    assert drift.ratio(16) == 3.0


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, RECENT_NS)), min_size=3, max_size=60))
def test_only_the_last_runs_of_the_last_seconds_count(runs: list[tuple[float, int]]) -> None:
    """Quantile and median are those of the last sixteen observations that are no older than `RECENT_NS`."""
    drift, seen, now_ns = Drift(window=16), list[tuple[int, float]](), 0
    for ratio, after_ns in runs:
        now_ns += after_ns
        drift.observe(10**6, round(10**6 * ratio), now_ns)
        seen.append((now_ns, round(10**6 * ratio) / 10**6))
    recent = sorted(ratio for at_ns, ratio in seen[-16:] if now_ns - at_ns <= RECENT_NS)
    enough = len(recent) >= 3
    assert drift.median(now_ns) == (recent[len(recent) // 2] if enough else None)
    if enough:
        assert drift.ratio(now_ns) == recent[min(len(recent) - 1, int(0.9 * len(recent)))]


def test_a_change_shows_within_two_windows() -> None:
    """When the machine becomes slower, and when it recovers, the estimate follows within as many runs as it keeps."""
    drift = Drift()
    for step, ratio in enumerate([1] * 20 + [2] * 3):
        drift.observe(100, 100 * ratio, step)
    assert drift.ratio(23) == 2.0
    for step in range(23, 23 + 16):
        drift.observe(100, 100, step)
    assert drift.ratio(40) == 1.0


def test_distrust_fades_and_good_news_stays() -> None:
    """A ratio above one halves its excess for each half-life without evidence; one below one is kept."""
    slow, fast = Drift(), Drift()
    for step in range(3):
        slow.observe(100, 500, step)
        fast.observe(100, 50, step)
    later_ns = 2 + RECENT_NS + RELAX_NS
    assert slow.ratio(later_ns) == pytest.approx(3.0)
    assert slow.ratio(later_ns + 60 * NS_PER_S) == pytest.approx(1.0, abs=0.01)
    assert fast.ratio(later_ns + 60 * NS_PER_S) == 0.5


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), max_size=30))
def test_the_ratio_is_always_bounded(observed: list[tuple[int, int]]) -> None:
    """Whatever is observed, zero and absurd times included, the ratio stays within its bounds."""
    drift = Drift()
    for step, (predicted_ns, took_ns) in enumerate(observed):
        drift.observe(predicted_ns, took_ns, step)
    assert RATIO_MIN <= drift.ratio(len(observed)) <= RATIO_MAX


def test_unseen_choices_take_the_machines_drift() -> None:
    """A process that takes a core slows all variants: those not seen lately are scaled by the others' ratio."""
    menu = cpu_menu()
    model = LatencyModel(menu)
    for step in range(4):
        model.run_took(("small", 1), 1, 20 * MS, step * MS)
    assert [choice.latency_ns(1) for choice in menu.choices] == [100 * MS, 40 * MS, 20 * MS]


def test_a_choice_that_always_overshoots_is_trusted_less() -> None:
    """A variant that takes half as long again as the others do of their profiles ends up scaled so, and it alone."""
    menu = cpu_menu()
    model = LatencyModel(menu)
    for step in range(120):
        model.run_took(("small", 1), 1, 10 * MS, step * MS)
        model.run_took(("medium", 1), 1, 30 * MS, step * MS)
    by_name = {choice.variant.name: choice.latency_ns(1) / MS for choice in menu.choices}
    assert by_name["small"] == pytest.approx(10, rel=0.15)
    assert by_name["medium"] == pytest.approx(30, rel=0.15)


@given(st.lists(st.tuples(st.sampled_from(["small", "medium", "large"]), st.floats(0.5, 1.5)), max_size=60))
def test_ordinary_noise_never_turns_the_menu_upside_down(runs: list[tuple[str, float]]) -> None:
    """However runs of the three variants scatter by half, the smaller one is predicted to be the faster."""
    menu = cpu_menu()
    model = LatencyModel(menu)
    profile_ms = {"small": 10, "medium": 20, "large": 50}
    for step, (name, factor) in enumerate(runs):
        model.run_took((name, 1), 1, round(profile_ms[name] * factor * MS), step * MS)
    large, medium, small = (choice.latency_ns(1) for choice in menu.choices)
    assert small < large
    assert medium < large


def test_the_choice_that_is_run_most_does_not_take_the_machines_drift_for_its_own() -> None:
    """On a machine that scatters about half above its profile, what is seldom run is predicted by that ratio too.

    Log-normal times, as on shared cores: of a thousand runs of the smallest variant the 90th percentile is 1.97 times
    its profile, and so the others are predicted, give or take what a window of 32 scatters.
    """
    menu, rng = cpu_menu(), random.Random(5)
    model = LatencyModel(menu)
    predicted = []
    for step in range(1000):
        model.run_took(("small", 1), 1, round(10 * MS * rng.lognormvariate(math.log(1.5), 0.2125)), step * 10 * MS)
        by_name = {choice.variant.name: choice.latency_ns(1) for choice in menu.choices}
        predicted.append((by_name["small"] / (10 * MS), by_name["large"] / (50 * MS)))
    small, large = (statistics.fmean(ratios) for ratios in zip(*predicted[500:], strict=True))
    assert small == pytest.approx(1.97, rel=0.1)
    assert large == pytest.approx(1.97, rel=0.1)


def test_one_outlier_changes_no_order() -> None:
    """After one run that took ten times as long every variant is still cheaper than the next larger one."""
    menu = cpu_menu()
    model = LatencyModel(menu)
    for step in range(16):
        model.run_took(("small", 1), 1, 10 * MS, step * MS)
    model.run_took(("small", 1), 1, 100 * MS, 17 * MS)
    large, medium, small = (choice.latency_ns(1) for choice in menu.choices)
    assert small < medium < large


def test_what_runs_usually_take_is_known_beside_what_they_are_predicted() -> None:
    """Runs of which one in five takes 15 ms and the others 10: predicted are 15, of which two thirds are usual."""
    menu = cpu_menu()
    model = LatencyModel(menu)
    assert menu.usual_share == 1.0
    for step in range(40):
        model.run_took(("small", 1), 1, (15 if step % 5 == 0 else 10) * MS, step * MS)
    assert menu.choices[-1].alone_ns == pytest.approx(15 * MS, rel=0.05)
    assert menu.usual_share == pytest.approx(10 / 15, rel=0.05)
    model.refresh(40 * MS + 2 * RECENT_NS)
    assert menu.usual_share == 1.0, "what is old says nothing"


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 2 * NS_PER_S)), max_size=60))
def test_no_run_usually_takes_more_than_it_is_predicted_to(runs: list[tuple[float, int]]) -> None:
    """However runs scatter and whenever they end, the usual one is above nothing and within its prediction."""
    menu, now_ns = cpu_menu(), 0
    model = LatencyModel(menu)
    for factor, gap_ns in runs:
        now_ns += gap_ns
        model.run_took(("small", 1), 1, round(10 * MS * factor), now_ns)
        assert 0.0 < menu.usual_share <= 1.0
