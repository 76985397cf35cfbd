"""What the door refuses, answered at once: the same as the route would have answered."""

from __future__ import annotations

import pytest

from service.core.engine import Readiness
from service.errors import DeadlineExceeded, InvalidImage, Overloaded
from service.exchange import ExchangeObserver
from service.frontends.http_body import BEGAN_NS, RECEIVED_NS
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.engine import ScriptedEngine
from tests.fakes.http import InProcessClient, noting

ERRORS = {
    b"late": DeadlineExceeded("too late", smallest_feasible_budget_ns=12_300_000),
    b"full": Overloaded("come back", retry_after_ns=1_500_000_000),
    b"odd": InvalidImage("not a picture"),
}
ID = (b"x-request-id", b"an-id")


def api(engine: ScriptedEngine, observer: ExchangeObserver | None = None):
    limits = RestLimits(image_bytes_max=1000)
    return create_rest_api(
        engine, limits=limits, metrics_page=lambda _: (b"", "text/plain"), version="1", observer=observer
    )


def head(
    query: bytes = b"",
    *,
    fields=((b"content-type", b"image/jpeg"), (b"content-length", b"4")),
    method="POST",
    path="/classify",
) -> dict:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [*fields, ID],
        "scheme": "http",
        "http_version": "1.1",
        "client": ("192.0.2.7", 4321),
        "server": ("phiserve", 80),
        BEGAN_NS: 5,
        RECEIVED_NS: 7,
    }


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(failures=dict(ERRORS))


def answered(refusals, scope: dict, body: bytes):
    assert refusals.takes(scope)
    refusals.begin(scope)
    return refusals.answer(scope, body)


@pytest.mark.parametrize("image", ERRORS)
def test_a_refusal_is_what_the_route_would_answer(engine, image) -> None:
    """Status, fields and body are the same, whichever way it went."""
    app = api(engine)
    response = answered(app.refusals, head(b"budget_ms=1"), image)
    with InProcessClient(noting(app, 5, 7)) as client:
        usual = client.post(
            "/classify?budget_ms=1", content=image, headers={"Content-Type": "image/jpeg", "X-Request-ID": "an-id"}
        )
    assert (response.status_code, response.body) == (usual.status_code, usual.content)
    assert dict(response.headers) == dict(usual.headers)
    assert engine.refused == [ERRORS[image]] * 2


def test_a_server_that_is_not_ready_refuses_too(engine) -> None:
    """With 503."""
    engine.readiness = Readiness.DRAINING
    assert answered(api(engine).refusals, head(), b"good").status_code == 503


def test_who_would_be_let_in_is_the_routes(engine) -> None:
    """Nobody is told of it here, and nobody is counted."""
    assert answered(api(engine).refusals, head(), b"good") is None
    assert (engine.refused, engine.calls) == ([], [])


@pytest.mark.parametrize(
    "other",
    [
        {"method": "PUT"},
        {"path": "/variants"},
        {"query": b"top_k=0"},
        {"fields": ((b"content-type", b"image/png"),)},
        {"fields": ((b"content-length", b"0"),)},
        {"fields": ((b"content-length", b"1001"),)},
        {"fields": ((b"content-length", b"9" * 5000),)},
        {"fields": ((b"content-length", b"-4"),)},
        {"fields": ((b"content-length", b"4"), (b"content-encoding", b"gzip"))},
        {"fields": ((b"content-length", b"4"), (b"content-type", b"multipart/form-data; boundary=x"))},
        {"fields": ((b"content-length", b"4"), (b"content-type", b"text/plain"))},
        {"fields": ((b"content-length", b"4"), (b"content-type", b"text/plain"), (b"content-type", b"image/png"))},
    ],
    ids=[
        "method",
        "path",
        "a fault",
        "chunked",
        "empty",
        "too long",
        "far too long",
        "negative",
        "encoded",
        "multipart",
        "text",
        "of two types the first counts, as on the route",
    ],
)
def test_only_one_image_of_a_known_length_is_taken(engine, other) -> None:
    """All else is the route's to read, bound by bound, and to refuse in its own words."""
    assert not api(engine).refusals.takes(head(**other))


def test_a_refused_exchange_is_observed_from_its_head_to_its_end(engine) -> None:
    """Begun once the head was there, ended with the answer's status and the route."""
    told: list[tuple[str, object]] = []

    class Observer(ExchangeObserver):
        def exchange_began(self, exchange) -> None:
            told.append(("began", (exchange.request_id, exchange.path, exchange.client)))

        def exchange_ended(self, exchange, ending) -> None:
            told.append(("ended", (exchange.request_id, ending.status, ending.is_fault, ending.route)))

    refusals, scope = api(engine, Observer()).refusals, head()
    refusals.begin(scope)
    assert told == [("began", ("an-id", "/classify", "192.0.2.7"))]
    refusals.answer(scope, b"late")
    assert told[1:] == [("ended", ("an-id", "504", True, "/classify"))]


def test_an_exchange_that_goes_on_to_the_route_is_observed_once(engine) -> None:
    """It began at the door and ends where it is answered, under one id."""
    told: list[str] = []

    class Observer(ExchangeObserver):
        def exchange_began(self, exchange) -> None:
            told.append(f"began {exchange.request_id}")

        def exchange_ended(self, exchange, ending) -> None:
            told.append(f"ended {exchange.request_id} {ending.status}")

    app = api(engine, Observer())

    async def through_the_door(scope, receive, send) -> None:
        app.refusals.begin(scope)
        assert app.refusals.answer(scope, b"good") is None
        await app(scope, receive, send)

    with InProcessClient(through_the_door) as client:
        answer = client.post("/classify", content=b"good")
    request_id = answer.headers["X-Request-ID"]
    assert answer.status_code == 200
    assert told == [f"began {request_id}", f"ended {request_id} 200"]
