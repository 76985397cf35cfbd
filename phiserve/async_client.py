"""The client for asyncio: `Client`, method for method, for one event loop.

It translates nothing and decides no retry: `transports.py` speaks to the server, `retry.py` says what to do next.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Self, TypeVar, Unpack

from phiserve.address import DEFAULT_URL, TlsFiles
from phiserve.call_options import CallOptions, OptionArguments
from phiserve.client import READ_AHEAD, check_many
from phiserve.errors import PhiserveError, ServerError
from phiserve.images import ImageLike, encoded
from phiserve.results import Classification, Variant
from phiserve.retry import NS_PER_S, READY_PATIENCE, UNTIL_READY, Call, Pause, Retries, RetryPolicy, Send, patience
from phiserve.transports import open_async_transport

T = TypeVar("T")


class AsyncClient:
    """Classifies images on one server, over HTTP or gRPC by the URL's scheme. See `Client` for the arguments.

        async with AsyncClient("http://127.0.0.1:8000") as client:
            print((await client.classify("photo.jpg", budget_ms=50)).best.label)

    Cancelling a task that waits for a call cancels that call, on the server too.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        grace_s: float = 10.0,
        patience_s: float = 60.0,
        retry: RetryPolicy | None = None,
        ca_cert: str | Path | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
    ) -> None:
        """As `Client`; with a `grpc://` URL, inside a running event loop only."""
        self._url = url
        self._retries = Retries(retry or RetryPolicy(), patience(grace_s, patience_s), random.random)
        self._transport = open_async_transport(url, TlsFiles(ca_cert, client_cert, client_key))

    async def classify(self, image: ImageLike, **options: Unpack[OptionArguments]) -> Classification:
        """As `Client.classify`; files are read and pixels encoded in a thread."""
        return await self._classify(image, CallOptions(**options))

    def classify_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        concurrency: int = 8,
        **options: Unpack[OptionArguments],
    ) -> AsyncGenerator[Classification | PhiserveError | OSError]:
        """As `Client.classify_many`; closing the iterator cancels what is in work."""
        check_many(images, concurrency)
        return self._classify_many(images, concurrency, CallOptions(**options))

    def stream(
        self, frames: Iterable[ImageLike] | AsyncIterable[ImageLike], **options: Unpack[OptionArguments]
    ) -> AsyncGenerator[Classification | ServerError]:
        """As `Client.stream`; frames may come asynchronously, as from a camera."""
        asked = CallOptions(**options)
        return self._transport.stream(_contents(frames), asked, self._begin(asked).silence_ns)

    async def variants(self) -> tuple[Variant, ...]:
        """As `Client.variants`."""
        return await self._perform(self._retries.begin(time.monotonic_ns()), self._transport.variants)

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """As `Client.wait_until_ready`."""
        waiting = Retries(UNTIL_READY, READY_PATIENCE, random.random)
        call = waiting.begin(time.monotonic_ns(), budget_ns=patience(0.0, timeout_s).total_ns)
        await self._perform(call, self._transport.check_ready)

    async def close(self) -> None:
        """Close every connection; calls in progress fail."""
        await self._transport.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _classify(self, image: ImageLike, options: CallOptions) -> Classification:
        content = await _content(image)
        return await self._perform(self._begin(options), lambda send: self._transport.classify(content, options, send))

    def _begin(self, options: CallOptions) -> Call:
        return self._retries.begin(
            time.monotonic_ns(), budget_ns=options.budget_ns, is_late_allowed=options.is_late_allowed
        )

    async def _perform(self, call: Call, attempt: Callable[[Send], Awaitable[T]]) -> T:
        while True:
            action = call.next(time.monotonic_ns())
            if isinstance(action, Pause):
                await asyncio.sleep(action.duration_ns / NS_PER_S)
                continue
            try:
                result = await attempt(action)
            except PhiserveError as error:
                call.failed(error)
            else:
                call.answered()
                return result

    async def _classify_many(
        self, images: Iterable[ImageLike] | AsyncIterable[ImageLike], concurrency: int, options: CallOptions
    ) -> AsyncGenerator[Classification | PhiserveError | OSError]:
        places = asyncio.Semaphore(concurrency)

        async def result_of(image: ImageLike) -> Classification | PhiserveError | OSError:
            async with places:
                try:
                    return await self._classify(image, options)
                except (PhiserveError, OSError) as error:
                    return error

        begun: deque[asyncio.Task[Classification | PhiserveError | OSError]] = deque()
        try:
            async with aclosing(_each(images)) as each:
                async for image in each:
                    begun.append(asyncio.create_task(result_of(image)))
                    if len(begun) == READ_AHEAD * concurrency:
                        yield await begun[0]
                        begun.popleft()
            while begun:
                yield await begun[0]
                begun.popleft()
        finally:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)


async def _each(images: Iterable[ImageLike] | AsyncIterable[ImageLike]) -> AsyncGenerator[ImageLike]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


async def _content(image: ImageLike) -> bytes:
    """What is sent; files are read and pixels encoded in a thread."""
    return image if isinstance(image, bytes) else await asyncio.to_thread(encoded, image)


async def _contents(frames: Iterable[ImageLike] | AsyncIterable[ImageLike]) -> AsyncGenerator[bytes]:
    async with aclosing(_each(frames)) as each:
        async for frame in each:
            yield await _content(frame)
