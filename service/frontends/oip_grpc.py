"""The gRPC front of the Open Inference Protocol: its methods, and nothing more than their translation.

Errors are gRPC statuses by the table of `status_codes.py`. A call's own deadline is its budget only where the request
names none: it says how long the caller waits at most, not how soon it wants its answer.
"""

# ruff: noqa: N802  methods have the protocol's names

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, TypeVar
from urllib.parse import unquote

import grpc

from service.errors import PhiserveError
from service.frontends.inference import open_inference_pb2 as pb
from service.frontends.inference import open_inference_pb2_grpc as pb_grpc
from service.frontends.oip_grpc_wire import parse_call, write_answer
from service.frontends.oip_metadata import config, index, model_metadata, server_metadata
from service.frontends.oip_service import OipService
from service.frontends.oip_statistics import Statistics
from service.frontends.status_codes import wire_status

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000
SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")
Method: TypeAlias = "Callable[[OipServicer, Any, Context], Awaitable[Answer]]"


def _answering_errors(method: Method[Answer]) -> Method[Answer]:
    """`method`, with what it raises answered as a status."""

    @functools.wraps(method)
    async def answer(self: OipServicer, request: object, context: Context) -> Answer:
        try:
            return await method(self, request, context)
        except Exception as error:  # noqa: BLE001  told to the caller, and to the log if it is a bug
            failure = error
        return await _abort(context, failure)

    return answer


class OipServicer(pb_grpc.GRPCInferenceServiceServicer):
    """See the module. One method for each of the protocol's that are served."""

    def __init__(self, service: OipService, statistics: Statistics, *, version: str) -> None:
        """`version` is the server's, as metadata shows it."""
        self._service = service
        self._models = service.models
        self._statistics = statistics
        self._version = version

    @_answering_errors
    async def ServerLive(self, _request: pb.ServerLiveRequest, _context: Context) -> pb.ServerLiveResponse:
        """The process answers."""
        return pb.ServerLiveResponse(live=True)

    @_answering_errors
    async def ServerReady(self, _request: pb.ServerReadyRequest, _context: Context) -> pb.ServerReadyResponse:
        """Whether requests are asked for."""
        return pb.ServerReadyResponse(ready=self._models.server_ready)

    @_answering_errors
    async def ModelReady(self, request: pb.ModelReadyRequest, _context: Context) -> pb.ModelReadyResponse:
        """Whether requests for that model are asked for."""
        model = self._models.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._models.is_ready(model))

    @_answering_errors
    async def ServerMetadata(self, _request: pb.ServerMetadataRequest, _context: Context) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**server_metadata(self._version))

    @_answering_errors
    async def ModelMetadata(self, request: pb.ModelMetadataRequest, _context: Context) -> pb.ModelMetadataResponse:
        """The model's inputs and outputs."""
        return pb.ModelMetadataResponse(**model_metadata(self._models.find(request.name, request.version)))

    @_answering_errors
    async def ModelConfig(self, request: pb.ModelConfigRequest, _context: Context) -> pb.ModelConfigResponse:
        """The same in the words of Triton's configuration."""
        model = self._models.find(request.name, request.version)
        return pb.ModelConfigResponse(config=pb.ModelConfig(**config(model)))

    @_answering_errors
    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, _context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counts and durations of that model, or of every model."""
        models = [self._models.find(request.name, request.version)] if request.name else self._models.all
        return pb.ModelStatisticsResponse(**self._statistics.of(models))

    @_answering_errors
    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, _context: Context
    ) -> pb.RepositoryIndexResponse:
        """Every model with its state."""
        rows = index(self._models, ready_only=request.ready)
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**row) for row in rows])

    @_answering_errors
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
        async for request in request_iterator:
            try:
                answer = await self._infer(request, context, None)
            except Exception as error:  # noqa: BLE001  as in `_answering_errors`, but the stream goes on
                named = pb.ModelInferResponse(id=request.id)
                yield pb.ModelStreamInferResponse(error_message=_detail(error), infer_response=named)
            else:
                yield pb.ModelStreamInferResponse(infer_response=answer)

    async def _infer(
        self, request: pb.ModelInferRequest, context: Context, call_budget_ns: int | None
    ) -> pb.ModelInferResponse:
        received_ns = self._service.now_ns()
        answer = await self._service.infer(
            parse_call(request),
            received_ns=received_ns,
            client=_host(context.peer()),
            call_budget_ns=call_budget_ns,
        )
        return write_answer(answer)


async def _abort(context: Context, error: Exception) -> NoReturn:
    await context.abort(grpc.StatusCode[wire_status(error).grpc], _detail(error))
    raise AssertionError("abort raises")  # its annotation does not say so everywhere


def _detail(error: Exception) -> str:
    if isinstance(error, PhiserveError):
        return error.detail
    logger.error("unexpected error in the Open Inference Protocol over gRPC", exc_info=error)
    return "The server failed; its log says more."


def _host(peer: str) -> str:
    """The address in gRPC's "ipv4:192.0.2.7:4321" or "ipv6:%5B::1%5D:4321"; anything else as it is."""
    kind, _, address = peer.partition(":")
    return unquote(address).rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else peer
