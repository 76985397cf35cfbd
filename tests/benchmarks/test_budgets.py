"""What a server is worth under mixed budgets: only what came within each request's own budget counts."""

from __future__ import annotations

import math

import orjson
import pytest

from benchmarks.budgets import SHAPES, Judged, document, entrants, judge, variant_top1
from benchmarks.load_generator import NO_ANSWER, Outcome
from benchmarks.traffic import NS_PER_MS, ScheduledRequest


def outcome(latency_ms: float, budget_ms: float = 100, status: int = 200, body: bytes = b"") -> Outcome:
    request = ScheduledRequest(5 * NS_PER_MS, round(budget_ms * NS_PER_MS), 0)
    return Outcome(request, 5 * NS_PER_MS, round((5 + latency_ms) * NS_PER_MS), status, body)


def test_an_answer_counts_within_its_own_budget():
    """Late answers, refusals and broken connections count 0; the 99th percentile is of answers alone."""
    outcomes = [
        outcome(99),
        outcome(101),
        outcome(40, budget_ms=30),
        outcome(1, status=504),
        outcome(9, status=NO_ANSWER),
    ]
    judged = judge("a server", "Poisson", outcomes, [80.0] * 5)
    assert judged.in_time == pytest.approx(1 / 5)
    assert judged.in_time_of_answers == pytest.approx(1 / 3)
    assert judged.effective_accuracy == pytest.approx(16)
    assert judged.over_budget_p99 == pytest.approx(4 / 3)


def test_a_server_that_answers_nothing_is_worth_nothing():
    """It has no share of answers in time, and no percentile, rather than a good one."""
    judged = judge("a server", "Poisson", [outcome(1, status=504)], [80.0])
    assert judged.effective_accuracy == judged.in_time == 0
    assert math.isnan(judged.in_time_of_answers)
    assert math.isnan(judged.over_budget_p99)


def test_what_chose_says_what_it_chose():
    """The accuracy counted for the server that chooses is that of the variant in its answer, none without one."""
    body = orjson.dumps({"variant": {"name": "lite1", "top1": 76.7}})
    assert variant_top1(outcome(1, body=body)) == 76.7
    assert variant_top1(outcome(1, status=504, body=b"{}")) == 0


def test_every_peer_is_tried_with_every_variant():
    """The one that chooses comes once; nobody else is told a budget."""
    titles = [entrant.title for entrant in entrants(["mosec", "fastapi"])]
    assert len(titles) == len(set(titles)) == 1 + 2 * 4
    assert [title for title in titles if "by budget" in title] == ["phiserve, by budget"]


def test_the_best_comes_first():
    """Within each shape servers are in order of effective accuracy, with the spread over rounds."""
    found = [
        Judged(server, shape, 0.5, 0.6, accuracy, 1.5)
        for shape in SHAPES
        for server, accuracies in {"worse": (10.0, 14.0), "better": (60.0, 62.0)}.items()
        for accuracy in accuracies
    ]
    text = document(found, 100, "command", ["mosec"])
    assert text.index("| better") < text.index("| worse")
    assert text.count("(60.0–62.0)") == len(SHAPES)
