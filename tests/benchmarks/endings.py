"""Outcomes as the load generator would have kept them, for tests of what is made of them."""

from __future__ import annotations

import json

from benchmarks.load_generator import Outcome
from benchmarks.scores import Ending, ending
from benchmarks.traffic import NS_PER_MS, ScheduledRequest


def outcome(
    status: int,
    content: object = None,
    *,
    at_ms: float = 0,
    lag_ms: float = 0,
    took_ms: float = 10,
    budget_ms: float = 50,
) -> Outcome:
    request = ScheduledRequest(round(at_ms * NS_PER_MS), round(budget_ms * NS_PER_MS), 0)
    sent_ns = request.at_ns + round(lag_ms * NS_PER_MS)
    return Outcome(request, sent_ns, sent_ns + round(took_ms * NS_PER_MS), status, json.dumps(content).encode())


def answered(
    top1: float = 75.1, *, variant: str = "lite0", met: bool = True, total_ms: float = 8, **times: float
) -> Ending:
    stages = {"decode": 1.0, "queue": 2.0, "preprocess": 0.5, "inference": 3.5, "total": total_ms}
    content = {"variant": {"name": variant, "top1": top1}, "budget_met": met, "timings_ms": stages}
    return ending(outcome(200, content, **times))


def refused(**times: float) -> Ending:
    return ending(outcome(504, {"detail": "the queue ahead takes about 30.0 ms; more would do"}, **times))


def expired(**times: float) -> Ending:
    return ending(outcome(504, {"detail": "the budget ran out in the queue"}, **times))


def overloaded(**times: float) -> Ending:
    return ending(outcome(429, {}, **times))
