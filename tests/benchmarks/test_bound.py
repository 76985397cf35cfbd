"""The bare loop classifies as the server does; the report takes ratios within rounds and judges them by intervals."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bare_loop import classify, loop
from benchmarks.bound import Round, document
from model_store.builder import BuildRequest, build_store
from model_store.catalogue import Catalogue
from model_store.sources import from_wheel
from service.runtime.providers import SessionOptions
from service.runtime.session import Session

ESPRESSO = Path(__file__).parent.parent / "photographs" / "espresso.jpg"
ESPRESSO_CLASS = 967


def test_the_bare_loop_does_the_whole_work(tmp_path) -> None:
    """It finds the class of a real photograph, and counts at least one image however short its time."""
    build_store(tmp_path, [BuildRequest("lite0", from_wheel("lite0"))])
    entry = Catalogue.open(tmp_path).entries["lite0"]
    session = Session(entry.read_model(), entry.variant, SessionOptions(1, 1))
    photograph = ESPRESSO.read_bytes()
    top = classify(session, photograph)
    assert len(top) == 5
    assert top[0][0] == ESPRESSO_CLASS
    looped = loop(session, [photograph], 0.0)
    assert looped.images == 1
    assert looped.per_s > 0


def rows_of(text, wire):
    return [
        [cell.strip() for cell in row.strip("|").split("|")[-2:]]
        for row in text.splitlines()
        if f"lite0-int8, {wire}" in row
    ]


def test_ratios_are_taken_within_rounds() -> None:
    """The mean of ratios, not the ratio of medians: noise that slows a whole round cancels, and goals are judged."""
    full, slow = Round(100, (93, 80), 5, (6, 5.5), 0.01), Round(50, (46.5, 40), 10, (12, 11), 0.02)
    text = document({"lite0-int8": [full, slow, full]}, "command", 2)
    assert rows_of(text, "HTTP") == [["0.930 (0.930–0.930)", "reached"], ["1.200 (1.200–1.200)", "**not reached**"]]
    assert rows_of(text, "gRPC") == [["0.800 (0.800–0.800)", "**not reached**"], ["1.100 (1.100–1.100)", "reached"]]
    assert "turns of 2 s, 3 rounds" in text
    assert "at most 0.020 of a core" in text


def test_a_goal_among_what_the_ratio_may_be_is_neither_reached_nor_missed() -> None:
    """Rounds that differ by more than the goal is away say so, whatever their mean."""
    rounds = [Round(100, (per_s, per_s), 10, (ms, ms), 0.0) for per_s, ms in ((99, 10), (90, 12), (95, 12.5))]
    text = document({"lite0-int8": rounds}, "command", 2)
    for wire in ("HTTP", "gRPC"):
        assert [verdict for _, verdict in rows_of(text, wire)] == ["within noise", "within noise"]
