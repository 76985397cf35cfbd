"""The gRPC front end: the methods of `phiserve.v1.Classifier`, each a translation to `service.core.engine`.

It measures nothing and decides nothing: no metric, no routing, no retry. What its methods raise becomes a status in
`grpc_envelope`.
"""

# ruff: noqa: N802  methods have the contract's names

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from phiserve.v1 import classifier_pb2 as pb
from phiserve.v1 import classifier_pb2_grpc as pb_grpc
from service.core.engine import Engine
from service.core.request import Classification, RequestOptions
from service.errors import InvalidArgument, NotReady, PhiserveError
from service.frontends.callers import Callers
from service.frontends.grpc_messages import RequestReader, classify_response, list_response, within_call
from service.frontends.grpc_peer import client_of
from service.frontends.grpc_status import rich_status
from service.frontends.grpc_stream import Frame, FrameStream, Outcome, StreamLimits
from service.frontends.rest_parameters import ClassifyParameters

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["Classifier"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Classifier(pb_grpc.ClassifierServicer):
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        *,
        image_bytes_max: int,
        top_k_max: int,
        stream: StreamLimits,
        callers: Callers | None = None,
    ) -> None:
        """Over `engine`, which need not be open yet; bounds in bytes and classes. `callers`: None trusts no proxy."""
        parameters = ClassifyParameters(
            budget_ns_default=engine.budget_ns_default, budget_ns_max=engine.budget_ns_max, top_k_max=top_k_max
        )
        self._engine = engine
        self._reader = RequestReader(parameters, image_bytes_max=image_bytes_max)
        self._stream = stream
        self._callers = callers or Callers()
        self._ending = asyncio.Event()

    def end_streams(self) -> None:
        """Read no further frame: streams end as soon as what was read is answered."""
        self._ending.set()

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """Classify one image; the caller's leaving cancels it.

        Raises:
            PhiserveError: as `Engine.infer`, and for what is no request.
        """
        engine = self._engine
        received_ns = engine.now_ns()
        left_s = context.time_remaining()
        left_ns = None if left_s is None else round(left_s * NS_PER_S)
        image, asked = self._reader.read(request)
        options = within_call(asked, left_ns, engine.budget_ns_max)
        client = client_of(context, self._callers)
        return classify_response(await engine.infer(image, options, received_ns=received_ns, client=client))

    async def ClassifyStream(  # type: ignore[override] # see below
        self, request_iterator: AsyncIterator[pb.ClassifyStreamRequest], context: Context
    ) -> None:
        """Classify frames until the sender ends the stream or leaves it, or the server drains.

        Reads and writes by itself instead of yielding answers: a generator that waits for its consumer is not told
        when the caller leaves, and what is in flight would be worked on for nobody.

        Raises:
            NotReady: the server drains; every frame that was read has been answered.
        """
        del request_iterator
        client = client_of(context, self._callers)

        async def infer(image: bytes, options: RequestOptions, received_ns: int) -> Classification:
            return await self._engine.infer(image, options, received_ns=received_ns, client=client)

        async def read() -> Frame | None:
            message = await context.read()
            return None if message is grpc.aio.EOF else self._frame(message)

        async def write(outcome: Outcome[Classification]) -> None:
            await context.write(_stream_response(outcome))

        stream = FrameStream(
            infer,
            self._stream,
            now_ns=self._engine.now_ns,
            budget_ns_default=self._engine.budget_ns_default,
            ending=self._ending,
        )
        if not await stream.run(read, write):
            raise NotReady("the server is draining and has answered every frame it read; open another stream")

    async def ListVariants(self, _request: pb.ListVariantsRequest, _context: Context) -> pb.ListVariantsResponse:
        """Every variant, most accurate first."""
        return list_response(self._engine.variants())

    def _frame(self, message: pb.ClassifyStreamRequest) -> Frame:
        try:
            if not message.HasField("request"):
                raise InvalidArgument("the frame has no request; set it to the image and its options")
            return Frame(message.frame_id, *self._reader.read(message.request))
        except PhiserveError as error:
            return Frame(message.frame_id, b"", error)


def _stream_response(outcome: Outcome[Classification]) -> pb.ClassifyStreamResponse:
    held_ms = outcome.held_ns / NS_PER_MS
    if isinstance(outcome.result, Classification):
        answer = classify_response(outcome.result, held_ns=outcome.held_ns)
        return pb.ClassifyStreamResponse(frame_id=outcome.frame_id, answer=answer, held_ms=held_ms)
    if not isinstance(outcome.result, PhiserveError):
        logger.error("unexpected error while serving a frame", exc_info=outcome.result)
    error = rich_status(outcome.result)
    return pb.ClassifyStreamResponse(frame_id=outcome.frame_id, error=error, held_ms=held_ms)
