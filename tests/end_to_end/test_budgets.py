"""Budgets against a real, idle server: more time never gets less accuracy, and what is impossible says what is not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

TRIES = 40
"""Another process may take the cores for a while; more than this is no accident."""


def ask(client: httpx.Client, image: bytes, **query: Any) -> httpx.Response:
    return client.post("/classify", params=query, content=image)


def smallest_feasible_ms(client: httpx.Client, image: bytes) -> float:
    return ask(client, image, budget_ms=0.5).json()["smallest_feasible_budget_ms"]


def best_latencies_ms(client: httpx.Client) -> dict[str, float]:
    """The variants, least accurate first, with their fastest run."""
    rows = reversed(client.get("/variants").json()["variants"])
    return {row["name"]: min(point["latency_ms"] for point in row["latencies"]) for row in rows}


@dataclass
class Ladder:
    """Rising budgets around what each variant needs, and answers whose way to the worker was not disturbed.

    The variant is chosen by what is left of the budget at dispatch. So an answer counts only if what came before
    took no longer than usual, to a part of the distance between two rungs.
    """

    client: httpx.Client
    image: bytes
    budgets_ms: list[float]
    tolerance_ms: float
    usual_ms: float = float("inf")

    def answer(self, budget_ms: float) -> Mapping[str, Any]:
        for _ in range(TRIES):
            response = ask(self.client, self.image, budget_ms=budget_ms)
            if response.status_code == 504:
                continue
            answer = response.json()
            before_ms = answer["timings_ms"]["total"]
            before_ms -= answer["timings_ms"]["preprocess"] + answer["timings_ms"]["inference"]
            self.usual_ms = min(self.usual_ms, before_ms)
            if before_ms <= self.usual_ms + self.tolerance_ms:
                return answer
        raise AssertionError(f"a budget of {budget_ms:.1f} ms was disturbed {TRIES} times on end")


def ladder(client: httpx.Client, image: bytes) -> Ladder:
    """Budgets midway between the needs of neighbouring variants, and multiples beyond the last."""
    smallest_ms, latencies_ms = smallest_feasible_ms(client, image), list(best_latencies_ms(client).values())
    needs_ms = [smallest_ms + latency_ms - latencies_ms[0] for latency_ms in latencies_ms]
    gaps_ms = [after - before for before, after in itertools.pairwise(needs_ms)]
    assert min(gaps_ms) > 0, "the more accurate variants are slower"
    budgets_ms = [need + gap / 2 for need, gap in zip(needs_ms, [*gaps_ms, needs_ms[-1]], strict=True)]
    found = Ladder(client, image, [*budgets_ms, 5 * budgets_ms[-1], 20 * budgets_ms[-1]], min(gaps_ms) / 4)
    for _ in range(10):
        found.answer(found.budgets_ms[-1])
    return found


def test_a_larger_budget_never_gets_a_less_accurate_variant(client, espresso) -> None:
    """Up the ladder, several times, the accuracy of the answering variant never falls and reaches the best."""
    rungs = ladder(client, espresso)
    best = client.get("/variants").json()["variants"][0]["name"]
    seen = set()
    for _ in range(4):
        answers = [rungs.answer(budget_ms) for budget_ms in rungs.budgets_ms]
        accuracies = [answer["variant"]["top1"] for answer in answers]
        assert accuracies == sorted(accuracies), list(zip(rungs.budgets_ms, accuracies, strict=True))
        assert answers[-1]["variant"]["name"] == best
        assert all(answer["degraded_from"] is None for answer in answers[-2:]), "the server is idle"
        seen.update(answer["variant"]["name"] for answer in answers)
    assert len(seen) > 1, "a tight budget makes a difference"


def test_an_impossible_budget_is_told_the_smallest_feasible_one(client, espresso) -> None:
    """Half a millisecond gets a 504 that names a budget; three times that budget gets an answer in time."""
    refused = ask(client, espresso, budget_ms=0.5)
    assert refused.status_code == 504
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    smallest_ms = problem["smallest_feasible_budget_ms"]
    assert smallest_ms > 0.5
    assert f"{smallest_ms:.1f} ms" in problem["detail"]
    for _ in range(TRIES):
        response = ask(client, espresso, budget_ms=3 * smallest_ms)
        if response.status_code == 200 and response.json()["budget_met"]:
            return
    raise AssertionError(f"{3 * smallest_ms:.1f} ms was not enough {TRIES} times on end")


def test_the_smallest_feasible_budget_depends_on_what_is_asked(client, espresso) -> None:
    """Pinned to a slower variant, the budget that is named is larger, by about what its run takes longer."""
    latencies_ms = best_latencies_ms(client)
    fastest, slowest = min(latencies_ms, key=latencies_ms.__getitem__), max(latencies_ms, key=latencies_ms.__getitem__)
    named_ms = {
        name: ask(client, espresso, budget_ms=0.5, variant=name).json()["smallest_feasible_budget_ms"]
        for name in (fastest, slowest)
    }
    longer_ms = latencies_ms[slowest] - latencies_ms[fastest]
    assert abs(named_ms[slowest] - named_ms[fastest] - longer_ms) <= max(2.0, longer_ms / 2)


def test_a_late_answer_is_given_to_those_who_want_one(client, espresso) -> None:
    """`on_miss=late` with an impossible budget is answered, and says that the budget was not met."""
    response = ask(client, espresso, budget_ms=0.5, on_miss="late")
    assert response.status_code == 200
    answer = response.json()
    assert answer["budget_met"] is False
    assert answer["timings_ms"]["total"] > 0.5
    assert answer["predictions"][0]["index"] == 967


def test_the_menu_says_what_each_budget_gets(client) -> None:
    """In `/variants` the forecast never falls with the budget, and ample budgets get the most accurate variant."""
    menu = client.get("/variants").json()
    accuracy = {row["name"]: row["accuracy"]["top1"] for row in menu["variants"]} | {None: 0}
    budgets = [row["budget_ms"] for row in menu["budgets"]]
    forecast = [accuracy[row["variant"]] for row in menu["budgets"]]
    assert budgets == sorted(budgets)
    assert forecast == sorted(forecast)
    assert menu["budgets"][-1]["variant"] == menu["variants"][0]["name"]
