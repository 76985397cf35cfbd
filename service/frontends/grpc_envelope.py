"""What every call of our gRPC services gets, whatever its method: request id, observer, a status for what it raised.

A server interceptor. Calls of other services, such as health and reflection, pass through untouched; it knows no
message and decides nothing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Iterable
from inspect import isasyncgenfunction
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc_status import rpc_status

from service.errors import PhiserveError
from service.exchange import Ending, Exchange, ExchangeObserver
from service.frontends.grpc_peer import host_of
from service.frontends.grpc_status import rich_status
from service.frontends.request_ids import accepted_request_id

logger = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
"""The call's metadata that may bring an id, and the trailer that gives it back."""

_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that are the server's own fault, by OpenTelemetry's convention for gRPC."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Behaviour: TypeAlias = Callable[[Any, Context], Any]


class GrpcEnvelope(grpc.aio.ServerInterceptor):
    """Methods of the named services may raise `PhiserveError`: it becomes the call's status, with details.

    `bind_request_id` is called with the id before anything else, in the call's own context: logging binds its
    context variable there. `observer` hears of every call in the same context.
    """

    def __init__(
        self,
        services: Collection[str],
        bind_request_id: Callable[[str], object],
        observer: ExchangeObserver | None = None,
        *,
        server: tuple[str, int | None] = ("", None),
    ) -> None:
        """`services`: full names, such as `phiserve.v1.Classifier`. `server`: the address that is listened on."""
        self._services = frozenset(services)
        self._bind_request_id = bind_request_id
        self._observer = observer
        self._server = server
        # A method has one handler as long as the server lives, so that it is wrapped once and not for each call.
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`. None from `continuation` is a method that nobody serves."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or method.split("/")[1] not in self._services:
            return handler
        self._wrapped[method] = self._wrap(handler, method)
        return self._wrapped[method]

    def _wrap(self, handler: Handler, method: str) -> Handler:
        # Its type is that of a blocking server's; on this one behaviours are coroutines or generators.
        kinds: Iterable[tuple[Any, Any]] = (
            (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        )
        make, behaviour = next((make, behaviour) for make, behaviour in kinds if behaviour is not None)
        wrap = self._wrap_generator if isasyncgenfunction(behaviour) else self._wrap_coroutine
        streaming = bool(handler.request_streaming or handler.response_streaming)
        wrapped: Handler = make(
            wrap(behaviour, method, streaming=streaming), handler.request_deserializer, handler.response_serializer
        )
        return wrapped

    def _wrap_coroutine(self, behaviour: _Behaviour, method: str, *, streaming: bool) -> _Behaviour:
        async def answer(request: object, context: Context) -> object:
            request_id = self._open(context)
            with self._observed(context, method, request_id, streaming=streaming):
                try:
                    return await behaviour(request, context)
                except Exception as error:  # noqa: BLE001 - all of them end the call with a status
                    await _abort(context, error, request_id)

        return answer

    def _wrap_generator(self, behaviour: _Behaviour, method: str, *, streaming: bool) -> _Behaviour:
        async def answers(request: object, context: Context) -> AsyncIterator[object]:
            request_id = self._open(context)
            with self._observed(context, method, request_id, streaming=streaming):
                try:
                    async for response in behaviour(request, context):
                        yield response
                except Exception as error:  # noqa: BLE001 - as above
                    await _abort(context, error, request_id)

        return answers

    def _observed(
        self, context: Context, method: str, request_id: str, *, streaming: bool
    ) -> contextlib.AbstractContextManager[None]:
        if self._observer is None:
            return _UNOBSERVED
        address, port = self._server
        exchange = Exchange(
            request_id=request_id,
            method=None,
            path=method,
            client=host_of(context.peer()),
            header=functools.partial(_metadata, context),
            server_address=address,
            server_port=port,
            streaming=streaming,
        )
        return _observe(self._observer, exchange, context)

    def _open(self, context: Context) -> str:
        given = next((value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY), None)
        request_id = accepted_request_id(given if isinstance(given, str) else None)
        self._bind_request_id(request_id)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        return request_id


def _metadata(context: Context, name: str) -> str | None:
    values = [value for key, value in context.invocation_metadata() or () if key == name and isinstance(value, str)]
    return ", ".join(values) or None


_UNOBSERVED = contextlib.nullcontext()
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


@contextlib.contextmanager
def _observe(observer: ExchangeObserver, exchange: Exchange, context: Context) -> Generator[None]:
    """Tell `observer` of a call, and how it ended: with the status that `_abort` or gRPC's own abort has set."""
    observer.exchange_began(exchange)
    status: str | None = None
    try:
        yield
        status = "OK"
    except grpc.aio.BaseError:
        status = _code_name(context)
        raise
    finally:
        ending = Ending(status, is_error=status != "OK", is_fault=status in _FAULTS)
        observer.exchange_ended(exchange, ending)


def _code_name(context: Context) -> str:
    """The name of the status that was set; a servicer's context keeps it as a number."""
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _CODE_NAMES.get(code, "UNKNOWN")


async def _abort(context: Context, error: Exception, request_id: str) -> NoReturn:
    """End the call with the status of `error`; what gRPC itself raised, an abort among it, goes on its way."""
    if isinstance(error, grpc.aio.BaseError):
        raise error
    if not isinstance(error, PhiserveError):
        logger.error("unexpected error while serving a call", exc_info=error)
    status = rpc_status.to_status(rich_status(error, request_id))
    trailing = (*status.trailing_metadata, (REQUEST_ID_KEY, request_id))
    await context.abort(status.code, status.details, trailing)
    raise AssertionError("abort raises")  # its annotation does not say so everywhere
