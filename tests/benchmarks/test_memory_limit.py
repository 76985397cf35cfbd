"""The page of a limit on memory: requests that met a load are told apart from those that did not."""

from __future__ import annotations

import json

from benchmarks.load_generator import Outcome
from benchmarks.memory_limit import MIB, Found, Load, document
from benchmarks.traffic import ScheduledRequest

MS = 1_000_000


def outcome(at_ms: int, took_ms: int, status: int = 200, top1: float = 77.0) -> Outcome:
    body = json.dumps({"variant": {"top1": top1}}).encode()
    request = ScheduledRequest(at_ms * MS, 200 * MS, 0)
    return Outcome(request, at_ms * MS, (at_ms + took_ms) * MS, status, body)


def test_who_met_a_load_is_told_apart() -> None:
    """Whoever was under way at any moment of a load met it; refused and late ones count with an accuracy of 0."""
    loads = (Load("lite2", 200, 1000 * MS, 1500 * MS, 300 * MIB),)
    others = (outcome(100, 50), outcome(990, 40), outcome(1400, 300), outcome(1450, 5, status=504), outcome(1600, 20))
    text = document([Found(320, ("lite0",), 200 * MIB, 310 * MIB, loads, others)], [(1, "too small")], 5.0, "command")
    assert "| 320 | lite0 | 200 | 310 | 1 | 0.50" in text
    assert "With `--memory-limit-mib 1` the start is refused: too small" in text
    assert "| 320 | met a load | 3 | 33.3 % | 170 | 300 | 25.7 |" in text
    assert "| 320 | met none | 2 | 100.0 % | 35 | 50 | 77.0 |" in text
