"""Budgets against a real, idle server: more time never gets less accuracy, and what is impossible says what is not."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import httpx
import pytest
from PIL import Image

from service.runtime.machine import available_cores
from tests.end_to_end.conftest import PHOTOGRAPHS

TRIES = 40
"""Another process may take the cores for a while; more than this is no accident."""

PATIENCE_S = 25
SETTLED_S = 1.5


def ask(client: httpx.Client, image: bytes, **query: Any) -> httpx.Response:
    return client.post("/classify", params=query, content=image)


def smallest_feasible_ms(client: httpx.Client, image: bytes) -> float:
    return ask(client, image, budget_ms=0.5).json()["smallest_feasible_budget_ms"]


def best_latencies_ms(client: httpx.Client) -> dict[str, float]:
    """The variants, least accurate first, with their fastest run."""
    rows = reversed(client.get("/variants").json()["variants"])
    return {row["name"]: min(point["latency_ms"] for point in row["latencies"]) for row in rows}


class Ladder:
    """Rising budgets on an idle server, round after round; rounds in which the machine was disturbed do not count.

    Forecasts follow what runs take, and a run that overshoots still holds its worker when the next request comes,
    which is load. So after a disturbance the server gets time to find itself idle again, and what happens in a round
    is read from its answers: a budget that was missed, or a request that took much longer than others like it.
    """

    def __init__(self, client: httpx.Client, image: bytes) -> None:
        self.client, self.image = client, image
        self.best = client.get("/variants").json()["variants"][0]["name"]
        self._usual_ms: dict[str, float] = {}
        self._ends_s = time.monotonic() + PATIENCE_S
        self._settle()

    def quiet_round(self) -> list[tuple[float, Mapping[str, Any]]]:
        """(budget in ms, answer), from just above the smallest feasible budget up, each rung 2.5 times the last."""
        while True:
            lowest_ms = 1.05 * smallest_feasible_ms(self.client, self.image)
            budgets_ms = [lowest_ms * 2.5**step for step in range(5)]
            responses = [ask(self.client, self.image, budget_ms=budget_ms) for budget_ms in budgets_ms]
            assert {response.status_code for response in responses} <= {200, 504}
            quiet = [response.status_code == 200 and self._is_quiet(response.json()) for response in responses]
            if all(quiet):
                return [(budget, response.json()) for budget, response in zip(budgets_ms, responses, strict=True)]
            self._settle()

    def _settle(self) -> None:
        """Ask at leisure until nothing was out of the ordinary for a while, which is longer than load is remembered."""
        quiet_since_s = time.monotonic()
        while (now_s := time.monotonic()) - quiet_since_s < SETTLED_S:
            if now_s > self._ends_s:
                self._give_up()
            answer = ask(self.client, self.image, budget_ms=30_000).json()
            if not self._is_quiet(answer) or answer["variant"]["name"] != self.best:
                quiet_since_s = time.monotonic()

    def _is_quiet(self, answer: Mapping[str, Any]) -> bool:
        name, total_ms = answer["variant"]["name"], answer["timings_ms"]["total"]
        self._usual_ms[name] = min(total_ms, self._usual_ms.get(name, total_ms))
        return total_ms <= 2.5 * self._usual_ms[name]

    @staticmethod
    def _give_up() -> NoReturn:
        load = os.getloadavg()[0]
        if load > available_cores():
            pytest.skip(f"other processes keep this machine busy (load average {load:.1f}): no server on it is idle")
        raise AssertionError(f"in {PATIENCE_S} s on a quiet machine the server never found itself idle")


def small_picture() -> bytes:
    """One that is decoded in no time, so that a tight budget is about runs."""
    written = io.BytesIO()
    with Image.open(PHOTOGRAPHS / "espresso.jpg") as image:
        image.resize((96, 64)).save(written, "JPEG")
    return written.getvalue()


def test_a_larger_budget_never_gets_a_less_accurate_variant(client) -> None:
    """Up the ladder, several times, the accuracy of the answering variant never falls and reaches the best."""
    ladder = Ladder(client, small_picture())
    seen = set()
    for _ in range(5):
        answered = ladder.quiet_round()
        accuracies = [answer["variant"]["top1"] for _, answer in answered]
        assert accuracies == sorted(accuracies), answered
        assert answered[-1][1]["variant"]["name"] == ladder.best
        assert answered[-1][1]["degraded_from"] is None, "the server is idle"
        seen.update(accuracies)
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
    """Once both have run, the budget named for the slowest variant is larger than that for the fastest."""
    latencies_ms = best_latencies_ms(client)
    fastest, slowest = min(latencies_ms, key=latencies_ms.__getitem__), max(latencies_ms, key=latencies_ms.__getitem__)
    for _ in range(TRIES):
        named_ms = {}
        for name in (fastest, slowest):
            for _ in range(4):  # forecasts follow what runs take
                assert ask(client, espresso, budget_ms=30_000, variant=name).status_code == 200
            refused = ask(client, espresso, budget_ms=0.5, variant=name)
            named_ms[name] = refused.json()["smallest_feasible_budget_ms"]
        if named_ms[slowest] > named_ms[fastest]:
            return
    raise AssertionError(f"{slowest} was said to be no slower than {fastest} {TRIES} times on end")


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
