"""A gRPC server on a thread of its own, and a classifier over a scripted engine that keeps to the wire contract."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from phiserve.v1 import classifier_pb2, classifier_pb2_grpc
from service.core.engine import Readiness
from service.core.request import Classification, OnMiss, RequestOptions, RoutingPolicy
from service.errors import DeadlineExceeded, Overloaded, PhiserveError
from service.frontends.status_codes import wire_status
from tests.fakes.engine import ScriptedEngine

START_TIMEOUT_S = 20
STALE, HANG_UP, MISNUMBERED = b"stale", b"hang up", b"misnumbered"
"""Frames that are dropped, end the stream, and get another frame's number."""
MS = 1_000_000


class ScriptedClassifier(classifier_pb2_grpc.ClassifierServicer):
    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.deadlines_s: list[float | None] = []

    async def Classify(self, request, context):  # noqa: N802 - the contract's name
        self.deadlines_s.append(context.time_remaining())
        try:
            return response_of(await self._infer(request))
        except PhiserveError as error:
            await abort(context, error)

    async def _infer(self, request) -> Classification:
        policy = RoutingPolicy(
            variant=request.variant or None,
            min_accuracy=request.min_accuracy if request.HasField("min_accuracy") else None,
            target_ns=round(request.target_ms * MS) if request.HasField("target_ms") else None,
            on_miss=OnMiss.LATE if request.on_miss == classifier_pb2.ON_MISS_LATE else OnMiss.REJECT,
            priority=request.priority,
        )
        budget_ns = round(request.budget_ms * MS) if request.HasField("budget_ms") else None
        options = RequestOptions(budget_ns, request.top_k or 5, policy)
        return await self.engine.infer(request.image, options, received_ns=0)

    async def ClassifyStream(self, requests, context):  # noqa: N802 - the contract's name
        self.deadlines_s.append(context.time_remaining())
        async for frame in requests:
            response = classifier_pb2.ClassifyStreamResponse(frame_id=frame.frame_id)
            if frame.request.image == HANG_UP:
                return
            if frame.request.image == STALE:
                error = DeadlineExceeded("overtaken", smallest_feasible_budget_ns=12 * MS)
                response.error.CopyFrom(status_of(error, reason="STALE_FRAME"))
            elif frame.request.image == MISNUMBERED:
                response.frame_id += 1
            else:
                try:
                    response.answer.CopyFrom(response_of(await self._infer(frame.request)))
                except PhiserveError as error:
                    response.error.CopyFrom(status_of(error))
            yield response

    async def ListVariants(self, request, context):  # noqa: N802 - the contract's name
        return classifier_pb2.ListVariantsResponse(
            variants=[variant_of(status.variant) for status in self.engine.variants()]
        )


class FollowingHealth(health_pb2_grpc.HealthServicer):
    """Serving as long as the engine is ready."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine

    async def Check(self, request, context):  # noqa: N802 - the protocol's name
        states = health_pb2.HealthCheckResponse
        ready = self.engine.readiness is Readiness.READY
        return states(status=states.SERVING if ready else states.NOT_SERVING)


def response_of(found: Classification) -> classifier_pb2.ClassifyResponse:
    timings = found.timings
    return classifier_pb2.ClassifyResponse(
        predictions=[
            classifier_pb2.Prediction(
                index=row.index, wnid=row.wnid or "", label=row.label, probability=row.probability
            )
            for row in found.predictions
        ],
        variant=variant_of(found.variant),
        budget_ms=found.budget_ns / MS,
        budget_met=found.budget_met,
        timings=classifier_pb2.Timings(
            decode_ms=round(timings.decode_ns / MS, 3),
            queue_ms=round(timings.queue_ns / MS, 3),
            preprocess_ms=round(timings.preprocess_ns / MS, 3),
            inference_ms=round(timings.inference_ns / MS, 3),
            total_ms=round(timings.total_ns / MS, 3),
        ),
        batch_size=found.batch_size,
        degraded_from=found.degraded_from or "",
    )


def variant_of(row) -> classifier_pb2.Variant:
    return classifier_pb2.Variant(
        name=row.name, precision=row.precision, resolution=row.resolution, top1=row.top1, trained=row.trained
    )


def status_of(error: PhiserveError, reason: str = "", request_id: str = "") -> status_pb2.Status:
    row = wire_status(error)
    reason = reason or row.slug.upper().replace("-", "_")
    info = error_details_pb2.ErrorInfo(reason=reason, domain="phiserve")
    details = [info]
    if isinstance(error, DeadlineExceeded) and error.smallest_feasible_budget_ns is not None:
        info.metadata["smallest_feasible_budget_ms"] = str(error.smallest_feasible_budget_ns / MS)
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(error.retry_after_ns)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=grpc.StatusCode[row.grpc].value[0], message=error.detail, details=packed)


async def abort(context, error: PhiserveError) -> None:
    trailing = (("grpc-status-details-bin", status_of(error).SerializeToString()),)
    await context.abort(grpc.StatusCode[wire_status(error).grpc], error.detail, trailing)


class GrpcServerThread:
    """`prepare` gets the server before it starts."""

    def __init__(self, prepare: Callable[[grpc.aio.Server], None], credentials: Any = None, port: int = 0) -> None:
        self._prepare, self._credentials = prepare, credentials
        self._is_up, self._stop = threading.Event(), asyncio.Event()
        self.port = port
        self.loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        server = grpc.aio.server()
        self._prepare(server)
        address = f"127.0.0.1:{self.port}"
        self.port = (
            server.add_secure_port(address, self._credentials)
            if self._credentials
            else server.add_insecure_port(address)
        )
        await server.start()
        self._is_up.set()
        await self._stop.wait()
        await server.stop(0)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(START_TIMEOUT_S), "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@contextmanager
def grpc_classifier(engine: ScriptedEngine, **settings: Any) -> Iterator[tuple[str, ScriptedClassifier]]:
    """Serves `engine`; gives the authority and the servicer. `settings` are the thread's."""
    servicer = ScriptedClassifier(engine)

    def prepare(server: grpc.aio.Server) -> None:
        classifier_pb2_grpc.add_ClassifierServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(FollowingHealth(engine), server)

    with GrpcServerThread(prepare, **settings) as server:
        yield f"127.0.0.1:{server.port}", servicer
