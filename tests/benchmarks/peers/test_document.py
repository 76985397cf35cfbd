"""The comparison's text: medians over rounds, and a verdict that takes peers at their best and hides no defeat."""

from __future__ import annotations

from benchmarks.peers.contestants import CONTESTANTS, named
from benchmarks.peers.document import document, verdict
from benchmarks.peers.rounds import Cell, Scratch


def cell(contestant: str, per_s: float, *, setting: int = 0, p50_ms: float = 10, go: int = 1) -> Cell:
    name = named(contestant).settings[setting].name
    return Cell(go, contestant, name, "lite0-int8", 8, per_s, p50_ms, 20.0, 200.0, f"{contestant} 1.0")


def test_a_peer_that_is_faster_is_named_first():
    """The verdict names the winner of each column, also where that is not phiserve, and how large the gap is."""
    said = verdict([cell("phiserve", 100, p50_ms=5), cell("mosec", 150)])
    assert "answers/s: **mosec, 2 workers, 1 thread each** (best peer 150.0" in said
    assert "-33%" in said
    assert "p50 ms: **phiserve** (best peer 10.0" in said


def test_small_gaps_are_ties():
    """Less than a tenth either way is no victory."""
    assert "answers/s: a tie" in verdict([cell("phiserve", 105), cell("mosec", 100)])
    assert "answers/s: a tie" in verdict([cell("phiserve", 95), cell("mosec", 100)])


def test_a_peer_counts_by_its_best_setting():
    """A setting that is not in the main table still wins its column."""
    said = verdict([cell("phiserve", 120), cell("mosec", 100), cell("mosec", 200, setting=1)])
    assert f"**mosec, {named('mosec').settings[1].name}**" in said


def test_without_peers_nothing_is_compared():
    """Alone, phiserve is first in nothing."""
    assert verdict([cell("phiserve", 120)]).startswith("No comparison")


def test_the_text_has_medians_and_says_who_is_missing():
    """Rounds become a median with lowest and highest; a server without figures is said to have none."""
    text = document([cell("phiserve", per_s, go=go) for go, per_s in enumerate((90, 100, 130))], "source")
    assert "100.0 (90.0–130.0)" in text
    assert text.count("No figures") == len(CONTESTANTS) - 1


def test_rounds_of_several_goes_add_up(tmp_path):
    """What one go wrote the next one finds, and counts on from there."""
    scratch = Scratch(tmp_path / "new" / "cells.jsonl")
    assert scratch.next_go() == 1
    scratch.add([cell("mosec", 100)])
    scratch.add([cell("phiserve", 100, go=2)])
    assert [found.contestant for found in scratch.cells()] == ["mosec", "phiserve"]
    assert scratch.next_go() == 3
    scratch.forget()
    assert scratch.cells() == []
