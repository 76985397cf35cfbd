"""Requests of one picture, answered without the route: the same as the route would have answered."""

from __future__ import annotations

import asyncio

import pytest

from service.core.engine import Readiness
from service.errors import DeadlineExceeded, InvalidImage, Overloaded
from service.exchange import ExchangeObserver
from service.frontends.http_body import BEGAN_NS, RECEIVED_NS
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.engine import HELD, ScriptedEngine
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


def answered(pictures, scope: dict, body: bytes):
    """The answer, or what comes to it."""
    assert pictures.takes(scope)
    pictures.begin(scope)
    return pictures.answer(scope, body)


def as_the_route_does(app, image: bytes):
    """The route's answer to the same."""
    with InProcessClient(noting(app, 5, 7)) as client:
        return client.post(
            "/classify?budget_ms=1", content=image, headers={"Content-Type": "image/jpeg", "X-Request-ID": "an-id"}
        )


@pytest.mark.parametrize("image", ERRORS)
def test_a_refusal_is_what_the_route_would_answer(engine, image) -> None:
    """Status, fields and body are the same, whichever way it went."""
    app = api(engine)
    response = answered(app.pictures, head(b"budget_ms=1"), image)
    usual = as_the_route_does(app, image)
    assert (response.status_code, response.body) == (usual.status_code, usual.content)
    assert dict(response.headers) == dict(usual.headers)
    assert len(engine.calls) == 2


def test_a_server_that_is_not_ready_refuses_too(engine) -> None:
    """With 503."""
    engine.readiness = Readiness.DRAINING
    assert answered(api(engine).pictures, head(), b"good").status_code == 503


@pytest.mark.parametrize("image", [b"good", b"lost", b"broken"])
def test_who_is_let_in_is_answered_as_on_the_route(engine, image) -> None:
    """A class, an error that comes after the door, or one that nobody foresaw; admitted once, for the same caller."""
    engine.ends = {
        b"lost": DeadlineExceeded("too late", smallest_feasible_budget_ns=9_000_000),
        b"broken": RuntimeError("a bug"),
    }
    app = api(engine)
    response = asyncio.run(answered(app.pictures, head(b"budget_ms=1"), image))
    here = engine.calls.copy()
    usual = as_the_route_does(app, image)
    assert (response.status_code, response.body) == (usual.status_code, usual.content)
    assert dict(response.headers) == dict(usual.headers)
    (call,) = here
    assert (call.image, call.options, call.received_ns, call.began_ns, call.client) == (
        image,
        engine.calls[1].options,
        7,
        5,
        "192.0.2.7",
    )


def test_who_leaves_is_worked_for_no_more(engine) -> None:
    """Cancelling what comes to the answer ends it: observers hear of an exchange without one, and nothing is raised."""
    told: list[str | None] = []

    class Observer(ExchangeObserver):
        def exchange_began(self, exchange) -> None:
            pass

        def exchange_ended(self, exchange, ending) -> None:
            told.append(ending.status)

    async def leave() -> None:
        task = asyncio.create_task(answered(api(engine, Observer()).pictures, head(), HELD))
        await asyncio.to_thread(engine.held.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert engine.cancelled.is_set()
    assert told == [None]


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
    assert not api(engine).pictures.takes(head(**other))


def test_a_refused_exchange_is_observed_from_its_head_to_its_end(engine) -> None:
    """Begun once the head was there, ended with the answer's status and the route."""
    told: list[tuple[str, object]] = []

    class Observer(ExchangeObserver):
        def exchange_began(self, exchange) -> None:
            told.append(("began", (exchange.request_id, exchange.path, exchange.client)))

        def exchange_ended(self, exchange, ending) -> None:
            told.append(("ended", (exchange.request_id, ending.status, ending.is_fault, ending.route)))

    pictures, scope = api(engine, Observer()).pictures, head()
    pictures.begin(scope)
    assert told == [("began", ("an-id", "/classify", "192.0.2.7"))]
    pictures.answer(scope, b"late")
    assert told[1:] == [("ended", ("an-id", "504", True, "/classify"))]


def test_an_exchange_that_is_let_in_is_observed_once(engine) -> None:
    """It began at its head and ends with its answer, under one id."""
    told: list[str] = []

    class Observer(ExchangeObserver):
        def exchange_began(self, exchange) -> None:
            told.append(f"began {exchange.request_id}")

        def exchange_ended(self, exchange, ending) -> None:
            told.append(f"ended {exchange.request_id} {ending.status} {ending.route}")

    asyncio.run(answered(api(engine, Observer()).pictures, head(), b"good"))
    assert told == ["began an-id", "ended an-id 200 /classify"]
