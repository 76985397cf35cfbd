"""The gRPC front of the Open Inference Protocol: its methods, and nothing more than their translation.

What its methods raise becomes a status in `grpc_envelope`. A call's own deadline is its budget only where the request
names none: it says how long the caller waits at most, not how soon it wants its answer.
"""

# ruff: noqa: N802, ARG002  methods have the protocol's names and gRPC's arguments

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from service.errors import PhiserveError
from service.frontends.callers import Callers
from service.frontends.grpc_peer import client_of
from service.frontends.grpc_status import rich_status
from service.frontends.inference import open_inference_pb2 as pb
from service.frontends.inference import open_inference_pb2_grpc as pb_grpc
from service.frontends.oip_grpc_wire import parse_call, write_answer
from service.frontends.oip_metadata import config, index, model_metadata, server_metadata
from service.frontends.oip_service import OipService
from service.frontends.oip_statistics import Statistics

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000
SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class OipServicer(pb_grpc.GRPCInferenceServiceServicer):
    """See the module. One method for each of the protocol's that are served."""

    def __init__(
        self, service: OipService, statistics: Statistics, *, version: str, callers: Callers | None = None
    ) -> None:
        """`version` is the server's, as metadata shows it. `callers`: None trusts no proxy."""
        self._service = service
        self._models = service.models
        self._statistics = statistics
        self._version = version
        self._callers = callers or Callers()
        self._ending = asyncio.Event()

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """The process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Whether requests are asked for."""
        return pb.ServerReadyResponse(ready=self._models.server_ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether requests for that model are asked for."""
        model = self._models.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._models.is_ready(model))

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**server_metadata(self._version))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """The model's inputs and outputs."""
        return pb.ModelMetadataResponse(**model_metadata(self._models.find(request.name, request.version)))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """The same in the words of Triton's configuration."""
        model = self._models.find(request.name, request.version)
        return pb.ModelConfigResponse(config=pb.ModelConfig(**config(model)))

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        """Counts and durations of that model, or of every model."""
        models = [self._models.find(request.name, request.version)] if request.name else self._models.all
        return pb.ModelStatisticsResponse(**self._statistics.of(models))

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        """Every model with its state."""
        rows = index(self._models, ready_only=request.ready)
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**row) for row in rows])

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Classify; the caller's leaving cancels its pictures."""
        left_s = context.time_remaining()
        return await self._infer(request, context, None if left_s is None else round(left_s * NS_PER_S))

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Classify one request after the other, which leaves the pace to gRPC's flow control.

        The stream's deadline is for all of it and so no request's budget.
        """
        while (request := await self._next(context)) is not None:
            try:
                answer = await self._infer(request, context, None)
            except Exception as error:
                if not isinstance(error, PhiserveError):
                    logger.exception("unexpected error while serving a stream")
                named = pb.ModelInferResponse(id=request.id)
                yield pb.ModelStreamInferResponse(error_message=rich_status(error).message, infer_response=named)
            else:
                yield pb.ModelStreamInferResponse(infer_response=answer)

    def end_streams(self) -> None:
        """Read no further request: each stream ends when what it has read is answered."""
        self._ending.set()

    async def _next(self, context: Context) -> pb.ModelInferRequest | None:
        """The stream's next request; None if the sender or the server ends it."""
        reading, ending = asyncio.ensure_future(context.read()), asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return None
            request = reading.result()
            return request if isinstance(request, pb.ModelInferRequest) else None  # the other is gRPC's mark of the end
        finally:
            reading.cancel()
            ending.cancel()

    async def _infer(
        self, request: pb.ModelInferRequest, context: Context, call_budget_ns: int | None
    ) -> pb.ModelInferResponse:
        received_ns = self._service.now_ns()
        answer = await self._service.infer(
            parse_call(request),
            received_ns=received_ns,
            client=client_of(context, self._callers),
            call_budget_ns=call_budget_ns,
        )
        return write_answer(answer)
