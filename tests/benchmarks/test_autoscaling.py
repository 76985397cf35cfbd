"""The autoscaling study: runs that are kept are not made again, and a rule is judged by its day's fixed fleets."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor

import pytest

from benchmarks import autoscaling
from benchmarks.autoscaling import FIXED, Study
from benchmarks.autoscaling_days import Day, Rule
from tests.simulation.fleet import FleetReport

DAYS = [Day("cpu-lite", 0.5, seed=seed) for seed in (1, 2)]


def test_a_study_goes_on_where_it_ended(tmp_path) -> None:
    """Each run is a line of the file; a second study with one more rule makes that rule's runs alone."""
    kept = tmp_path / "kept.jsonl"
    two, three = {"fixed 2": Rule(fixed=2)}, {"fixed 2": Rule(fixed=2), "fixed 3": Rule(fixed=3)}
    with ProcessPoolExecutor(1) as pool:
        first = Study(pool, kept, runs=True).days(DAYS, two)
        assert [json.loads(line)["seed"] for line in kept.read_text().splitlines()] == [1, 2]
        second = Study(pool, kept, runs=True).days(DAYS, three)
        assert [json.loads(line)["rule"] for line in kept.read_text().splitlines()[2:]] == ["fixed 3"] * 2
    assert second["fixed 2"] == first["fixed 2"]
    assert {seed: report.replicas_mean for seed, report in second["fixed 3"].items()} == {1: 3.0, 2: 3.0}


def test_what_is_kept_is_reported_without_a_run(tmp_path) -> None:
    """Rules and days that nobody has run are left out."""
    kept = tmp_path / "kept.jsonl"
    with ProcessPoolExecutor(1) as pool:
        Study(pool, kept, runs=True).days(DAYS[:1], {"fixed 2": Rule(fixed=2)})
    closed = ProcessPoolExecutor(1)
    closed.shutdown()
    found = Study(closed, kept, runs=False).days(DAYS, {"fixed 2": Rule(fixed=2), "fixed 3": Rule(fixed=3)})
    assert {rule: set(reports) for rule, reports in found.items()} == {"fixed 2": {1}, "fixed 3": set()}


def report(replicas: float, accuracy: float) -> FleetReport:
    return FleetReport(100, accuracy, 1.0, replicas, 10)


def test_gain_is_what_a_rule_has_beyond_a_fixed_fleet_of_its_size_that_day() -> None:
    """In straight lines between the sizes that were run, and beyond the last; of days with all of them alone."""
    steps = dict(zip((f"fixed {count}" for count in FIXED), (70.0, 74.0, 75.0, 76.0), strict=True))
    found = {
        name: {1: report(count, steps[name]), 2: report(count, steps[name] - 1)}
        for count, name in zip(FIXED, steps, strict=True)
    }
    del found["fixed 5"][2]
    rule = {1: report(4.5, 73.0), 2: report(4.5, 99.0)}
    assert list(autoscaling.gains(rule, found)) == [pytest.approx(1.0)]
    assert list(autoscaling.gains({1: report(9.0, 76.5)}, found)) == [pytest.approx(0.0)]
