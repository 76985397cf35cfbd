"""The REST API behind a real HTTP server: connections survive errors, and bounds hold while a body streams."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from service.errors import DeadlineExceeded, InvalidImage
from service.frontends import http_problems
from tests.fakes.http import running_server

TIMEOUT_S = 20


@pytest.fixture
def port(app, engine) -> Iterator[int]:
    engine.failures[b"broken"] = InvalidImage("cut off")
    engine.failures[b"slow"] = DeadlineExceeded("too late", smallest_feasible_budget_ns=1)
    with running_server(app) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def problem_in(answer: bytes) -> dict[str, object]:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_connection_survives_every_kind_of_error(port) -> None:
    """After each refusal, read or unread body, the same connection serves the next request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    requests = [
        ("POST", "/classify", b"broken", {}, 400),
        ("POST", "/classify?top_k=0", b"x" * 900, {}, 422),
        ("POST", "/classify?budget=1", b"x" * 200_000, {}, 422),
        ("POST", "/classify", b"x" * 900, {"Content-Type": "text/plain"}, 415),
        ("POST", "/classify", b"", {}, 400),
        ("POST", "/classify", b"slow", {}, 504),
        ("POST", "/nowhere", b"x" * 900, {}, 404),
        ("PUT", "/classify", b"x" * 900, {}, 405),
        ("POST", "/classify", b"good", {}, 200),
    ]
    try:
        connection.connect()
        sock = connection.sock
        for method, path, body, headers, status in requests:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
            assert (response.status, json.loads(content) != {}) == (status, True)
            assert connection.sock is sock, f"the connection was closed after {status}"
    finally:
        connection.close()


def test_a_declared_length_is_refused_before_the_body_is_sent(port, engine, monkeypatch) -> None:
    """A client that asks first is told 413 instead of 100 Continue, and the connection ends."""
    monkeypatch.setattr(http_problems, "LINGER_S", 0.05)
    with connect(port) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer
    assert problem_in(answer)["status"] == 413
    assert engine.calls == []


def test_an_endless_body_is_cut_at_the_bound(port, engine, monkeypatch) -> None:
    """A chunked body without an end is answered 413 once it is over the bound, and the connection ends."""
    monkeypatch.setattr(http_problems, "LINGER_S", 0.05)
    with connect(port) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"1f4\r\n" + b"x" * 500 + b"\r\n")
        connection.sendall(b"1f5\r\n" + b"x" * 501 + b"\r\n")
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert engine.calls == []


def test_a_client_that_reads_late_still_gets_its_refusal(port, monkeypatch) -> None:
    """One that sends megabytes before it reads is not cut off by a reset: the refusal arrives whole."""
    monkeypatch.setattr(http_problems, "LINGER_S", TIMEOUT_S)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/classify", b"x" * 8_000_000)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["status"]) == (413, 413)
    finally:
        connection.close()


def test_a_chunked_body_within_the_bound_is_served(port, engine) -> None:
    """A client that does not know its length in advance is served like any other."""
    with connect(port) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\npic\r\n4\r\nture\r\n0\r\n\r\n"
        )
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert [call.image for call in engine.calls] == [b"picture"]


def test_pipelined_requests_are_answered_in_order(port, engine) -> None:
    """Requests sent without waiting come back in order, the bad one between two good ones included."""
    one = b"POST /classify HTTP/1.1\r\nHost: x\r\nX-Request-ID: %s\r\nContent-Length: 6\r\nConnection: %s\r\n\r\n%s"
    keep, close = b"keep-alive", b"close"
    with connect(port) as connection:
        connection.sendall(
            one % (b"first", keep, b"image1") + one % (b"second", keep, b"broken") + one % (b"third", close, b"image3")
        )
        answer = read_to_end(connection)
    order = [answer.index(b"x-request-id: " + name) for name in (b"first", b"second", b"third")]
    assert order == sorted(order)
    assert [answer.count(b"HTTP/1.1 200 "), answer.count(b"HTTP/1.1 400 ")] == [2, 1]
