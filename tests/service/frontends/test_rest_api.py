"""The REST routes over a scripted engine: what goes in reaches the engine, what comes out is the wire's shape."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.core.engine import Readiness
from service.core.request import OnMiss, RequestOptions, RoutingPolicy
from service.errors import InvalidImage, NotReady, Overloaded, UnknownVariant
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.engine import ScriptedEngine, classification
from tests.fakes.http import InProcessClient, noting
from tests.fakes.menus import MS

FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150, deadline=None
)


def parts(*images: bytes) -> list[tuple[str, bytes]]:
    return [("image", image) for image in images]


def test_an_answer_has_the_fields_of_the_wire(client) -> None:
    """A raw body is answered with predictions, variant, budget, timings, batch and degradation, in milliseconds."""
    response = client.post("/classify?budget_ms=40&top_k=2", content=b"image")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {
        "predictions": [
            {"index": 281, "wnid": "n02123045", "label": "class 281", "probability": 0.75},
            {"index": 282, "wnid": "n02123046", "label": "class 282", "probability": 0.375},
        ],
        "variant": {"name": "small", "precision": "fp32", "resolution": 224, "top1": 75.5, "trained": True},
        "budget_ms": 40.0,
        "budget_met": True,
        "timings_ms": {"decode": 1.235, "queue": 0.25, "preprocess": 2.0, "inference": 5.0, "total": 9.0},
        "batch_size": 3,
        "degraded_from": None,
    }


def test_an_answer_hides_none_of_its_weaknesses(client, engine) -> None:
    """Untrained weights, unknown accuracy, missing WordNet ids, a missed budget and degradation all show."""
    engine.answers[b"image"] = classification(
        name="b3", trained=False, top1=None, wnids=False, budget_met=False, degraded_from="b4"
    )
    answer = client.post("/classify", content=b"image").json()
    assert (answer["variant"]["name"], answer["variant"]["trained"], answer["variant"]["top1"]) == ("b3", False, None)
    assert answer["predictions"][0]["wnid"] is None
    assert (answer["budget_met"], answer["degraded_from"]) == (False, "b4")


def test_the_timings_go_out_as_server_timing(client) -> None:
    """The header holds the same stages and the same numbers as the body."""
    response = client.post("/classify", content=b"image")
    assert response.headers["server-timing"] == (
        "decode;dur=1.235, queue;dur=0.25, preprocess;dur=2.0, inference;dur=5.0, total;dur=9.0"
    )


def test_the_engine_is_asked_what_the_caller_asked(client, engine) -> None:
    """The image, every option and the caller's address reach the engine unchanged."""
    client.post(
        "/classify?budget_ms=12.5&top_k=3&variant=b3&min_accuracy=80&target_ms=9&priority=7&on_miss=late",
        content=b"image",
    )
    (call,) = engine.calls
    assert call.image == b"image"
    assert call.client == "192.0.2.7"
    assert call.options == RequestOptions(
        budget_ns=12_500_000,
        top_k=3,
        policy=RoutingPolicy(variant="b3", min_accuracy=80.0, target_ns=9 * MS, on_miss=OnMiss.LATE, priority=7),
    )


def test_the_budget_counts_from_the_last_byte(client, engine) -> None:
    """A body that takes long to arrive costs its caller no budget: the clock is read once it is whole."""

    async def slow_body():
        yield b"first half, "
        engine.clock.advance(700 * MS)
        yield b"second half"

    client.post("/classify", content=slow_body())
    assert engine.calls[0].received_ns == engine.now_ns()
    assert engine.calls[0].image == b"first half, second half"


@pytest.mark.parametrize(
    "body", [{"content": b"one"}, {"files": parts(b"one", b"two")}], ids=["an image", "several images"]
)
def test_the_engine_is_told_when_a_request_was_read(app, engine, body) -> None:
    """Where the HTTP server noted its first byte and its last, both go with each of its images."""
    with InProcessClient(noting(app, began_ns=3, received_ns=5)) as client:
        client.post("/classify", **body)
    assert {(call.began_ns, call.received_ns) for call in engine.calls} == {(3, 5)}


def test_a_malformed_parameter_is_refused_before_the_engine(client, engine) -> None:
    """422 with the known names; the engine never hears of it."""
    response = client.post("/classify?budget=5", content=b"image")
    assert response.status_code == 422
    assert "budget_ms" in response.json()["detail"]
    assert engine.calls == []


def test_one_part_is_answered_like_a_raw_body(client, engine) -> None:
    """Multipart with a single image gives the answer itself, or the problem with its own status."""
    engine.failures[b"broken"] = InvalidImage("cut off")
    assert client.post("/classify", files=parts(b"a")).json() == client.post("/classify", content=b"a").json()
    response = client.post("/classify", files=parts(b"broken"))
    assert (response.status_code, response.json()["detail"]) == (400, "cut off")


def test_several_parts_have_independent_results_in_order(client, engine) -> None:
    """Each image is answered or fails for itself, in the order sent, under one 200."""
    engine.failures[b"broken"] = InvalidImage("cut off")
    engine.failures[b"unlucky"] = Overloaded("full", retry_after_ns=2 * MS)
    response = client.post("/classify?top_k=1", files=parts(b"a", b"broken", b"unlucky", b"x" * 1001))
    assert response.status_code == 200
    results = response.json()["results"]
    assert results[0]["predictions"][0]["label"] == "class 281"
    assert [result["error"]["status"] for result in results[1:]] == [400, 429, 413]
    assert results[2]["error"]["retry_after_ms"] == 2.0
    assert response.headers["server-timing"] == "total;dur=9.0"


def test_several_undecodable_parts_are_still_several_results(client, engine) -> None:
    """A fault of each picture stays with each picture, even when all have it."""
    engine.failures[b"broken"] = InvalidImage("cut off")
    response = client.post("/classify", files=parts(b"broken", b"broken"))
    assert response.status_code == 200
    assert [result["error"]["status"] for result in response.json()["results"]] == [400, 400]


@pytest.mark.parametrize(("error", "status"), [(UnknownVariant("no b9"), 404), (NotReady("draining"), 503)])
def test_a_fault_of_the_request_is_answered_once(client, engine, error, status) -> None:
    """What is wrong with the request itself fails several images as a whole, with its own status."""
    engine.failures[b"a"] = engine.failures[b"b"] = error
    response = client.post("/classify", files=parts(b"a", b"b"))
    assert (response.status_code, response.json()["detail"]) == (status, error.detail)


def test_too_many_parts_are_refused_before_the_engine(client, engine) -> None:
    """One image more than allowed refuses all of them, and none is worked on."""
    response = client.post("/classify", files=parts(*[b"a"] * 5))
    assert response.status_code == 422
    assert "more than 4 parts" in response.json()["detail"]
    assert engine.calls == []


@pytest.mark.parametrize("size", [1001, 100_000])
def test_a_body_over_the_bound_is_413(client, engine, size) -> None:
    """An image of too many bytes is refused with the bound, and the connection is not used again."""
    response = client.post("/classify", content=b"x" * size)
    assert response.status_code == 413
    assert "at most 1000 bytes" in response.json()["detail"]
    assert response.headers["connection"] == "close"
    assert engine.calls == []


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [({}, b"", 400), ({"Content-Type": "text/plain"}, b"x", 415), ({"Content-Encoding": "br"}, b"x", 415)],
)
def test_what_cannot_be_an_image_is_refused(client, headers, content, status) -> None:
    """An empty body is 400; a type or an encoding that is not served is 415."""
    assert client.post("/classify", content=content, headers=headers).status_code == status


@pytest.mark.parametrize("readiness", [Readiness.STARTING, Readiness.DRAINING])
def test_a_server_that_is_not_ready_takes_no_images(client, engine, readiness) -> None:
    """While starting and draining both /readyz and /classify answer 503 with the state; /livez stays 200."""
    engine.readiness = readiness
    for response in (client.get("/readyz"), client.post("/classify", content=b"image")):
        assert response.status_code == 503
        assert readiness.value in response.json()["detail"]
    assert client.get("/livez").json() == {"status": "alive"}


def test_a_ready_server_says_so(client) -> None:
    """/readyz is 200 exactly when requests are taken."""
    response = client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_the_menu_tells_what_can_be_asked_for(client) -> None:
    """/variants has accuracy with its source, provenance with licence, and latencies by threads and batch."""
    menu = client.get("/variants").json()
    large, unknown = menu["variants"]
    assert (large["name"], large["routable"], large["trained"]) == ("large", True, True)
    assert large["accuracy"] == {
        "top1": 80.0,
        "top5": 92.5,
        "source": "evaluated",
        "detail": "made up for tests",
        "images": 1000,
    }
    assert (large["provenance"]["licence"], large["provenance"]["revision"]) == ("Apache-2.0", "0.1.0")
    assert large["latencies"] == [
        {"threads": 1, "batch_size": 1, "latency_ms": 50.0},
        {"threads": 1, "batch_size": 4, "latency_ms": 200.0},
        {"threads": 2, "batch_size": 1, "latency_ms": 30.0},
    ]
    assert (unknown["trained"], unknown["routable"], unknown["accuracy"]["top1"]) == (False, False, None)


def test_the_menu_tells_what_each_budget_would_get(client) -> None:
    """The ladder of budgets names the engine's idle choice, and nothing where there is none."""
    menu = client.get("/variants").json()
    assert {row["budget_ms"]: row["variant"] for row in menu["budgets"]} == {
        5: None,
        10: None,
        20: None,
        50: "large",
        100: "large",
        200: "large",
        500: "large",
        1000: "large",
    }
    assert (menu["budget_ms_default"], menu["budget_ms_max"]) == (1000.0, 60_000.0)


def test_metrics_are_passed_through(engine) -> None:
    """/metrics is exactly the page it was given, with its content type; what the caller accepts is handed on."""
    app = create_rest_api(
        engine, limits=RestLimits(), metrics_page=lambda accept: (accept.encode(), "text/special"), version="1"
    )
    with InProcessClient(app) as client:
        response = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert (response.content, response.headers["content-type"]) == (b"application/openmetrics-text", "text/special")


@FUZZ
@given(
    query=st.text(max_size=60).map(quote)
    | st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=60)
)
def test_any_query_is_answered_or_refused(client, query) -> None:
    """No query string ends in anything but an answer or a problem with a 4xx status."""
    response = client.request("POST", "/classify?" + query.replace("#", "%23"), content=b"image")
    if response.status_code != 200:
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"


@FUZZ
@given(
    name=st.sampled_from(["budget_ms", "top_k", "variant", "min_accuracy", "target_ms", "priority", "on_miss"]),
    value=st.one_of(st.floats().map(repr), st.integers().map(str), st.text(max_size=20)),
)
def test_any_value_is_answered_or_refused(client, name, value) -> None:
    """No value of a known parameter ends in anything but an answer or a problem that names the parameter."""
    response = client.post(f"/classify?{name}={quote(value)}", content=b"image")
    if response.status_code != 200:
        assert response.status_code == 422
        assert name in response.json()["detail"]


def test_the_scripted_engine_has_the_real_surface() -> None:
    """What these tests run over offers everything that front ends may use of the real engine."""
    from service.core.engine import Engine  # noqa: PLC0415 only this test needs it

    scripted = ScriptedEngine()
    for name in ("infer", "now_ns", "variants", "choose_when_idle", "budget_ns_default", "budget_ns_max"):
        assert hasattr(Engine, name)
        assert hasattr(scripted, name)
