"""Every response carries the request's id, given or made, and an observer hears of every exchange."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DeadlineExceeded, NotReady
from service.exchange import Ending
from service.frontends.http_envelope import HttpEnvelope
from service.frontends.request_ids import accepted_request_id
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.exchanges import RecordingObserver
from tests.fakes.http import InProcessClient

FRESH = re.compile(r"[0-9a-f]{32}")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/classify", 200),
        ("POST", "/classify?top_k=0", 422),
        ("GET", "/classify", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/livez", 200),
        ("GET", "/metrics", 200),
        ("GET", "/docs", 200),
        ("GET", "/", 307),
    ],
)
def test_every_response_echoes_the_id(client, bound_ids, method, path, status) -> None:
    """Answers, errors, pages and redirects all carry the caller's id, and logging was given it once."""
    response = client.request(method, path, content=b"image", headers={"X-Request-ID": "order-66"})
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == ["order-66"]
    assert bound_ids == ["order-66"]


def test_unexpected_errors_echo_the_id_too(client, engine) -> None:
    """Even the answer to a bug can be matched with its log lines."""
    engine.failures[b"bug"] = RuntimeError("bug")
    response = client.post("/classify", content=b"bug", headers={"X-Request-ID": "order-66"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "order-66")


def test_an_absent_id_is_made_up(client) -> None:
    """Without an id each response gets a fresh random one."""
    first, second = (client.get("/livez").headers["x-request-id"] for _ in range(2))
    assert FRESH.fullmatch(first)
    assert FRESH.fullmatch(second)
    assert first != second


@pytest.mark.parametrize("given_id", ["", "a b", "<script>", "a\tb", "x" * 129, "-leading", "ü", "a;b", 'a"b', "a\\b"])
def test_an_unsafe_id_is_replaced(given_id) -> None:
    """What could mean something in a header, a log line or a page is not echoed."""
    assert FRESH.fullmatch(accepted_request_id(given_id))


@given(st.text(max_size=200))
def test_an_accepted_id_is_always_harmless(given_id) -> None:
    """Whatever is sent, what is echoed is short, printable ASCII without spaces."""
    accepted = accepted_request_id(given_id)
    assert re.fullmatch(r"[!-~]{1,128}", accepted)
    assert accepted == given_id or FRESH.fullmatch(accepted)


@pytest.mark.parametrize("safe_id", ["a", "x" * 128, "6f1c-2b", "trace/12:3@host", "a=b+c~d._"])
def test_a_safe_id_is_kept(safe_id) -> None:
    """Identifiers in the forms that proxies and tracers write are kept as they are."""
    assert accepted_request_id(safe_id) == safe_id


def test_an_error_after_the_response_began_is_not_hidden() -> None:
    """When half an answer is out the exception goes on to the server, which cuts the connection."""

    async def breaks_off(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise NotReady("mid-answer")

    async def ignore(message) -> None:
        pass

    envelope = HttpEnvelope(breaks_off, lambda _: None)
    with pytest.raises(NotReady):
        asyncio.run(envelope({"type": "http", "method": "GET", "path": "/", "headers": []}, None, ignore))


def test_other_protocols_pass_untouched() -> None:
    """Lifespan events are not HTTP and reach the application as they are."""
    seen = []

    async def inner(scope, receive, send) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    asyncio.run(HttpEnvelope(inner, lambda _: None)(scope, None, None))
    assert seen == [{"type": "lifespan"}]


@pytest.fixture
def observed(engine) -> Iterator[tuple[InProcessClient, RecordingObserver]]:
    """A client of the API, and what an observer of it hears."""
    observer = RecordingObserver()
    app = create_rest_api(engine, limits=RestLimits(), metrics_page=lambda _: (b"", ""), version="1", observer=observer)
    with InProcessClient(app) as client:
        yield client, observer


@pytest.mark.parametrize(
    ("method", "path", "body", "ending"),
    [
        ("POST", "/classify?top_k=1", b"image", Ending("200", is_error=False, is_fault=False, route="/classify")),
        ("POST", "/classify", b"late", Ending("504", is_error=True, is_fault=True, route="/classify")),
        ("POST", "/classify", b"", Ending("400", is_error=True, is_fault=False, route="/classify")),
        ("POST", "/classify", b"bug", Ending("500", is_error=True, is_fault=True, route="/classify")),
        ("GET", "/problems/overloaded", b"", Ending("200", is_error=False, is_fault=False, route="/problems/{slug}")),
        ("GET", "/nowhere", b"", Ending("404", is_error=True, is_fault=False)),
    ],
)
def test_an_observer_hears_how_each_exchange_ended(*, observed, engine, method, path, body, ending) -> None:
    """Status, whose fault it was, and the route that matched are told once, whatever the application did."""
    client, observer = observed
    engine.failures |= {b"late": DeadlineExceeded("too late"), b"bug": RuntimeError("bug")}
    client.request(method, path, content=body)
    assert [found for _, found in observer.ended] == [ending]


def test_an_observer_gets_what_the_head_says(observed) -> None:
    """Path, query, peer and headers are there before the body is; headers of one name are joined."""
    client, observer = observed
    headers = [("X-Request-ID", "order-66"), ("tracestate", "a=1"), ("tracestate", "b=2")]
    client.post("/classify?top_k=1", content=b"image", headers=headers)
    (exchange,) = observer.began
    assert (exchange.request_id, exchange.method, exchange.path, exchange.query) == (
        "order-66",
        "POST",
        "/classify",
        "top_k=1",
    )
    assert (exchange.client, exchange.scheme, exchange.server_address) == ("192.0.2.7", "http", "phiserve")
    assert (exchange.header("tracestate"), exchange.header("traceparent")) == ("a=1, b=2", None)
    assert not exchange.streaming


def test_an_exchange_that_is_cut_has_no_status(engine) -> None:
    """When the caller's task is cancelled before an answer, the observer hears of an error without a status."""
    observer = RecordingObserver()

    async def cut_off(scope, receive, send) -> None:
        raise asyncio.CancelledError

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        raise AssertionError(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/classify",
        "query_string": b"",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [],
    }

    async def scenario() -> None:
        with pytest.raises(asyncio.CancelledError):
            await HttpEnvelope(cut_off, lambda _: None, observer)(scope, receive, send)

    asyncio.run(scenario())
    assert [ending for _, ending in observer.ended] == [Ending(None, is_error=True, is_fault=False)]
