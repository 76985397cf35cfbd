"""How exchanges end when the server does, over a scripted application."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.frontends.http_drain import HttpDrain

SCOPE = {"type": "http", "method": "POST", "path": "/classify", "headers": []}


class Exchange:
    """One exchange with `HttpDrain` around `app`, whose caller sends nothing; records what is answered."""

    def __init__(self, drain: HttpDrain, scope: dict[str, Any] | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.task = asyncio.create_task(drain(scope or SCOPE | {"state": {}}, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        return await asyncio.Event().wait()

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


async def loop_turn() -> None:
    """Let everything that is ready run once."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


async def answering(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-mine", b"1")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def reading(scope, receive, send) -> None:
    scope["state"]["request_id"] = "order-66"
    await receive()


def test_answers_end_their_connection_once_the_drain_has_begun() -> None:
    """Before, an answer is passed on as it is; after, it says that the connection ends, beside its own headers."""

    async def run() -> list[dict[str, str]]:
        drain = HttpDrain(answering)
        before = Exchange(drain)
        await before.task
        drain.begin()
        after = Exchange(drain)
        await after.task
        return [before.headers, after.headers]

    before, after = asyncio.run(run())
    assert before == {"x-mine": "1"}
    assert after == {"x-mine": "1", "connection": "close"}


def test_an_answer_under_way_when_the_drain_begins_says_so_too() -> None:
    """What counts is the moment the answer starts and not the moment the request came."""

    async def run() -> dict[str, str]:
        ready = asyncio.Event()

        async def waiting(scope, receive, send) -> None:
            await ready.wait()
            await answering(scope, receive, send)

        drain = HttpDrain(waiting)
        exchange = Exchange(drain)
        drain.begin()
        ready.set()
        await exchange.task
        return exchange.headers

    assert asyncio.run(run())["connection"] == "close"


def test_a_body_that_never_arrives_is_answered_when_it_is_cut() -> None:
    """The caller gets 503 as a problem with its own request id, and the connection ends."""

    async def run() -> Exchange:
        drain = HttpDrain(reading)
        exchange = Exchange(drain)
        await loop_turn()
        drain.cut()
        await exchange.task
        return exchange

    exchange = asyncio.run(run())
    assert exchange.status == 503
    assert exchange.headers["connection"] == "close"
    assert exchange.headers["x-request-id"] == "order-66"
    problem = json.loads(exchange.sent[1]["body"])
    assert problem["type"] == "/problems/not-ready"
    assert problem["instance"].endswith("order-66")
    assert "another replica" in problem["detail"]


def test_half_an_answer_is_not_followed_by_another() -> None:
    """Where the answer has started, a cut ends the exchange and sends nothing more."""

    async def run() -> list[dict[str, Any]]:
        started = asyncio.Event()

        async def stalling(scope, receive, send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            started.set()
            await receive()

        drain = HttpDrain(stalling)
        exchange = Exchange(drain)
        await started.wait()
        drain.cut()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        return exchange.sent

    assert [message["type"] for message in asyncio.run(run())] == ["http.response.start"]


def test_cancellations_from_elsewhere_are_passed_on() -> None:
    """Without a cut a cancelled exchange is just that: nothing is answered in its name."""

    async def run() -> list[dict[str, Any]]:
        started = asyncio.Event()

        async def waiting(scope, receive, send) -> None:
            started.set()
            await receive()

        exchange = Exchange(HttpDrain(waiting))
        await started.wait()
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        return exchange.sent

    assert asyncio.run(run()) == []


def test_ended_exchanges_are_forgotten() -> None:
    """A cut touches only what is in progress: a task that served an exchange earlier goes on with its life."""

    async def run() -> str:
        drain, sent = HttpDrain(answering), asyncio.Queue()

        async def connection() -> str:
            await drain(SCOPE | {"state": {}}, asyncio.Event().wait, sent.put)
            drain.cut()
            await loop_turn()  # where a cancellation would arrive
            return "went on"

        return await asyncio.create_task(connection())

    assert asyncio.run(run()) == "went on"


def test_other_protocols_pass_through() -> None:
    """What is not HTTP is none of its business."""

    async def run() -> list[dict[str, Any]]:
        async def closing(scope, receive, send) -> None:
            await send({"type": "websocket.close"})

        drain = HttpDrain(closing)
        drain.begin()
        exchange = Exchange(drain, {"type": "websocket"})
        await exchange.task
        return exchange.sent

    assert asyncio.run(run()) == [{"type": "websocket.close"}]
