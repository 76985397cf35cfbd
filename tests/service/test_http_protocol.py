"""What is answered at once, and what reaches the application all the same: real sockets, a small application."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from starlette.responses import Response

from service.frontends.http_at_once import Answering
from service.http_server import HttpServer, bind

T = TypeVar("T")

WAIT_S = 20

begun: ContextVar[str] = ContextVar("begun", default="never")


@dataclass
class Doorman:
    """Takes what is sent to /taken, and refuses a body that begins with "no"; one of "trouble" is a bug of its own.

    One that begins with "later" is answered once `ready` is set, with what is found in its context.
    """

    began: asyncio.Event = field(default_factory=asyncio.Event)
    working: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[tuple[str, bytes]] = field(default_factory=list)

    def takes(self, scope) -> bool:
        return scope["path"] == "/taken"

    def begin(self, scope) -> None:
        begun.set("at the head")
        self.began.set()

    def answer(self, scope, body: bytes) -> Response | Answering | None:
        self.seen.append((scope["client"][0], body))
        if body == b"trouble":
            raise ValueError(body)
        if body.startswith(b"later"):
            return self._later(body)
        return Response(b"refused " + body[:8], 504) if body.startswith(b"no") else None

    async def _later(self, body: bytes) -> Response:
        self.working.set()
        try:
            await self.ready.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return Response(body[:8] + f", begun {begun.get()}".encode())


async def application(scope, receive, send) -> None:
    """Answers with the length of the body, and with what it finds in its context."""
    length = 0
    while (message := await receive())["type"] == "http.request":
        length += len(message["body"])
        if not message["more_body"]:
            break
    body = f"{length} bytes, begun {begun.get()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def post(body: bytes, path: str = "/taken", fields: str = "", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head in lower case, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), head, await reader.readexactly(length)


Scenario = Callable[[asyncio.StreamReader, asyncio.StreamWriter, HttpServer, Doorman], Awaitable[T]]


def served(scenario: Scenario[T], app=application, trusted=()) -> T:
    """What `scenario` comes to on a connection to a server with a doorman."""

    async def run() -> T:
        doorman = Doorman()
        now_ns = itertools.count(1).__next__
        server = HttpServer(app, bind("127.0.0.1", 0), now_ns=now_ns, at_once=doorman, trusted_proxies=trusted)
        await server.start()
        host, port = server.url.removeprefix("http://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.timeout(WAIT_S):
                return await scenario(reader, writer, server, doorman)
        finally:
            writer.close()
            await server.stop(5)

    return asyncio.run(run())


async def no_application(scope, receive, send) -> None:
    """Is never told of anything."""
    raise AssertionError("the application was told")


def test_what_takes_time_is_answered_without_the_application() -> None:
    """In the exchange's own context; and the connection takes the next request."""

    async def scenario(reader, writer, server, doorman):
        answers = []
        for body in (b"later 1", b"later 2"):
            writer.write(post(body))
            await doorman.working.wait()
            doorman.ready.set()
            answers.append(await read_answer(reader))
        return answers

    (status, head, body), second = served(scenario, no_application)
    assert (status, body) == (200, b"later 1, begun at the head")
    assert head.startswith(b"http/1.1 200 ok\r\ndate: ")
    assert b"connection: close" not in head
    assert second[2] == b"later 2, begun at the head"


def test_nobody_works_on_for_a_caller_that_left() -> None:
    """What comes to its answer is cancelled."""

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"later"))
        await doorman.working.wait()
        writer.close()
        await doorman.stopped.wait()

    served(scenario, no_application)


def test_an_answer_that_takes_time_is_the_last_of_its_connection_while_the_server_drains() -> None:
    """It says so, and the connection ends."""

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"later"))
        await doorman.working.wait()
        server.drain()
        doorman.ready.set()
        return await read_answer(reader), await reader.read()

    (status, head, _), rest = served(scenario, no_application)
    assert status == 200
    assert head.count(b"connection: close") == 1
    assert rest == b""


def test_a_server_that_ends_waits_for_answers_that_take_time() -> None:
    """As for those of the application, and then ends by itself."""

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"later"))
        await doorman.working.wait()
        stopping = asyncio.create_task(server.stop(WAIT_S))
        asyncio.get_running_loop().call_soon(doorman.ready.set)  # after it has begun to stop
        return (await read_answer(reader))[0], await stopping

    assert served(scenario, no_application) == (200, True)


def test_what_is_cut_gets_an_answer_all_the_same() -> None:
    """503, with what would have worked, where the server ends before the answer is there."""

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"later"))
        await doorman.working.wait()
        ended_by_itself = await server.stop(0.05)
        return await read_answer(reader), ended_by_itself, doorman.stopped.is_set()

    (status, head, body), ended_by_itself, stopped = served(scenario, no_application)
    assert (status, ended_by_itself, stopped) == (503, False, True)
    assert b"another replica" in body
    assert b"connection: close" in head


def test_what_is_refused_never_reaches_the_application() -> None:
    """Answered with status, fields and body, and the connection takes the next request; a date, as every answer has."""

    async def scenario(reader, writer, server, doorman):
        answers = []
        for body in (b"no", b"not this one either"):
            writer.write(post(body))
            answers.append(await read_answer(reader))
        return answers

    (first, head, body), second = served(scenario, no_application)
    assert (first, body) == (504, b"refused no")
    assert head.startswith(b"http/1.1 504 gateway timeout\r\ndate: ")
    assert b"connection: close" not in head
    assert (second[0], second[2]) == (504, b"refused not this")


def test_what_is_not_refused_is_the_applications() -> None:
    """It gets the whole body, in the context in which the exchange began; so does what is not taken, in its own."""

    async def scenario(reader, writer, server, doorman):
        answers = []
        for path in ("/taken", "/other"):
            writer.write(post(b"welcome", path))
            answers.append((await read_answer(reader))[2])
        return answers, doorman.seen

    answers, seen = served(scenario)
    assert answers == [b"7 bytes, begun at the head", b"7 bytes, begun never"]
    assert seen == [("127.0.0.1", b"welcome")]


def test_a_body_in_many_pieces_is_judged_whole() -> None:
    """One of more than the server buffers for an application is read to its end before it is judged."""
    large = b"no" + bytes(300_000)

    async def scenario(reader, writer, server, doorman):
        writer.write(post(large))
        refused = await read_answer(reader)
        writer.write(post(b"w" * len(large)))
        return refused[0], (await read_answer(reader))[2], [len(body) for _, body in doorman.seen]

    assert served(scenario) == (504, b"300002 bytes, begun at the head", [300_002, 300_002])


def test_pipelined_requests_are_answered_in_their_order() -> None:
    """Whichever of them is refused, and whoever answers them."""
    bodies = [b"no 1", b"welcome", b"no 2", b"later", b"no 3", b"later", b"come in"]

    async def scenario(reader, writer, server, doorman):
        doorman.ready.set()
        writer.write(b"".join(map(post, bodies)))
        return [(await read_answer(reader))[0] for _ in bodies]

    statuses = served(scenario)
    assert statuses[0] == 504
    assert [statuses[at] for at in (1, 3, 5, 6)] == [200] * 4


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"no", fields="Connection: close\r\n"),
        post(b"no", fields="Expect: 100-continue\r\n"),
    ],
    ids=["closing", "expecting"],
)
def test_what_needs_more_than_an_answer_is_the_applications(request_bytes) -> None:
    """A connection that is to be closed, or a caller that waits to be asked for its body."""

    async def scenario(reader, writer, server, doorman):
        writer.write(request_bytes)
        received = await reader.readuntil(b"2 bytes, begun never")
        return received, doorman.seen

    received, seen = served(scenario)
    assert b"HTTP/1.1 200 OK" in received
    assert seen == []


def test_trouble_at_the_door_is_the_applications_to_answer() -> None:
    """No connection is left without an answer."""

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"trouble"))
        return (await read_answer(reader))[2]

    assert served(scenario) == b"7 bytes, begun at the head"


def test_a_caller_that_leaves_early_is_told_of_to_the_application() -> None:
    """As it would be without anybody at the door: what began has an end."""
    ends: list[str] = []
    over = asyncio.Event()

    async def note(scope, receive, send) -> None:
        ends.append((await receive())["type"])
        over.set()

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"ha", length=4))
        await doorman.began.wait()
        assert ends == [], "the application waits for the whole"
        writer.close()
        await over.wait()

    served(scenario, note)
    assert ends == ["http.disconnect"]


def test_a_draining_server_tells_the_application_of_everything() -> None:
    """What is being read goes on to it, and what comes is its own: it says in its answer that the connection ends."""

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"no", length=4))
        await doorman.began.wait()
        server.drain()
        writer.write(b"no")
        return await read_answer(reader), doorman.seen

    (status, head, body), seen = served(scenario)
    assert (status, body, seen) == (200, b"4 bytes, begun at the head", [])
    assert b"connection: close" in head


def test_who_calls_is_known_at_the_door_behind_a_trusted_proxy() -> None:
    """As it is to the application: fairness goes by it."""

    async def scenario(reader, writer, server, doorman):
        writer.write(post(b"no", fields="X-Forwarded-For: 198.51.100.7\r\n"))
        await read_answer(reader)
        return doorman.seen

    assert served(scenario, trusted=("127.0.0.0/8",)) == [("198.51.100.7", b"no")]
