"""Clients over gRPC against servers that are away, silent, or something else; deadlines as they go on the wire."""

from __future__ import annotations

import socket

import pytest

from phiserve import ConnectionFailed, NotReady, PhiserveError, RetryPolicy, TimedOut, UnexpectedAnswer
from service import errors
from service.http_server import bind
from tests.fakes.engine import HELD, ScriptedEngine
from tests.fakes.flaky_server import flaky_server, hang_up
from tests.fakes.grpc_classifier import grpc_classifier, no_classifier
from tests.fakes.menus import MS
from tests.fakes.patience import RISING_S


def test_no_deadline_on_the_wire_stands_for_a_budget(engine, grpc_url, connect) -> None:
    """The server takes a call's deadline for its budget where none is named, so only a call that names one has it."""
    client = connect(grpc_url, grace_s=7, patience_s=50)
    client.classify(b"cat", budget_ms=2000)
    client.classify(b"cat")
    assert [call.options.budget_ns for call in engine.calls] == [2000 * MS, None]


@pytest.mark.parametrize("options", [{"budget_ms": 50}, {}, {"budget_ms": 1, "on_miss": "late"}], ids=str)
def test_silence_ends_with_grace_or_patience_and_frees_the_server(connect, options) -> None:
    """With a budget or without one the call ends here, and is cancelled there."""
    for bearable_s in RISING_S:
        engine = ScriptedEngine()
        with grpc_classifier(engine) as server:
            with pytest.raises(TimedOut):
                connect(server.url, grace_s=bearable_s, patience_s=bearable_s).classify(HELD, **options)
            if engine.held.is_set():  # the time was enough to reach the server
                assert engine.cancelled.wait(30)
                break
    assert len(engine.calls) == 1


def test_a_transient_refusal_is_sent_again_with_the_rest_of_the_budget(connect) -> None:
    """As over HTTP: an overload is waited out, and the second attempt asks for what is left."""
    engine = ScriptedEngine()
    refusals = [errors.Overloaded("full", retry_after_ns=30 * MS)]

    class Once(dict):
        def __contains__(self, _image: object) -> bool:
            return bool(refusals)

        def __getitem__(self, _image: object) -> Exception:
            return refusals.pop()

    engine.failures = Once()
    with grpc_classifier(engine) as server:
        assert connect(server.url).classify(b"cat", budget_ms=10_000).best.index == 281
    first, second = (call.options.budget_ns for call in engine.calls)
    assert first == 10_000 * MS
    assert 0 < second <= 10_000 * MS - 30 * MS


def test_nobody_listening_is_connection_failed(connect) -> None:
    """After the retries, and long before any budget."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        client = connect(f"grpc://127.0.0.1:{taken.getsockname()[1]}", retry=RetryPolicy(backoff_ms_initial=1))
        with pytest.raises(ConnectionFailed):
            client.classify(b"cat", budget_ms=60_000)


def test_a_server_that_comes_later_is_waited_for(connect) -> None:
    """What was not listening at first is found when it is."""
    with bind("127.0.0.1", 0) as taken:  # and not listening: kept, so that nobody else gets the port meanwhile
        port = taken.getsockname()[1]
        client = connect(f"grpc://127.0.0.1:{port}")
        with pytest.raises((ConnectionFailed, NotReady)):
            client.wait_until_ready(0.2)
        with grpc_classifier(ScriptedEngine(), port=port):
            client.wait_until_ready(30)
            assert client.classify(b"cat").best.index == 281


def test_a_server_of_something_else_is_an_unexpected_answer(connect) -> None:
    """A gRPC server without a classifier: the address is wrong, and another attempt would not help."""
    with no_classifier() as server, pytest.raises(UnexpectedAnswer, match="UNIMPLEMENTED"):
        connect(server.url).classify(b"cat")


def test_a_server_of_another_protocol_is_an_error_of_the_tree(connect) -> None:
    """Whatever listens there, it fails within the budget and the grace."""
    with flaky_server(*[hang_up] * 8) as server, pytest.raises(PhiserveError):
        connect(server.url.replace("http://", "grpc://"), grace_s=1).classify(b"cat", budget_ms=500)
