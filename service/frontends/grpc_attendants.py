"""Streams beside our own services, such as watches of health, which end when the server stops and not only when cut.

Nothing else would end them: their callers wait for news as long as the connection lasts, and so would a drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from inspect import isasyncgenfunction
from typing import Any, TypeAlias

import grpc

_DETAIL = "the server is draining; connect to another replica"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Behaviour: TypeAlias = Callable[[Any, Context], Any]


class EndingAttendants(grpc.aio.ServerInterceptor):
    """Streams of all services but the named ones end with UNAVAILABLE once `end` was called."""

    def __init__(self, services: Collection[str]) -> None:
        """`services`: full names of those that end their streams by themselves."""
        self._services = frozenset(services)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End the streams there are, and those to come."""
        self._ending.set()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.split("/")[1] in self._services:
            return handler
        if handler.unary_stream is not None:
            make, behaviour = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        elif handler.stream_stream is not None:
            make, behaviour = grpc.stream_stream_rpc_method_handler, handler.stream_stream
        else:
            return handler
        return make(self._until_ending(behaviour), handler.request_deserializer, handler.response_serializer)

    def _until_ending(self, behaviour: _Behaviour) -> _Behaviour:
        writing = _write_all(behaviour) if isasyncgenfunction(behaviour) else behaviour

        async def serve(request: object, context: Context) -> None:
            working = asyncio.create_task(writing(request, context))
            ending = asyncio.create_task(self._ending.wait())
            try:
                await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            finally:
                working.cancel()  # what is done is not touched by it
                ending.cancel()
            if working.done():
                working.result()
            else:
                await context.abort(grpc.StatusCode.UNAVAILABLE, _DETAIL)

        return serve


def _write_all(behaviour: Callable[[Any, Context], AsyncIterator[Any]]) -> _Behaviour:
    async def write_all(request: object, context: Context) -> None:
        async for response in behaviour(request, context):
            await context.write(response)

    return write_all
