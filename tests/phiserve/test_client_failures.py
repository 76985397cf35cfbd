"""Clients against servers that crash, hang up, trickle or are something else: retried where safe, bounded always."""

from __future__ import annotations

import socket
import time
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from phiserve import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidImage,
    InvalidUrl,
    NotReady,
    Overloaded,
    RetryPolicy,
    TimedOut,
    UnexpectedAnswer,
)
from phiserve.http_wire import ANSWER_BYTES_MAX
from service.errors import DeadlineExceeded as ServerDeadlineExceeded
from service.errors import InvalidImage as ServerInvalidImage
from service.errors import NotReady as ServerNotReady
from service.errors import Overloaded as ServerOverloaded
from service.frontends import http_problems, rest_answer
from tests.fakes.engine import classification
from tests.fakes.flaky_server import be_silent, flaky_server, hang_up, http_answer, reset, say, trickle
from tests.fakes.menus import MS
from tests.fakes.patience import RISING_S

ANSWER = say(http_answer(200, orjson.dumps(rest_answer.answer(classification())), b"Connection: close"))
QUICK = RetryPolicy(backoff_ms_initial=1)


def problem(error):
    """A deed: answer with `error` as the server writes it."""
    written = http_problems.problem(error)
    return say(http_answer(written["status"], orjson.dumps(written), b"Connection: close"))


def budgets_ms(requests: list[bytes]) -> list[float]:
    targets = [request.split(b" ")[1].decode() for request in requests]
    return [float(parse_qs(urlsplit(target).query)["budget_ms"][0]) for target in targets]


HALF = say(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
TRANSIENT = {
    "reset": reset,
    "hung up": hang_up,
    "half an answer": HALF,
    "no HTTP": say(b"220 mail.example ESMTP\r\n"),
    "draining": problem(ServerNotReady("draining")),
    "overloaded": problem(ServerOverloaded("full", retry_after_ns=MS)),
    "a proxy without a server": say(http_answer(503, b"<html>", b"Connection: close")),
}


@pytest.mark.parametrize("deed", TRANSIENT.values(), ids=TRANSIENT)
def test_what_is_transient_is_sent_again_with_the_rest_of_the_budget(connect, deed) -> None:
    """The second attempt brings the same image and names less budget than the first, which named it whole."""
    with flaky_server(deed, ANSWER) as server:
        assert connect(server.url, retry=QUICK).classify(b"cat", budget_ms=10_000).best.index == 281
    first, second = budgets_ms(server.requests)
    assert first == 10_000
    assert 0 < second < 10_000
    assert all(request.endswith(b"\r\n\r\ncat") for request in server.requests)


FINAL = {
    "a bad image": (problem(ServerInvalidImage("cut off")), InvalidImage),
    "a missed budget": (problem(ServerDeadlineExceeded("tight", smallest_feasible_budget_ns=9 * MS)), DeadlineExceeded),
    "a bad gateway": (say(http_answer(502, b"<html>", b"Connection: close")), UnexpectedAnswer),
    "another service": (say(http_answer(200, b'{"ok": true}', b"Connection: close")), UnexpectedAnswer),
    "a redirect": (
        say(http_answer(307, b"", b"Location: http://127.0.0.1:9/", b"Connection: close")),
        UnexpectedAnswer,
    ),
}


@pytest.mark.parametrize("name", FINAL)
def test_what_is_final_is_sent_once(connect, name) -> None:
    """A second attempt, for which an answer is ready, is never made."""
    deed, error = FINAL[name]
    with flaky_server(deed, ANSWER) as server, pytest.raises(error):
        connect(server.url, retry=QUICK).classify(b"cat", budget_ms=10_000)
    assert len(server.requests) == 1


def test_attempts_are_counted(connect) -> None:
    """Three attempts and no fourth, though an answer would have come; the last failure is raised."""
    draining = problem(ServerNotReady("draining"))
    with flaky_server(reset, reset, draining, ANSWER) as server, pytest.raises(NotReady, match="draining"):
        connect(server.url, retry=QUICK).classify(b"cat")
    assert len(server.requests) == 3


def test_retries_can_be_switched_off(connect) -> None:
    """With one attempt the first failure is the caller's."""
    with flaky_server(reset, ANSWER) as server, pytest.raises(ConnectionFailed):
        connect(server.url, retry=RetryPolicy(attempts_max=1)).classify(b"cat")
    assert len(server.requests) == 1


def test_an_overload_beyond_the_budget_is_raised_at_once(connect) -> None:
    """The caller learns when to come again instead of waiting for a budget that would be gone."""
    overloaded = problem(ServerOverloaded("full", retry_after_ns=700 * MS))
    with flaky_server(overloaded, ANSWER) as server, pytest.raises(Overloaded) as raised:
        connect(server.url).classify(b"cat", budget_ms=500)
    assert raised.value.retry_after_s == 0.7
    assert len(server.requests) == 1


@pytest.mark.parametrize("deed", [be_silent, trickle], ids=["silence", "a trickle"])
def test_silence_and_trickles_end_with_the_grace(connect, deed) -> None:
    """Neither a server that says nothing nor one that never stops holds a call beyond budget and grace."""
    for grace_s in RISING_S:
        with flaky_server(deed, ANSWER) as server:
            started_s = time.monotonic()
            with pytest.raises(TimedOut, match=server.url):
                connect(server.url, grace_s=grace_s).classify(b"cat", budget_ms=50)
            assert time.monotonic() - started_s >= grace_s + 0.05
        if server.requests:  # the time was enough to send it, and silence was what ended it
            break
    assert len(server.requests) == 1


def test_patience_bounds_a_call_without_a_budget(connect) -> None:
    """`patience_s` is for calls that name none, and for those that may be late."""
    for options in ({}, {"budget_ms": 1, "on_miss": "late"}):
        with flaky_server(be_silent) as server, pytest.raises(TimedOut):
            connect(server.url, patience_s=0.2, grace_s=0).classify(b"cat", **options)


def test_an_endless_answer_is_not_read_to_its_end(connect) -> None:
    """What is larger than any answer is another service's, and costs no more memory than the bound."""

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(2 * ANSWER_BYTES_MAX // 2**20):
            connection.sendall(bytes(2**20))

    with flaky_server(endless) as server, pytest.raises(UnexpectedAnswer, match="more than"):
        connect(server.url).classify(b"cat")


def test_a_connection_that_the_server_closed_is_replaced_unnoticed(connect) -> None:
    """The second call finds the kept connection gone and is answered over another one."""
    kept = say(http_answer(200, orjson.dumps(rest_answer.answer(classification()))))
    with flaky_server(kept, kept) as server:
        client = connect(server.url, retry=QUICK)
        assert [client.classify(b"cat").batch_size for _ in range(2)] == [3, 3]
    assert len(server.requests) == 2


def test_nobody_listening_is_connection_failed(connect) -> None:
    """After the retries, with the address in the message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=url):
            connect(url, retry=QUICK).classify(b"cat")


def test_waiting_ends_when_the_server_is_there(connect) -> None:
    """Refusals to serve yet, proxies without a server and resets are waited out."""
    ready = say(http_answer(200, b'{"status": "ready"}', b"Connection: close"))
    starting = problem(ServerNotReady("the server is starting"))
    proxy = say(http_answer(503, b"no upstream", b"Connection: close"))
    with flaky_server(reset, starting, proxy, ready) as server:
        connect(server.url).wait_until_ready(30)
    assert len(server.requests) == 4
    assert all(b"GET /readyz " in request for request in server.requests)


def test_waiting_gives_up_with_the_last_reason(connect) -> None:
    """A server that is not there in time is said to be not there, and why."""
    starting = problem(ServerNotReady("the server is starting"))
    for timeout_s in RISING_S:
        with flaky_server(*[starting] * 50) as server, pytest.raises(NotReady, match="starting"):
            connect(server.url).wait_until_ready(timeout_s)
        if len(server.requests) > 1:  # the time was enough to ask again
            break
    assert len(server.requests) > 1


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("127.0.0.1:8000", "http://"),
        ("ftp://127.0.0.1", "http://"),
        ("http://", "host"),
        ("http://[bad", "http://"),
        ("http://127.0.0.1:99999", "http://"),
        ("http://user:word@127.0.0.1", "credentials"),
        ("http://127.0.0.1/?budget_ms=3", "query"),
        ("grpc://127.0.0.1/classify", "path"),
        ("http://127.0.0.1 /", "http://"),
    ],
)
def test_what_is_no_address_is_refused_when_it_is_given(connect, url, hint) -> None:
    """Before anything is sent, with what an address looks like."""
    with pytest.raises(InvalidUrl, match=hint):
        connect(url)
