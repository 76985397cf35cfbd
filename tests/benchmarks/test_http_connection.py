"""The generator's client against real sockets: reuse, split answers, and every way a connection can fail."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.http_connection import ConnectionFailed, ConnectionPool, get_bytes, loopback_address, post_bytes
from tests.benchmarks.http_server import ok, scripted


@pytest.mark.parametrize("url", ["http://127.0.0.1:80", "http://localhost:8000", "http://[::1]:9"])
def test_this_machine_may_be_loaded(url):
    """Loopback addresses are taken."""
    assert loopback_address(url).port == int(url.rpartition(":")[2])


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1:80", "http://example.org:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://0.0.0.0:80"],
)
def test_no_other_machine_may_be_loaded(url):
    """Anything but http, a port and a loopback address is refused, with an example of what is taken."""
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:8000"):
        loopback_address(url)


def exchange(respond, *, times=1, timeout_s=5.0):
    """`times` exchanges one after the other; their answers and the server."""

    async def run():
        async with scripted(respond) as (url, server):
            pool = ConnectionPool(loopback_address(url), 4)
            request = post_bytes(pool.address, "/classify?budget_ms=5", b"picture", "image/jpeg")
            answers = [await pool.exchange(request, timeout_s) for _ in range(times)]
            pool.close()
            return answers, server

    return asyncio.run(run())


def test_a_connection_is_used_again():
    """Requests one after the other share a connection, and bodies arrive whole."""

    async def respond(target):
        assert target == b"/classify?budget_ms=5"
        return [ok(b"one")]

    answers, server = exchange(respond, times=3)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"one")] * 3
    assert server.connections == 1
    assert server.bodies == [b"picture"] * 3


def test_an_answer_may_come_in_pieces():
    """Head and body are put together wherever they were cut."""
    whole = ok(b"x" * 1000, status=504)

    async def respond(_):
        return [whole[:7], whole[7:40], whole[40:600], whole[600:]]

    (answer,), _ = exchange(respond)
    assert (answer.status, answer.body) == (504, b"x" * 1000)


def test_a_connection_that_the_server_ends_is_not_used_again():
    """After `Connection: close` the next request gets a new connection."""

    async def respond(_):
        return [ok(extra=b"Connection: close\r\n")]

    _, server = exchange(respond, times=2)
    assert server.connections == 2


@pytest.mark.parametrize(
    "pieces",
    [[b""], [ok(b"long")[:-2], b""], [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], [b"hello\r\n\r\n"]],
    ids=["closed", "cut off", "chunked", "no HTTP"],
)
def test_what_is_no_answer_is_an_error(pieces):
    """A connection that ends early, or an answer without a length, is `ConnectionFailed`."""

    async def respond(_):
        return pieces

    with pytest.raises(ConnectionFailed):
        exchange(respond)


def test_an_answer_that_does_not_come_is_given_up():
    """After the timeout the exchange ends and its place in the pool is free."""

    async def run():
        released = asyncio.Event()

        async def respond(_):
            await released.wait()
            return [b""]

        async with scripted(respond) as (url, _):
            pool = ConnectionPool(loopback_address(url), 1)
            with pytest.raises(TimeoutError):
                await pool.exchange(get_bytes(pool.address, "/"), 0.01)
            assert not pool.is_full
            released.set()

    asyncio.run(run())
