"""The REST API over the real engine and scheduler, with fake decoding and runs: budgets mean what the wire says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.core.engine import Engine, Readiness
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.event_loop import FakeTimeLoop
from tests.fakes.http import InProcessClient
from tests.fakes.runtime import build_engine

# In fake time the fakes decode in 1 ms and run "small", "medium" and "large" in 10, 20 and 50 ms.


@pytest.fixture
def real_engine() -> Engine:
    return build_engine()


@pytest.fixture
def client(real_engine) -> Iterator[InProcessClient]:
    app = create_rest_api(real_engine, limits=RestLimits(), metrics_page=lambda _: (b"", "text/plain"), version="1.2.3")
    with InProcessClient(app, FakeTimeLoop) as client:
        yield client


@pytest.mark.parametrize(
    ("budget_ms", "name", "total_ms"), [(20, "small", 11.0), (50, "medium", 21.0), (100, "large", 51.0)]
)
def test_an_idle_server_answers_as_its_menu_forecasts(client, budget_ms, name, total_ms) -> None:
    """Each budget gets the most accurate variant that fits it, which is what /variants said it would."""
    forecast = {row["budget_ms"]: row["variant"] for row in client.get("/variants").json()["budgets"]}
    answer = client.post(f"/classify?budget_ms={budget_ms}", content=b"image").json()
    assert answer["variant"]["name"] == forecast[budget_ms] == name
    assert (answer["timings_ms"]["total"], answer["budget_met"]) == (total_ms, True)
    assert (forecast[5], forecast[10]) == (None, None)


def test_an_impossible_budget_names_one_that_works(client) -> None:
    """The smallest feasible budget that a refusal names is answered when it is asked for."""
    refusal = client.post("/classify?budget_ms=2", content=b"image")
    assert refusal.status_code == 504
    feasible_ms = refusal.json()["smallest_feasible_budget_ms"]
    assert feasible_ms == 11.0
    assert client.post(f"/classify?budget_ms={feasible_ms}", content=b"image").status_code == 200


def test_a_late_answer_says_that_it_is_late(client) -> None:
    """With on_miss=late an impossible budget is answered by the fastest variant, marked as missed."""
    response = client.post("/classify?budget_ms=2&on_miss=late", content=b"image")
    assert response.status_code == 200
    assert response.json()["variant"]["name"] == "small"
    assert response.json()["budget_met"] is False
    assert (response.json()["timings_ms"]["total"], response.json()["budget_ms"]) == (11.0, 2.0)


def test_a_pinned_variant_answers_or_is_unknown(client) -> None:
    """A variant that exists is obeyed; one that does not is 404 with the names there are."""
    assert client.post("/classify?variant=medium", content=b"image").json()["variant"]["name"] == "medium"
    unknown = client.post("/classify?variant=b9", content=b"image")
    assert unknown.status_code == 404
    assert "large, medium, small" in unknown.json()["detail"]


def test_several_images_share_the_engine_and_fail_alone(client) -> None:
    """A header that is no image, pixels that are cut off, and good images each end in their own way."""
    images = [("image", image) for image in (b"a", b"text", b"broken", b"b")]
    results = client.post("/classify?top_k=1", files=images).json()["results"]
    labels = [result["predictions"][0]["index"] if "predictions" in result else None for result in results]
    assert labels == [ord("a"), None, None, ord("b")]
    assert [results[index]["error"]["status"] for index in (1, 2)] == [400, 400]


def test_draining_refuses_new_requests_at_once(client, real_engine) -> None:
    """Once the engine drains, images are refused with 503 and readiness is withdrawn."""
    client.run(real_engine.drain(1_000_000_000))
    assert real_engine.readiness is Readiness.DRAINING
    assert client.post("/classify", content=b"image").status_code == 503
    assert client.get("/readyz").status_code == 503
