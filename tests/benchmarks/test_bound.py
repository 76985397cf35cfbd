"""The bare loop classifies as the server does, and the report takes ratios within rounds."""

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


def test_ratios_are_taken_within_rounds() -> None:
    """The median of ratios, not the ratio of medians: noise that slows a whole round cancels."""
    full, slow = Round(100, (90, 80), 5, (6, 7)), Round(50, (45, 40), 10, (12, 14))
    text = document({"lite0-int8": [full, slow, full]}, "command")
    for wire, of_throughput, of_latency in (("HTTP", "0.90", "1.20"), ("gRPC", "0.80", "1.40")):
        rows = [row for row in text.splitlines() if f"lite0-int8, {wire}" in row]
        assert [row.split("|")[-2].strip() for row in rows] == [
            f"{ratio} ({ratio}–{ratio})" for ratio in (of_throughput, of_latency)
        ]
