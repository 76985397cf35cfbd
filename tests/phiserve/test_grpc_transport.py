"""How calls are spread where a name has several addresses, as a headless service of a cluster has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from phiserve.address import Address, TlsFiles
from phiserve.call_options import CallOptions
from phiserve.grpc_transport import AsyncGrpcTransport, GrpcTransport
from phiserve.retry import NS_PER_S, Send
from tests.fakes.engine import ScriptedEngine
from tests.fakes.grpc_classifier import grpc_classifier

SEND = Send(budget_ns=None, timeout_ns=20 * NS_PER_S)
CALLS_MAX = 500


@pytest.fixture
def engines() -> tuple[ScriptedEngine, ScriptedEngine]:
    return ScriptedEngine(), ScriptedEngine()


@pytest.fixture
def address(engines) -> Iterator[Address]:
    """Both servers under one name, as a resolver gives it to the channel."""
    first, second = (grpc_classifier(engine) for engine in engines)
    with first as one, second as other:
        targets = ",".join(server.url.removeprefix("grpc://") for server in (one, other))
        yield Address("grpc://phiserve", is_grpc=True, is_secure=False, authority=f"ipv4:{targets}")


def calls(engines: tuple[ScriptedEngine, ScriptedEngine]) -> list[int]:
    return [len(engine.calls) for engine in engines]


def assert_in_turn(before: list[int], after: list[int]) -> None:
    assert [new - old for old, new in zip(before, after, strict=True)] == [5, 5]


def test_calls_go_in_turn_to_every_address(engines, address) -> None:
    """Once both servers are connected, each gets every second call of the blocking transport."""
    transport = GrpcTransport(address, TlsFiles())
    while not all(calls(engines)):
        transport.classify(b"cat", CallOptions(), SEND)
        assert sum(calls(engines)) < CALLS_MAX, "one server gets all calls"
    before = calls(engines)
    for _ in range(10):
        transport.classify(b"cat", CallOptions(), SEND)
    transport.close()
    assert_in_turn(before, calls(engines))


def test_calls_on_asyncio_go_in_turn_to_every_address(engines, address) -> None:
    """So do those of the transport for asyncio."""

    async def run() -> None:
        transport = AsyncGrpcTransport(address, TlsFiles())
        while not all(calls(engines)):
            await transport.classify(b"cat", CallOptions(), SEND)
            assert sum(calls(engines)) < CALLS_MAX, "one server gets all calls"
        before = calls(engines)
        for _ in range(10):
            await transport.classify(b"cat", CallOptions(), SEND)
        await transport.close()
        assert_in_turn(before, calls(engines))

    asyncio.run(run())
