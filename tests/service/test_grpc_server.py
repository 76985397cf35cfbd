"""The gRPC port: when it is open, what it says of itself, whom it lets in, and how it ends. Real sockets throughout."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from phiserve.v1 import classifier_pb2 as pb
from service.frontends.grpc_classifier import SERVICE_NAME
from service.grpc_server import GrpcServer
from service.http_server import ListenError, bind
from service.tls import TlsFiles
from tests.fakes.engine import HELD
from tests.fakes.grpc_server import LIMITS, GrpcScenario, Served, frame
from tests.fakes.pki import Pki, make_pki

WAIT_S = 20
CAT = pb.ClassifyRequest(image=b"cat")
STATES = health_pb2.HealthCheckResponse


async def within(work: Awaitable[Any]) -> Any:
    """The result of `work`, which must not take for ever."""
    return await asyncio.wait_for(work, WAIT_S)


async def code_of(call: Any) -> str:
    return (await within(call.code())).name


@pytest.fixture
def scenario() -> GrpcScenario:
    return GrpcScenario()


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


def test_a_port_is_closed_until_the_start_and_open_right_after_it() -> None:
    """It is kept from the beginning, refuses callers, and the first call after `start` is served."""

    async def run() -> None:
        listener = bind("127.0.0.1", 0)
        server = GrpcServer((), listener, LIMITS)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 1)
        await server.start()
        assert server.url == f"grpc://127.0.0.1:{server.port}"
        assert listener.fileno() == -1
        async with grpc.aio.insecure_channel(server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert (await within(check)).status == STATES.SERVING
        assert await server.stop(WAIT_S)

    asyncio.run(run())


def test_a_port_that_another_opened_meanwhile_is_refused_at_the_start() -> None:
    """Two may take the same port, but never share its calls: the second ends with an error that names the flags."""

    async def run() -> None:
        first = GrpcServer((), bind("127.0.0.1", 0), LIMITS)
        second = GrpcServer((), bind("127.0.0.1", first.port), LIMITS)
        await first.start()
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{first.port} .*--grpc-port or --host"):
            await second.start()
        await first.stop(0)
        await second.stop(0)

    asyncio.run(run())


def test_an_ipv6_address_is_written_as_clients_want_it() -> None:
    """In brackets, so that its colons are not taken for the port's."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")

    async def run() -> None:
        try:
            listener = bind("::1", 0)
        except ListenError:
            pytest.skip("no IPv6 loopback here")
        server = GrpcServer((), listener, LIMITS)
        assert server.address == f"[::1]:{server.port}"
        await server.start()
        assert await server.stop(WAIT_S)

    asyncio.run(run())


def test_an_old_connection_is_given_up_without_a_lost_call() -> None:
    """At its age a connection ends for new calls: one in progress goes on, and the next opens another connection."""

    async def run(served: Served) -> None:
        held = served.stub.Classify(pb.ClassifyRequest(image=HELD))
        await within(served.stub.Classify(CAT))
        await within(served.channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        assert served.channel.get_state() is grpc.ChannelConnectivity.IDLE
        assert not held.done()
        await within(served.stub.Classify(CAT))
        assert served.channel.get_state() is grpc.ChannelConnectivity.READY
        held.cancel()

    GrpcScenario(limits=replace(LIMITS, connection_age_s=1.0)).run(run)


PING, SETTINGS = 6, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def http2_frame(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Type and flags of the next frame (RFC 9113, 4.1)."""
    head = await reader.readexactly(9)
    await reader.readexactly(int.from_bytes(head[:3]))
    return head[3], head[4]


def test_a_silent_connection_is_asked_whether_it_lives() -> None:
    """A client that connected and says nothing more gets a PING; were it gone, its connection would be ended."""

    async def run(served: Served) -> None:
        reader, writer = await asyncio.open_connection(*served.server.address.rsplit(":", 1))
        empty_settings = bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0))
        writer.write(PREFACE + empty_settings)

        async def pinged() -> None:
            while await http2_frame(reader) != (PING, 0):
                pass

        await within(pinged())
        writer.close()

    GrpcScenario(limits=replace(LIMITS, keepalive_s=1.0)).run(run)


def test_health_follows_readiness(scenario) -> None:
    """Serving from the start, overall and by service; not serving once draining, while calls are still answered."""

    async def run(served: Served) -> None:
        health = health_pb2_grpc.HealthStub(served.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        assert (await within(watch.read())).status == STATES.SERVING
        for drained in (False, True):
            for name in ("", SERVICE_NAME):
                answer = await within(health.Check(health_pb2.HealthCheckRequest(service=name)))
                assert answer.status == (STATES.NOT_SERVING if drained else STATES.SERVING)
            await within(served.stub.Classify(CAT))
            await served.server.drain()
        assert (await within(watch.read())).status == STATES.NOT_SERVING
        unknown = health.Check(health_pb2.HealthCheckRequest(service="phiserve.v1.Oracle"))
        assert await code_of(unknown) == "NOT_FOUND"

    scenario.run(run)


def test_reflection_describes_the_contract(scenario) -> None:
    """A client that has no .proto file finds services, methods and the messages that others import."""

    def look(address: str) -> tuple[list[str], list[str], str]:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            methods = database.FindFileContainingSymbol(SERVICE_NAME).service[0].method
            status = database.FindFileContainingSymbol("google.rpc.Status").name
            return list(database.get_services()), [method.name for method in methods], status

    async def run(served: Served) -> None:
        loop = asyncio.get_running_loop()
        services, methods, status = await loop.run_in_executor(None, look, served.server.address)
        assert {SERVICE_NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} == set(services)
        assert methods == ["Classify", "ClassifyStream", "ListVariants"]
        assert status == "google/rpc/status.proto"

    scenario.run(run)


def test_a_message_that_is_too_large_is_refused_before_it_is_read(scenario) -> None:
    """Beyond the bound and what a message has beside its images gRPC itself refuses; an image within it is ours."""

    async def run(served: Served) -> None:
        much = pb.ClassifyRequest(image=b"x" * (LIMITS.body_bytes_max + 65 * 1024))
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
            await within(served.stub.Classify(much))
        assert caught.value.code().name == "RESOURCE_EXHAUSTED"
        with pytest.raises(grpc.aio.AioRpcError, match="at most 1000 bytes are taken") as caught:
            await within(served.stub.Classify(pb.ClassifyRequest(image=b"x" * LIMITS.body_bytes_max)))
        assert caught.value.code().name == "RESOURCE_EXHAUSTED"
        await within(served.stub.Classify(CAT))

    scenario.run(run)


def test_calls_in_progress_are_bounded(scenario) -> None:
    """One beyond the bound is refused by gRPC, and there is room again when one ends."""
    scenario.limits = replace(LIMITS, concurrent_rpcs_max=2)

    async def run(served: Served) -> None:
        streams = [served.stub.ClassifyStream() for _ in range(2)]
        for stream in streams:
            await within(stream.write(frame(1)))
            await within(stream.read())
        assert await code_of(served.stub.Classify(CAT)) == "RESOURCE_EXHAUSTED"
        await within(streams[0].done_writing())
        assert await code_of(streams[0]) == "OK"
        await within(until_answered(served))

    async def until_answered(served: Served) -> None:
        # A caller may know that its stream has ended before the server counts it as ended.
        while (code := await code_of(served.stub.Classify(CAT))) != "OK":
            assert code == "RESOURCE_EXHAUSTED"

    scenario.run(run)


def test_a_method_that_nobody_serves_is_unimplemented(scenario) -> None:
    """As gRPC says it, whichever service it is asked of."""

    async def run(served: Served) -> list[str]:
        methods = (f"/{SERVICE_NAME}/Divine", "/no.such.Service/Classify")
        return [await code_of(served.channel.unary_unary(method)(b"")) for method in methods]

    assert scenario.run(run) == ["UNIMPLEMENTED", "UNIMPLEMENTED"]


@pytest.mark.parametrize("shows", ["nothing", "a certificate"])
@pytest.mark.parametrize("asks", [False, True], ids=["TLS", "mTLS"])
def test_tls_lets_in_whom_it_should(scenario, pki, asks, shows) -> None:
    """With a client authority only callers with a certificate of it are served; without, all that trust the server."""
    scenario.tls = TlsFiles(pki.cert, pki.key, pki.ca if asks else None)
    own = (pki.client_key.read_bytes(), pki.client_cert.read_bytes()) if shows == "a certificate" else (None, None)
    scenario.credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), *own)

    async def run(served: Served) -> str:
        assert served.server.url == f"grpcs://127.0.0.1:{served.server.port}"
        return await code_of(served.stub.Classify(CAT))

    assert scenario.run(run) == ("UNAVAILABLE" if asks and shows == "nothing" else "OK")


def test_a_secure_port_speaks_nothing_else(scenario, pki) -> None:
    """Neither to a caller without TLS, nor to one that does not trust its certificate."""
    scenario.tls = TlsFiles(pki.cert, pki.key, None)

    async def run(served: Served) -> list[str]:
        assert await code_of(served.stub.Classify(CAT)) == "UNAVAILABLE"
        async with grpc.aio.secure_channel(served.server.address, grpc.ssl_channel_credentials()) as untrusting:
            check = health_pb2_grpc.HealthStub(untrusting).Check(health_pb2.HealthCheckRequest())
            assert await code_of(check) == "UNAVAILABLE"

    scenario.run(run)


def test_a_drain_finishes_what_is_in_progress(scenario) -> None:
    """New calls are soon turned away; a stream answers what it read and ends, watchers are told, nothing is cut."""

    async def run(served: Served) -> None:
        watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest())
        await within(watch.read())
        stream = served.stub.ClassifyStream()
        await within(stream.write(frame(1)))
        assert (await within(stream.read())).frame_id == 1
        served.server.turn_away()
        assert await code_of(stream) == "UNAVAILABLE"
        assert "has answered every frame it read" in await stream.details()
        assert await code_of(watch) == "UNAVAILABLE"
        await within(until_turned_away(served))
        assert await within(served.server.stop(WAIT_S))

    async def until_turned_away(served: Served) -> None:
        while (code := await code_of(served.stub.Classify(CAT))) != "UNAVAILABLE":
            assert code == "OK"

    scenario.run(run)


def test_calls_that_have_come_are_not_lost_when_the_port_closes(scenario) -> None:
    """Those that gRPC holds are begun first: with CANCELLED, its own end for them, a client tries nowhere else."""

    async def run(served: Served) -> None:
        await within(served.stub.Classify(CAT))
        calls = [served.stub.Classify(CAT) for _ in range(64)]
        await within(calls[0])
        served.server.turn_away()
        codes = [await code_of(call) for call in calls]
        assert set(codes) <= {"OK", "UNAVAILABLE"}, Counter(codes)
        assert await within(served.server.stop(WAIT_S))

    scenario.run(run)


def test_calls_in_progress_have_their_time_and_no_more(scenario) -> None:
    """A call that outlasts the bound is cut, and told so with UNAVAILABLE; its work is cancelled."""

    async def run(served: Served) -> None:
        call = served.stub.Classify(pb.ClassifyRequest(image=HELD))
        await asyncio.get_running_loop().run_in_executor(None, served.engine.held.wait, WAIT_S)
        stopping = asyncio.create_task(served.server.stop(3600))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stopping), 0.05)
        assert not call.done()
        assert not await within(served.server.stop(0))
        assert await code_of(call) == "UNAVAILABLE"
        assert await asyncio.get_running_loop().run_in_executor(None, served.engine.cancelled.wait, WAIT_S)
        assert await within(stopping)

    scenario.run(run)


def test_stopping_may_be_given_up_and_taken_up_again(scenario) -> None:
    """Cancelling a stop cancels nothing but the wait, as a second signal does."""

    async def run(served: Served) -> None:
        stream = served.stub.ClassifyStream()
        await within(stream.write(frame(1, HELD)))
        await asyncio.get_running_loop().run_in_executor(None, served.engine.held.wait, WAIT_S)
        stopping = asyncio.create_task(served.server.stop(3600))
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert not stream.done()
        assert not await within(served.server.stop(0))
        assert await code_of(stream) == "UNAVAILABLE"

    scenario.run(run)
