"""Every response carries the request's id, given or made."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import NotReady
from service.frontends.http_envelope import HttpEnvelope
from service.frontends.request_ids import accepted_request_id

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
