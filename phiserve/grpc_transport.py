"""The gRPC transports: one call on one kept channel, blocking or on asyncio.

They read no message's meaning (`grpc_wire.py` does), and never try anything twice (`retry.py` decides that).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from phiserve import grpc_wire
from phiserve.address import Address, TlsFiles
from phiserve.call_options import CallOptions
from phiserve.errors import NotReady, TimedOut
from phiserve.grpc_stream import Outcome, async_stream, rpc_error, stream
from phiserve.results import Classification, Variant
from phiserve.retry import NS_PER_S, Send
from phiserve.v1 import classifier_pb2, classifier_pb2_grpc

T = TypeVar("T")

_OPTIONS: list[tuple[str, int | str]] = [
    # Calls go in turn to every address that a name has. By default all would go to one of them, and stay there.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # A client's own connection, so that closing it closes something.
    ("grpc.use_local_subchannel_pool", 1),
    # How long a server that was away is left alone at first; the library's second is longer than most budgets.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_READINESS = health_pb2.HealthCheckRequest(service=grpc_wire.SERVICE)


class GrpcTransport:
    """Implements `Transport`; safe to share between threads."""

    def __init__(self, address: Address, tls: TlsFiles) -> None:
        """See `open_transport`."""
        if address.is_secure:
            self._channel = grpc.secure_channel(address.authority, _credentials(tls), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address.authority, _OPTIONS)
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)  # its published types name no method

    def classify(self, image: bytes, options: CallOptions, send: Send) -> Classification:
        """See `Transport`."""
        request = grpc_wire.classify_request(image, options, send.budget_ns)
        return grpc_wire.classification(self._call(self._stub.Classify, request, send))

    def variants(self, send: Send) -> tuple[Variant, ...]:
        """See `Transport`."""
        request = classifier_pb2.ListVariantsRequest()
        return grpc_wire.variants(self._call(self._stub.ListVariants, request, send))

    def stream(self, images: Iterable[bytes], options: CallOptions, silence_ns: int) -> Generator[Outcome]:
        """See `Transport`."""
        return stream(self._stub.ClassifyStream, images, options, silence_ns)

    def check_ready(self, send: Send) -> None:
        """See `Transport`."""
        _check_serving(self._call(self._health.Check, _READINESS, send))

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()

    def _call(self, method: Any, request: Any, send: Send) -> Any:
        call = method.future(request, timeout=_deadline_s(send))
        try:
            return call.result(send.timeout_ns / NS_PER_S)
        except grpc.FutureTimeoutError as error:
            raise _timed_out(send) from error
        except grpc.RpcError as error:
            raise rpc_error(error) from error
        finally:
            call.cancel()  # what is done is not touched by it


class AsyncGrpcTransport:
    """Implements `AsyncTransport`, for the event loop that runs when it is made."""

    def __init__(self, address: Address, tls: TlsFiles) -> None:
        """See `open_async_transport`."""
        if address.is_secure:
            self._channel = grpc.aio.secure_channel(address.authority, _credentials(tls), _OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address.authority, _OPTIONS)
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)  # its published types name no method

    async def classify(self, image: bytes, options: CallOptions, send: Send) -> Classification:
        """See `AsyncTransport`."""
        request = grpc_wire.classify_request(image, options, send.budget_ns)
        return grpc_wire.classification(await self._call(self._stub.Classify, request, send))

    async def variants(self, send: Send) -> tuple[Variant, ...]:
        """See `AsyncTransport`."""
        request = classifier_pb2.ListVariantsRequest()
        return grpc_wire.variants(await self._call(self._stub.ListVariants, request, send))

    def stream(self, images: AsyncIterable[bytes], options: CallOptions, silence_ns: int) -> AsyncGenerator[Outcome]:
        """See `AsyncTransport`."""
        return async_stream(self._stub.ClassifyStream, images, options, silence_ns)

    async def check_ready(self, send: Send) -> None:
        """See `AsyncTransport`."""
        _check_serving(await self._call(self._health.Check, _READINESS, send))

    async def close(self) -> None:
        """See `AsyncTransport`."""
        await self._channel.close()

    async def _call(self, method: Any, request: Any, send: Send) -> Any:
        try:
            async with asyncio.timeout(send.timeout_ns / NS_PER_S):
                return await method(request, timeout=_deadline_s(send))
        except TimeoutError as error:
            raise _timed_out(send) from error
        except grpc.aio.AioRpcError as error:
            raise rpc_error(error) from error


def _deadline_s(send: Send) -> float | None:
    """What goes on the wire as the call's deadline: none for a call without a budget, since it would become one."""
    return None if send.budget_ns is None else send.timeout_ns / NS_PER_S


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    if not tls.is_empty:
        tls.ssl_context()  # reports what is no certificate; gRPC would only log it
    return grpc.ssl_channel_credentials(_content(tls.ca_cert), _content(tls.client_key), _content(tls.client_cert))


def _content(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _check_serving(response: health_pb2.HealthCheckResponse) -> None:
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        raise NotReady(f"the server says {name}; send requests when it says SERVING")


def _timed_out(send: Send) -> TimedOut:
    return TimedOut(f"the server was silent for {send.timeout_ns / NS_PER_S:.3g} s; is it the right one?")
