"""benchmarks/precision.py: real networks in turns, ratios that a slow stretch cannot move, and what is worth having."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import precision
from benchmarks.precision_document import Score, Shape, Way, front, ratios, score
from model_store.activation_ranges import committed_ranges
from service.runtime.providers import Provider

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
CLASSES = {"espresso": 967, "tabby_cat": 281, "tripod": 872}


def test_a_slow_stretch_hits_both_sides_of_a_ratio():
    """Where every run of a stretch takes three times as long, each tenth's ratio is what it was."""
    slow = [1.0] * 50 + [3.0] * 50
    assert ratios([8 * factor for factor in slow], [4 * factor for factor in slow]) == pytest.approx([2.0] * 10)


def test_the_front_has_no_one_that_another_beats():
    """As right and slower is not worth having, nor as quick and less right; ties are both, what was not run is none."""
    right = {"small": 70.0, "slow": 70.0, "large": 80.0, "twin": 80.0, "worse": 75.0, "rounded": 90.0}
    took = {"small": [5.0], "slow": [6.0], "large": [9.0], "twin": [9.0], "worse": [9.0]}
    ways = {name: Way(name, Provider.CPU) for name in right}
    found = {ways[name]: Score(top1, 100, 0) for name, top1 in right.items()}
    worth = front(found, {ways[name]: times for name, times in took.items()})
    assert {way.variant for way in worth} == {"small", "large", "twin"}


def test_a_score_counts_right_classes_and_those_that_are_fp32s():
    """Of four pictures three are right, of which fp32 saw one otherwise; equal probabilities diverge by nothing."""
    exact = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.8, 0.2]], np.float32)
    found = exact.copy()
    assert score(found, exact, [0, 0, 1, 1]) == Score(75, 100, pytest.approx(0))
    found[3] = [0.4, 0.6]
    moved = score(found, exact, [0, 0, 1, 1])
    assert (moved.top1, moved.same) == (100, 75)
    assert moved.divergence == pytest.approx((0.8 * np.log(2) + 0.2 * np.log(1 / 3)) / 4)


def test_it_judges_and_times_the_real_networks_and_says_what_it_could_not_run(tmp_path, capsys, monkeypatch):
    """A row for each variant on the provider, bf16 by rounding and without a time, and what committed ranges state."""
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    for name, index in CLASSES.items():
        shutil.copy(PHOTOGRAPHS / f"{name}.jpg", labelled / f"{index}_{name}.jpg")
    monkeypatch.setattr(precision, "SHAPES", (Shape(1, 1), Shape(2, 2)))
    arguments = ["--quick", "--members", "lite0", "--providers", "cpu", "--results", str(tmp_path)]
    precision.main([*arguments, "--photographs", str(labelled)])
    text = (tmp_path / "precision.md").read_text()
    assert text == capsys.readouterr().out.removesuffix("\n")
    assert str(labelled) not in text, "where photographs lie is nobody's business"
    rows = {line.split(" | ")[0]: line.split(" | ") for line in text.splitlines() if line.startswith("| lite0")}
    exact, rounded = rows["| lite0, cpu"], rows["| lite0-bf16, rounded, not run"]
    assert exact[1:4] == ["66.7", "100.0", "0.0000"], "the tabby is a tiger cat to it"
    assert float(exact[4]) > 0
    assert rounded[1] == "66.7"
    assert 0 < float(rounded[3]) < 0.05
    assert rounded[4:6] == ["–", "–"]
    assert "bf16 was not run" in text
    assert float(rows["| lite0-int8, cpu"][5]) > 0
    verdict = committed_ranges("lite0").verdict
    assert f"| lite0 | {verdict.top1_fp32:.2f} | {verdict.top1_int8:.2f} |" in text
    plotted = (tmp_path / "precision.svg").read_text()
    assert "lite0-int8" in plotted
    assert "lite0-bf16" not in plotted
