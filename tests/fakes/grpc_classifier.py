"""The real gRPC server on a thread of its own, for clients that block; and classifiers that break the contract."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from phiserve.v1 import classifier_pb2, classifier_pb2_grpc
from service.errors import StaleFrame
from service.frontends.grpc_classifier import SERVICE_NAME
from service.frontends.grpc_messages import classify_response
from service.frontends.grpc_status import rich_status
from service.grpc_server import GrpcLimits, GrpcServer, GrpcService
from service.http_server import bind
from service.tls import TlsFiles
from tests.fakes.engine import ScriptedEngine, classification
from tests.fakes.grpc_server import classifier_service
from tests.fakes.menus import MS

LIMITS = GrpcLimits(body_bytes_max=8 * 2**20, concurrent_rpcs_max=100, keepalive_s=60.0)
STALE, HANG_UP, MISNUMBERED = b"stale", b"hang up", b"misnumbered"
"""Frames that a scripted classifier drops, leaves for good, and answers under another frame's number."""


@dataclass(frozen=True)
class RunningGrpc:
    """`url` is as a client takes it."""

    server: GrpcServer
    portal: BlockingPortal

    @property
    def url(self) -> str:
        return self.server.url

    def drain(self) -> None:
        self.portal.call(self.server.drain)


class ScriptedStreams(classifier_pb2_grpc.ClassifierServicer):
    """Answers streams frame by frame, but for the frames that it knows."""

    async def ClassifyStream(self, requests, context):  # noqa: N802 - the contract's name
        async for frame in requests:
            response = classifier_pb2.ClassifyStreamResponse(frame_id=frame.frame_id)
            response.answer.CopyFrom(classify_response(classification()))
            if frame.request.image == HANG_UP:
                return
            if frame.request.image == STALE:
                response.error.CopyFrom(rich_status(StaleFrame("overtaken", smallest_feasible_budget_ns=12 * MS)))
            if frame.request.image == MISNUMBERED:
                response.frame_id += 1
            yield response


@asynccontextmanager
async def _serving(service: Callable[[], GrpcService], port: int, tls: TlsFiles | None) -> AsyncIterator[GrpcServer]:
    server = GrpcServer((service(),), bind("127.0.0.1", port), LIMITS, tls=tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@contextmanager
def grpc_server(
    service: Callable[[], GrpcService], port: int = 0, tls: TlsFiles | None = None
) -> Iterator[RunningGrpc]:
    """Serves what `service` makes on the loop that serves it."""
    with start_blocking_portal() as portal:
        serving = _serving(service, port, tls)
        with portal.wrap_async_context_manager(serving) as server:
            yield RunningGrpc(server, portal)


def grpc_classifier(engine: ScriptedEngine, **settings: Any) -> Any:
    """The classifier over `engine`; `settings` are `grpc_server`'s."""
    return grpc_server(functools.partial(classifier_service, engine, image_bytes_max=2**21), **settings)


def scripted_streams() -> Any:
    """See `ScriptedStreams`."""
    add_to = functools.partial(classifier_pb2_grpc.add_ClassifierServicer_to_server, ScriptedStreams())
    return grpc_server(lambda: GrpcService(SERVICE_NAME, add_to))


def no_classifier() -> Any:
    """A gRPC server of something else."""
    return grpc_server(lambda: GrpcService("something.Else", lambda _server: None))
