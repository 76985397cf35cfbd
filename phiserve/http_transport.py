"""The HTTP transports: one exchange over a pool of kept connections, blocking or on asyncio.

They read no answer's meaning (`http_wire.py` does) and never try anything twice (`retry.py` decides that).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import httpx

from phiserve import http_wire
from phiserve.address import Address, TlsFiles
from phiserve.call_options import CallOptions
from phiserve.errors import ConnectionFailed, InvalidUrl, PhiserveError, TimedOut, UnexpectedAnswer
from phiserve.results import Classification, Variant
from phiserve.retry import NS_PER_S, Send

CONNECTIONS_MAX = 256
_IDLE_CONNECTIONS_MAX = 64
_IDLE_S_MAX = 4.0
"""Below the five seconds after which common servers, uvicorn among them, close an idle connection: a request that
crosses such a close on the wire is lost and has to be sent again."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One exchange to be made. `arguments` are httpx's."""

    method: str
    path: str
    arguments: dict[str, Any]


def _classify(image: bytes, options: CallOptions, send: Send) -> _Request:
    arguments = {
        "params": http_wire.query(options, send.budget_ns),
        "content": image,
        "headers": {"Content-Type": http_wire.MEDIA_TYPE},
    }
    return _Request("POST", http_wire.CLASSIFY_PATH, arguments)


_VARIANTS = _Request("GET", http_wire.VARIANTS_PATH, {})
_READINESS = _Request("GET", http_wire.READINESS_PATH, {})


class HttpTransport:
    """Implements `Transport`; safe to share between threads."""

    def __init__(self, address: Address, tls: TlsFiles) -> None:
        """See `open_transport`."""
        self._url = address.url
        self._client = httpx.Client(**_client_arguments(address, tls))

    def classify(self, image: bytes, options: CallOptions, send: Send) -> Classification:
        """See `Transport`."""
        return http_wire.classification(*self._exchange(_classify(image, options, send), send))

    def variants(self, send: Send) -> tuple[Variant, ...]:
        """See `Transport`."""
        return http_wire.variants(*self._exchange(_VARIANTS, send))

    def stream(self, *_: object) -> NoReturn:
        """HTTP has no streams."""
        raise _no_stream(self._url)

    def check_ready(self, send: Send) -> None:
        """See `Transport`."""
        http_wire.check_ready(*self._exchange(_READINESS, send))

    def close(self) -> None:
        """See `Transport`."""
        self._client.close()

    def _exchange(self, request: _Request, send: Send) -> tuple[int, httpx.Headers, bytes]:
        until_ns = time.monotonic_ns() + send.timeout_ns
        body = bytearray()
        try:
            with self._client.stream(
                request.method, request.path, timeout=send.timeout_ns / NS_PER_S, **request.arguments
            ) as response:
                for chunk in response.iter_bytes():
                    _extend(body, chunk, response)
                    # The timeout is for each silence; a trickle must come to an end too.
                    if time.monotonic_ns() > until_ns:
                        raise _timed_out(self._url, send)
        except httpx.HTTPError as error:
            raise _transport_error(error, self._url, send) from error
        return response.status_code, response.headers, bytes(body)


class AsyncHttpTransport:
    """Implements `AsyncTransport`, for one event loop."""

    def __init__(self, address: Address, tls: TlsFiles) -> None:
        """See `open_async_transport`."""
        self._url = address.url
        self._client = httpx.AsyncClient(**_client_arguments(address, tls))

    async def classify(self, image: bytes, options: CallOptions, send: Send) -> Classification:
        """See `AsyncTransport`."""
        return http_wire.classification(*await self._exchange(_classify(image, options, send), send))

    async def variants(self, send: Send) -> tuple[Variant, ...]:
        """See `AsyncTransport`."""
        return http_wire.variants(*await self._exchange(_VARIANTS, send))

    def stream(self, *_: object) -> NoReturn:
        """HTTP has no streams."""
        raise _no_stream(self._url)

    async def check_ready(self, send: Send) -> None:
        """See `AsyncTransport`."""
        http_wire.check_ready(*await self._exchange(_READINESS, send))

    async def close(self) -> None:
        """See `AsyncTransport`."""
        await self._client.aclose()

    async def _exchange(self, request: _Request, send: Send) -> tuple[int, httpx.Headers, bytes]:
        body = bytearray()
        try:
            async with (
                asyncio.timeout(send.timeout_ns / NS_PER_S),
                self._client.stream(request.method, request.path, timeout=None, **request.arguments) as response,
            ):
                async for chunk in response.aiter_bytes():
                    _extend(body, chunk, response)
        except TimeoutError as error:
            raise _timed_out(self._url, send) from error
        except httpx.HTTPError as error:
            raise _transport_error(error, self._url, send) from error
        return response.status_code, response.headers, bytes(body)


def _client_arguments(address: Address, tls: TlsFiles) -> dict[str, Any]:
    try:
        base_url = httpx.URL(address.url)
    except httpx.InvalidURL as error:
        raise InvalidUrl(str(error)) from error
    limits = httpx.Limits(
        max_connections=CONNECTIONS_MAX,
        max_keepalive_connections=_IDLE_CONNECTIONS_MAX,
        keepalive_expiry=_IDLE_S_MAX,
    )
    # Making a context reads every certificate authority there is, so not where nothing is encrypted.
    verify = tls.ssl_context() if address.is_secure else False
    return {"base_url": base_url, "verify": verify, "limits": limits, "headers": {"User-Agent": "phiserve-python"}}


def _no_stream(url: str) -> InvalidUrl:
    return InvalidUrl(f"a stream needs gRPC, got {url}; use a grpc:// address, or classify_many")


def _extend(body: bytearray, chunk: bytes, response: httpx.Response) -> None:
    body += chunk
    if len(body) > http_wire.ANSWER_BYTES_MAX:
        raise UnexpectedAnswer(
            f"HTTP {response.status_code} with more than {http_wire.ANSWER_BYTES_MAX} bytes, which no answer of "
            "phiserve has; is the address right?",
            status=response.status_code,
        )


def _timed_out(url: str, send: Send) -> TimedOut:
    return TimedOut(f"{url} was silent or slow for {send.timeout_ns / NS_PER_S:.3g} s; is it the right server?")


def _transport_error(error: httpx.HTTPError, url: str, send: Send) -> PhiserveError:
    if isinstance(error, httpx.TimeoutException):
        return _timed_out(url, send)
    if isinstance(error, httpx.DecodingError):
        return UnexpectedAnswer(f"{url} sent what it does not say how to read ({error}); is the address right?")
    return ConnectionFailed(f"{error or type(error).__name__} ({url})", is_transient=not _is_distrust(error))


def _is_distrust(error: BaseException | None) -> bool:
    """Whether TLS is the cause: who is not trusted now is not trusted in a moment either."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
