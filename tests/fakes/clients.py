"""Both clients behind one face, so that each behaviour is tested on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from anyio.from_thread import start_blocking_portal

from phiserve import AsyncClient, Client


class BlockingAsyncClient:
    """An `AsyncClient` on a loop that runs in a thread of its own, as a program's would, also between two methods."""

    def __init__(self, url: str, **arguments: Any) -> None:
        self._running = start_blocking_portal()
        self._portal = self._running.__enter__()
        try:
            self.client = self._portal.call(self._open, url, arguments)
        except BaseException:
            self._running.__exit__(None, None, None)
            raise

    async def _open(self, url: str, arguments: dict[str, Any]) -> AsyncClient:
        return AsyncClient(url, **arguments)

    def classify(self, image: object, **options: Any) -> Any:
        return self._portal.call(partial(self.client.classify, image, **options))

    def classify_many(self, images: object, **options: Any) -> Iterator[Any]:
        return self._each(self.client.classify_many(images, **options))

    def stream(self, frames: object, **options: Any) -> Iterator[Any]:
        return self._each(self.client.stream(frames, **options))

    def _each(self, results: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._portal.call(results.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self._portal.call(results.aclose)

    def variants(self) -> Any:
        return self._portal.call(self.client.variants)

    def wait_until_ready(self, timeout_s: float) -> None:
        self._portal.call(self.client.wait_until_ready, timeout_s)

    def close(self) -> None:
        self._portal.call(self.client.close)
        self._running.__exit__(None, None, None)


@contextmanager
def blocking_client(kind: type, url: str, **arguments: Any) -> Iterator[Any]:
    """A client of either `kind` with the methods of `Client`."""
    client = BlockingAsyncClient(url, **arguments) if kind is AsyncClient else Client(url, **arguments)
    try:
        yield client
    finally:
        client.close()
