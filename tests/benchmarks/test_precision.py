"""benchmarks/precision.py: the real networks in turns, and ratios that a slow stretch of the machine cannot move."""

from __future__ import annotations

import pytest

from benchmarks import precision


def test_a_slow_stretch_hits_both_sides_of_a_ratio():
    """Where every run of a stretch takes three times as long, each tenth's ratio is what it was."""
    slow = [1.0] * 50 + [3.0] * 50
    pair = precision.Pair("lite0", 1, 1, tuple(8 * factor for factor in slow), tuple(4 * factor for factor in slow))
    assert pair.ratios == pytest.approx([2.0] * 10)


def test_it_measures_the_default_store_and_quotes_its_accuracy(tmp_path, capsys, monkeypatch):
    """A quick run writes a row for each shape, and the accuracy that the committed ranges state."""
    monkeypatch.setattr(precision, "MEMBERS", ("lite0",))
    monkeypatch.setattr(precision, "SHAPES", ((1, 1), (2, 2)))
    precision.main(["--quick", "--results", str(tmp_path)])
    text = (tmp_path / "precision.md").read_text()
    assert text == capsys.readouterr().out.removesuffix("\n")
    rows = [line for line in text.splitlines() if line.startswith("| lite0, ")]
    assert len(rows) == len(precision.SHAPES)
    ranges = precision.committed_ranges("lite0")
    assert f"| lite0 | {ranges.verdict.top1_fp32:.2f} | {ranges.verdict.top1_int8:.2f} |" in text
