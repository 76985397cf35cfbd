"""Both clients behind one face, so that each behaviour is tested on both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from phiserve import AsyncClient, Client


class BlockingAsyncClient:
    """An `AsyncClient` on a loop of its own, each method run to its end."""

    def __init__(self, url: str, **arguments: Any) -> None:
        self.runner = asyncio.Runner()
        try:
            self.client = self.runner.run(self._open(url, arguments))
        except BaseException:
            self.runner.close()
            raise

    async def _open(self, url: str, arguments: dict[str, Any]) -> AsyncClient:
        return AsyncClient(url, **arguments)

    def classify(self, image: object, **options: Any) -> Any:
        return self.runner.run(self.client.classify(image, **options))

    def classify_many(self, images: object, **options: Any) -> Iterator[Any]:
        return self._each(self.client.classify_many(images, **options))

    def stream(self, frames: object, **options: Any) -> Iterator[Any]:
        return self._each(self.client.stream(frames, **options))

    def _each(self, results: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self.runner.run(anext(results))
                except StopAsyncIteration:
                    return
        finally:
            self.runner.run(results.aclose())

    def variants(self) -> Any:
        return self.runner.run(self.client.variants())

    def wait_until_ready(self, timeout_s: float) -> None:
        self.runner.run(self.client.wait_until_ready(timeout_s))

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()


@contextmanager
def blocking_client(kind: type, url: str, **arguments: Any) -> Iterator[Any]:
    """A client of either `kind` with the methods of `Client`."""
    client = BlockingAsyncClient(url, **arguments) if kind is AsyncClient else Client(url, **arguments)
    try:
        yield client
    finally:
        client.close()
