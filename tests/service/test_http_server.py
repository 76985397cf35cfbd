"""The port is taken, opened and closed when it should be: real sockets around a small application."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl

import pytest

from service.frontends.http_body import BEGAN_NS, RECEIVED_NS
from service.http_server import HttpServer, ListenError, bind
from service.tls import TlsFiles
from tests.fakes.pki import make_pki

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


async def echo(scope, receive, send) -> None:
    """Answers with the body, once it is there."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def port_of(listener: socket.socket) -> int:
    return listener.getsockname()[1]


def test_a_port_is_closed_until_the_start_and_open_right_after_it() -> None:
    """Callers are refused while the port is only taken; the first that connects after `start` is accepted."""

    async def run() -> bytes:
        server = HttpServer(echo, bind("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await connect(server)
        await server.start()
        # Blocking on purpose: nothing of the event loop runs between `start` and this.
        host, port = server.url.removeprefix("http://").rsplit(":", 1)
        socket.create_connection((host, int(port)), 1).close()
        reader, writer = await connect(server)
        writer.write(REQUEST + b"body")
        answer = await read_answer(reader)
        writer.close()
        await server.stop(5)
        return answer

    assert asyncio.run(run()).endswith(b"\r\n\r\nbody")


def test_an_exchange_knows_when_it_was_read() -> None:
    """Its first byte and its last, by the given clock, of each exchange on a connection."""
    noted: list[tuple[object, object]] = []

    async def note(scope, receive, send) -> None:
        await echo(scope, receive, send)
        noted.append((scope[BEGAN_NS], scope[RECEIVED_NS]))

    async def run() -> None:
        server = HttpServer(note, bind("127.0.0.1", 0), now_ns=itertools.count(1).__next__)
        await server.start()
        reader, writer = await connect(server)
        for _ in range(2):
            writer.write(REQUEST)
            await asyncio.sleep(0)
            writer.write(b"body")
            await read_answer(reader)
        writer.close()
        await server.stop(5)

    asyncio.run(run())
    assert noted == [(1, 2), (3, 4)]


def test_a_silent_connection_is_closed_after_its_time() -> None:
    """After an answer a connection may be used again, and is closed by the server once it was silent for too long."""

    async def ask_twice(keepalive_s: int) -> tuple[bytes, bytes]:
        server = HttpServer(echo, bind("127.0.0.1", 0), keepalive_s=keepalive_s)
        await server.start()
        reader, writer = await connect(server)
        try:
            for body in (b"one.", b"two."):
                writer.write(REQUEST + body)
                answer = await read_answer(reader)
            after = await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.close()
            await server.stop(5)
        return answer, after

    async def run() -> tuple[bytes, bytes]:
        try:
            return await ask_twice(1)
        except (asyncio.IncompleteReadError, ConnectionError):  # a busy machine was silent for that long itself
            return await ask_twice(10)

    answer, after = asyncio.run(run())
    assert answer.endswith(b"\r\n\r\ntwo.")
    assert after == b""


@pytest.mark.parametrize(("trusted", "caller"), [((), b"127.0.0.1"), (("127.0.0.0/8",), b"198.51.100.7")])
def test_a_trusted_proxy_says_who_calls(trusted, caller) -> None:
    """`X-Forwarded-For` counts from proxies that were named, and from nobody else on this machine."""

    async def who(scope, receive, send) -> None:
        body = scope["client"][0].encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def run() -> bytes:
        server = HttpServer(who, bind("127.0.0.1", 0), trusted_proxies=trusted)
        await server.start()
        reader, writer = await connect(server)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n")
        answer = await read_answer(reader)
        writer.close()
        await server.stop(5)
        return answer

    assert asyncio.run(run()).endswith(b"\r\n\r\n" + caller)


def test_a_port_in_use_is_refused_when_it_is_taken() -> None:
    """The error names the address, the reason and the flags that choose another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port_of(other)} \(Address already.*--port") as caught:
            bind("127.0.0.1", port_of(other))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "not a host"])
def test_an_address_that_is_not_ours_is_refused(host) -> None:
    """So is one that no interface has, and one that is no address."""
    with pytest.raises(ListenError, match="--host"):
        bind(host, 0)


def test_a_port_that_another_opened_meanwhile_is_refused_at_the_start() -> None:
    """Two may take the same port, but only one can open it: the other ends with the same error and no traceback."""

    async def run() -> None:
        ours = bind("127.0.0.1", 0)
        other = bind("127.0.0.1", port_of(ours))
        other.listen()
        with other, ours, pytest.raises(ListenError, match="Address already in use"):
            await HttpServer(echo, ours).start()

    asyncio.run(run())


def test_connections_end_with_their_next_answer_while_draining() -> None:
    """After `drain` a connection that was reused is closed once its answer is out, so no request is lost on it."""

    async def run() -> tuple[bytes, bytes, bytes]:
        server = HttpServer(echo, bind("127.0.0.1", 0))
        await server.start()
        reader, writer = await connect(server)
        writer.write(REQUEST + b"one.")
        first = await read_answer(reader)
        server.drain()
        writer.write(REQUEST + b"two.")
        second, rest = await read_answer(reader), await reader.read()
        writer.close()
        assert await server.stop(5)
        return first, second, rest

    first, second, rest = asyncio.run(run())
    assert b"connection: close" not in first.lower()
    assert b"connection: close" in second.lower()
    assert (first[-4:], second[-4:], rest) == (b"one.", b"two.", b"")


def test_a_request_that_arrives_in_time_is_answered_by_a_stopping_server() -> None:
    """Half a body at the stop, the other half within the bound: answered, and nothing had to be cut."""

    async def run() -> tuple[bytes, bool]:
        server = HttpServer(echo, bind("127.0.0.1", 0))
        await server.start()
        reader, writer = await connect(server)
        writer.write(REQUEST + b"ha")
        idle_reader, idle_writer = await connect(server)
        idle_writer.write(REQUEST + b"idle")
        await read_answer(idle_reader)
        stopping = asyncio.create_task(server.stop(20))
        assert await idle_reader.read() == b"", "idle connections end at once"
        writer.write(b"lf")
        answer = await read_answer(reader)
        writer.close()
        idle_writer.close()
        return answer, await stopping

    answer, by_themselves = asyncio.run(run())
    assert (answer[-4:], by_themselves) == (b"half", True)


def test_a_request_that_does_not_arrive_is_refused_within_the_bound() -> None:
    """A caller that stalls in the middle of its body is answered 503 and cannot keep the server from stopping."""

    async def run() -> tuple[bytes, bool]:
        server = HttpServer(echo, bind("127.0.0.1", 0))
        await server.start()
        reader, writer = await connect(server)
        writer.write(REQUEST + b"ha")
        other_reader, other_writer = await connect(server)
        other_writer.write(REQUEST + b"seen")  # answered, so the server has read what was sent before it
        await read_answer(other_reader)
        other_writer.close()
        by_themselves = await server.stop(0.05)
        answer = await reader.read()
        writer.close()
        return answer, by_themselves

    answer, by_themselves = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"application/problem+json" in answer
    assert by_themselves is False


def test_a_stop_can_be_hurried() -> None:
    """A second `stop` with less time overrules the first, as a second Ctrl-C does."""

    async def run() -> list[bool]:
        server = HttpServer(echo, bind("127.0.0.1", 0))
        await server.start()
        reader, writer = await connect(server)
        writer.write(REQUEST + b"ha")
        idle_reader, idle_writer = await connect(server)
        idle_writer.write(REQUEST + b"seen")  # answered, so the server has read what was sent before it
        await read_answer(idle_reader)
        first = asyncio.create_task(server.stop(1000))
        assert await idle_reader.read() == b"", "the first stop is under way"
        idle_writer.close()
        second = await server.stop(0.05)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        return [second, await first]

    assert asyncio.run(run()) == [False, True]


def test_an_ipv6_address_makes_a_url() -> None:
    """The host of a URL is in brackets where it has colons."""
    try:
        listener = bind("::1", 0)
    except ListenError:
        pytest.skip("no IPv6 here")
    with listener:
        assert HttpServer(echo, listener).url == f"http://[::1]:{port_of(listener)}"


@pytest.mark.parametrize("asks", [False, True], ids=["TLS", "mTLS"])
def test_a_secure_port_lets_in_whom_it_should(tmp_path, asks) -> None:
    """Callers that trust its certificate; where clients must have one too, those that show one, and no others."""
    pki = make_pki(tmp_path)
    files = TlsFiles(pki.cert, pki.key, pki.ca if asks else None)

    async def ask(server: HttpServer, *, shows: bool) -> bytes:
        host, port = server.url.removeprefix("https://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=pki.trusting(shows=shows))
        try:
            writer.write(REQUEST + b"body")
            return await read_answer(reader)
        finally:
            writer.transport.abort()

    async def run() -> None:
        server = HttpServer(echo, bind("127.0.0.1", 0), files)
        await server.start()
        assert (await ask(server, shows=True)).endswith(b"\r\n\r\nbody")
        if asks:
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await ask(server, shows=False)
        else:
            assert (await ask(server, shows=False)).endswith(b"\r\n\r\nbody")
        await server.stop(5)

    asyncio.run(run())
