"""The whole family, B0 to B7, resident in one server: untrained, so every answer says that it means nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.phiserve_process import client_of, run_phiserve, serving

FAMILY = [f"b{phi}" for phi in range(8)]
TRIES = 20

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def family_store(tmp_path_factory) -> Iterator[Path]:
    """770 MB that are removed as soon as they were used."""
    store = tmp_path_factory.mktemp("family") / "store"
    built = run_phiserve("store", "build", *FAMILY, "--weights", "untrained", "--store", store, timeout_s=200)
    assert built.returncode == 0, built.stderr
    yield store
    shutil.rmtree(store)


@pytest.fixture(scope="module")
def client(family_store) -> Iterator[httpx.Client]:
    """One worker: half the memory and half the time to measure, and a run takes the same."""
    flags = ("--store", family_store, "--allow-untrained", "--batch-size-max", "1", "--workers", "1")
    with serving(*flags) as server, client_of(server) as client:
        yield client


def test_untrained_variants_are_not_served_unasked(family_store) -> None:
    """The start is refused in one line that says how to get trained ones, or to serve these all the same."""
    ended = run_phiserve("serve", "--port", "0", "--grpc-port", "0", "--store", family_store)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "phiserve store build lite0" in ended.stderr
    assert "--allow-untrained" in ended.stderr


def test_all_eight_are_resident_and_none_claims_an_accuracy(client) -> None:
    """The menu has the whole family, largest first, untrained, each measured and slower than the one before it."""
    rows = client.get("/variants").json()["variants"]
    assert [row["name"] for row in rows] == FAMILY[::-1]
    assert {(row["trained"], row["accuracy"]["top1"], row["routable"]) for row in rows} == {(False, None, True)}
    latencies_ms = [row["latencies"][0]["latency_ms"] for row in rows]
    assert latencies_ms[0] > 10 * latencies_ms[-1], "b7 does seventy times the work of b0"


def test_each_member_answers_when_it_is_asked_for(client, espresso) -> None:
    """Pinned, every member answers itself, at its own resolution, marked as untrained."""
    for name, resolution in zip(FAMILY, (224, 240, 260, 300, 380, 456, 528, 600), strict=True):
        response = client.post("/classify", params={"variant": name, "budget_ms": 60_000}, content=espresso)
        assert response.status_code == 200, response.text
        used = response.json()["variant"]
        assert (used["name"], used["resolution"], used["trained"]) == (name, resolution, False)
        assert used["top1"] is None


def test_a_rising_budget_routes_up_the_family(client, espresso) -> None:
    """From the smallest feasible budget to an ample one the answering member never gets smaller, and ends at b7."""
    climbs = []
    for _ in range(TRIES):
        answered = climb(client, espresso)
        if answered == sorted(answered) and answered[-1] == "b7" and len(set(answered)) >= 4:
            return
        climbs.append(answered)  # other processes may have slowed the machine in the middle of it
    raise AssertionError(f"no budget ladder of {TRIES} went up the family: {climbs}")


def climb(client: httpx.Client, image: bytes) -> list[str]:
    """The members that answer to seven budgets, each 2.5 times the last."""
    refused = client.post("/classify", params={"budget_ms": 0.5}, content=image)
    smallest_ms = refused.json()["smallest_feasible_budget_ms"]
    return [member_within(client, image, 1.05 * smallest_ms * 2.5**step) for step in range(7)]


def member_within(client: httpx.Client, image: bytes, budget_ms: float) -> str:
    for _ in range(TRIES):
        response = client.post("/classify", params={"budget_ms": budget_ms}, content=image)
        if response.status_code == 200:
            assert response.json()["variant"]["trained"] is False
            return response.json()["variant"]["name"]
        assert response.status_code == 504, response.text
        # Other processes may have slowed the machine since: what the refusal names by now is what must be enough.
        budget_ms = max(budget_ms, 1.05 * response.json()["smallest_feasible_budget_ms"])
    raise AssertionError(f"a budget of {budget_ms:.1f} ms was missed {TRIES} times on end")
