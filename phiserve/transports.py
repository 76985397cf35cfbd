"""What a client needs of a wire, and which wire a URL means. The libraries of a wire are imported when it is used."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from typing import Protocol

from phiserve.address import TlsFiles, parse_address
from phiserve.call_options import CallOptions
from phiserve.errors import ServerError
from phiserve.results import Classification, Variant
from phiserve.retry import Send

Outcome = Classification | ServerError
"""What becomes of a frame."""


class Transport(Protocol):
    """One server over one wire. Each method makes one attempt; it may be called from several threads at once.

    All raise PhiserveError: ServerError for what the server says, TransportError for what never came.
    """

    def classify(self, image: bytes, options: CallOptions, send: Send) -> Classification:
        """Send one encoded image with `send.budget_ns` as its budget."""
        ...

    def stream(self, images: Iterable[bytes], options: CallOptions, silence_ns: int, /) -> Generator[Outcome]:
        """Each frame's outcome in order; `silence_ns` bounds the wait for an answer, once there is one to wait for."""
        ...

    def variants(self, send: Send) -> tuple[Variant, ...]:
        """Every variant of the server, most accurate first."""
        ...

    def check_ready(self, send: Send) -> None:
        """Return if the server takes requests; NotReady is raised if it says that it does not."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class AsyncTransport(Protocol):
    """`Transport` for asyncio. Cancelling the calling task cancels the attempt."""

    async def classify(self, image: bytes, options: CallOptions, send: Send) -> Classification:
        """As `Transport.classify`."""
        ...

    def stream(self, images: AsyncIterable[bytes], options: CallOptions, silence_ns: int, /) -> AsyncGenerator[Outcome]:
        """As `Transport.stream`."""
        ...

    async def variants(self, send: Send) -> tuple[Variant, ...]:
        """As `Transport.variants`."""
        ...

    async def check_ready(self, send: Send) -> None:
        """As `Transport.check_ready`."""
        ...

    async def close(self) -> None:
        """As `Transport.close`."""
        ...


def open_transport(url: str, tls: TlsFiles) -> Transport:
    """The transport that `url` means; nothing is connected before the first attempt.

    Raises:
        InvalidUrl: see `parse_address`.
        OSError: a certificate cannot be read.
    """
    address = parse_address(url, tls)
    if address.is_grpc:
        from phiserve.grpc_transport import GrpcTransport  # noqa: PLC0415 - grpc only for those who use it

        return GrpcTransport(address, tls)
    from phiserve.http_transport import HttpTransport  # noqa: PLC0415 - httpx only for those who use it

    return HttpTransport(address, tls)


def open_async_transport(url: str, tls: TlsFiles) -> AsyncTransport:
    """`open_transport` for asyncio."""
    address = parse_address(url, tls)
    if address.is_grpc:
        from phiserve.grpc_transport import AsyncGrpcTransport  # noqa: PLC0415 - grpc only for those who use it

        return AsyncGrpcTransport(address, tls)
    from phiserve.http_transport import AsyncHttpTransport  # noqa: PLC0415 - httpx only for those who use it

    return AsyncHttpTransport(address, tls)
