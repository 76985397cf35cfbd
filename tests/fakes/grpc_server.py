"""The real gRPC server on a free loopback port, with the classifier over whatever engine, for as long as a scenario."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from phiserve.v1 import classifier_pb2 as pb
from phiserve.v1 import classifier_pb2_grpc as pb_grpc
from service.exchange import ExchangeObserver
from service.frontends.grpc_classifier import SERVICE_NAME, Classifier
from service.frontends.grpc_stream import StreamLimits
from service.grpc_server import GrpcLimits, GrpcServer, GrpcService
from service.http_server import bind, loop_factory
from service.tls import TlsFiles
from tests.fakes.engine import ScriptedEngine

LIMITS = GrpcLimits(body_bytes_max=5000, concurrent_rpcs_max=100, keepalive_s=60.0)
STREAM = StreamLimits(frames_max=4, in_service_max=2)
TOP_K_MAX = 20
IMAGE_BYTES_MAX = 1000


def classifier_service(
    engine: Any, *, stream: StreamLimits = STREAM, image_bytes_max: int = IMAGE_BYTES_MAX
) -> GrpcService:
    """The classifier over `engine`; to be made on the loop that serves it."""
    classifier = Classifier(engine, image_bytes_max=image_bytes_max, top_k_max=TOP_K_MAX, stream=stream)
    add_to = functools.partial(pb_grpc.add_ClassifierServicer_to_server, classifier)
    return GrpcService(SERVICE_NAME, add_to, classifier.end_streams)


@dataclass
class Served:
    """A server that is up, and a client of it."""

    server: GrpcServer
    engine: Any
    channel: grpc.aio.Channel
    stub: pb_grpc.ClassifierStub


@dataclass
class GrpcScenario:
    """How a scenario's server is to be; `run` runs it on the event loop that `phiserve serve` uses."""

    engine: Any = field(default_factory=ScriptedEngine)
    limits: GrpcLimits = LIMITS
    stream: StreamLimits = STREAM
    tls: TlsFiles | None = None
    credentials: grpc.ChannelCredentials | None = None
    bound_ids: list[str] = field(default_factory=list)
    observer: ExchangeObserver | None = None

    def run(self, scenario: Callable[[Served], Awaitable[Any]], loop: Any = None) -> Any:
        with asyncio.Runner(loop_factory=loop or loop_factory()) as runner:
            return runner.run(self._run(scenario))

    async def _run(self, scenario: Callable[[Served], Awaitable[Any]]) -> Any:
        server = GrpcServer(
            (classifier_service(self.engine, stream=self.stream),),
            bind("127.0.0.1", 0),
            self.limits,
            tls=self.tls,
            bind_request_id=self.bound_ids.append,
            observer=self.observer,
        )
        await server.start()
        try:
            async with self._channel(server) as channel:
                return await scenario(Served(server, self.engine, channel, pb_grpc.ClassifierStub(channel)))
        finally:
            await server.stop(0)

    def _channel(self, server: GrpcServer) -> grpc.aio.Channel:
        # A client's own connection, so that no test meets one of the test before it.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self.credentials is None:
            return grpc.aio.insecure_channel(server.address, options)
        return grpc.aio.secure_channel(server.address, self.credentials, options)


def frame(frame_id: int, image: bytes = b"picture", **asked: Any) -> pb.ClassifyStreamRequest:
    return pb.ClassifyStreamRequest(frame_id=frame_id, request=pb.ClassifyRequest(image=image, **asked))
