"""An observer hears of every call of our services, in the call's own context, and of no other."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from phiserve.v1 import classifier_pb2 as pb
from service.errors import DeadlineExceeded, InvalidImage
from service.exchange import Ending
from tests.fakes.engine import HELD
from tests.fakes.exchanges import RecordingObserver
from tests.fakes.grpc_server import GrpcScenario, Served, frame

METHOD = "/phiserve.v1.Classifier/"
TIMEOUT_S = 20


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def scenario(observer) -> GrpcScenario:
    return GrpcScenario(observer=observer)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, Ending("OK", is_error=False, is_fault=False)),
        (InvalidImage("because"), Ending("INVALID_ARGUMENT", is_error=True, is_fault=False)),
        (DeadlineExceeded("because"), Ending("DEADLINE_EXCEEDED", is_error=True, is_fault=True)),
        (ZeroDivisionError(), Ending("INTERNAL", is_error=True, is_fault=True)),
    ],
)
def test_an_observer_hears_how_each_call_ended(scenario, observer, error, ending) -> None:
    """The status that the caller gets is the one that is told, with whose fault it was."""
    if error is not None:
        scenario.engine.failures[b"picture"] = error

    async def run(served: Served) -> None:
        call = served.stub.Classify(pb.ClassifyRequest(image=b"picture"))
        assert (await call.code()).name == ending.status

    scenario.run(run)
    assert [(exchange.path, found) for exchange, found in observer.ended] == [(METHOD + "Classify", ending)]


def test_an_observer_gets_what_the_call_says(scenario, observer) -> None:
    """Request id, peer, listening address and metadata are there; entries of one name are joined."""

    async def run(served: Served) -> None:
        metadata = (("x-request-id", "order-66"), ("tracestate", "a=1"), ("tracestate", "b=2"), ("raw-bin", b"\xff"))
        await served.stub.Classify(pb.ClassifyRequest(image=b"picture"), metadata=metadata)
        (exchange,) = observer.began
        assert (exchange.request_id, exchange.client, exchange.method) == ("order-66", "127.0.0.1", None)
        assert f"{exchange.server_address}:{exchange.server_port}" == served.server.address
        assert exchange.header("tracestate") == "a=1, b=2"
        assert (exchange.header("raw-bin"), exchange.header("traceparent")) == (None, None)

    scenario.run(run)


def test_a_caller_that_leaves_gets_no_status(scenario, observer) -> None:
    """A call that was cancelled ends in an error without a status, which nobody would read."""

    async def run(served: Served) -> None:
        call = served.stub.Classify(pb.ClassifyRequest(image=HELD))
        await asyncio.to_thread(scenario.engine.held.wait, TIMEOUT_S)
        call.cancel()
        await asyncio.to_thread(scenario.engine.cancelled.wait, TIMEOUT_S)

    scenario.run(run)
    assert [ending for _, ending in observer.ended] == [Ending(None, is_error=True, is_fault=False)]


def test_a_stream_is_one_exchange(scenario, observer) -> None:
    """However many frames it has, its beginning and end are told once, as streaming."""

    async def run(served: Served) -> None:
        call = served.stub.ClassifyStream(frame(number) for number in range(3))
        assert [answer.frame_id async for answer in call] == [0, 1, 2]

    scenario.run(run)
    assert [(exchange.path, exchange.streaming) for exchange in observer.began] == [(METHOD + "ClassifyStream", True)]
    assert observer.statuses == ["OK"]


def test_health_is_not_observed(scenario, observer) -> None:
    """Calls of other services pass untouched."""

    async def run(served: Served) -> None:
        answer = await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest(service="nobody's"))

    scenario.run(run)
    assert observer.began == []
