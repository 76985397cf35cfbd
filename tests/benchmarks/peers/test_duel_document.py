"""The text of duels: a winner only where the whole interval says so, and no defeat hidden."""

from __future__ import annotations

from benchmarks.peers.duel_document import Bout, document, verdict
from benchmarks.wrk import Load


def bouts(mosec: float, fastapi: float = 0.5, *, concurrency: int = 8, noise: float = 0.0) -> list[Bout]:
    """Three rounds on a machine whose speed halves and doubles; peers as so many times phiserve's rate."""
    found = []
    for number, (speed, swing) in enumerate(((100.0, 1 + noise), (50.0, 1 - noise), (200.0, 1.0))):

        def load(times: float, speed: float = speed) -> Load:
            return Load(1.0, 1e3 / (speed * times), 2e3 / (speed * times), speed * times)

        loads = {"fastapi": load(fastapi * swing), "phiserve": load(1.0), "mosec": load(mosec * swing)}
        found.append(Bout(number, "lite0-int8", concurrency, loads, 0.01 * number))
    return found


def test_phiserve_is_first_if_it_is_ahead_of_every_peer() -> None:
    """More answers and fewer milliseconds, each in its own direction."""
    found = bouts(0.9)
    assert {verdict(found, column) for column in ("answers/s", "p50 ms", "p99 ms")} == {"first"}


def test_a_peer_that_is_ahead_is_named() -> None:
    """One is enough, however far the others are behind; two are both named."""
    assert verdict(bouts(1.1), "answers/s") == "**behind Mosec**"
    assert verdict(bouts(1.1, 1.2), "p99 ms") == "**behind Mosec and FastAPI**"


def test_noise_tells_nobody_apart() -> None:
    """An interval that holds 1 is no victory, whichever way its mean lies; a peer that is ahead still goes first."""
    assert verdict(bouts(0.95, noise=0.1), "answers/s") == "cannot be told apart from Mosec"
    assert verdict(bouts(1.05, noise=0.1), "p50 ms") == "cannot be told apart from Mosec"
    assert verdict(bouts(1.05, 3.0, noise=0.1), "answers/s") == "**behind FastAPI**"


def test_the_text_has_medians_ratios_and_a_verdict_for_each_load() -> None:
    """Peers stand in one order whoever had the first turn, and each load has a line in the summary."""
    text = document([*bouts(0.8), *bouts(1.25, concurrency=1)], ["Mosec, 2 workers: mosec 0.9.8"], "source", 2)
    assert "| lite0-int8, 8 connections | first | first | first |" in text
    assert "| lite0-int8, 1 connection | **behind Mosec** |" in text
    assert "| phiserve / Mosec | 1.250 (1.250–1.250) | 0.800 (0.800–0.800) |" in text
    assert "| Mosec | 80.0 (40.0–160.0) |" in text
    assert "turns of 2 s, 3 rounds" in text
    assert "at most 0.020 of a core" in text
    assert "- Mosec, 2 workers: mosec 0.9.8." in text
    at = [text.index(f"| {row} |", text.index("## lite0-int8, 8")) for row in ("phiserve", "Mosec", "FastAPI")]
    assert at == sorted(at)
