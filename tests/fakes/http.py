"""Two ways to reach an ASGI application: in-process without sockets, and as a real server on a free port."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.frontends.http_body import BEGAN_NS, RECEIVED_NS

T = TypeVar("T")

START_TIMEOUT_S = 20


class InProcessClient:
    """Sends requests to the application directly, all on one event loop: the real one, or one in fake time."""

    def __init__(self, app: ASGIApp, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
        self.app = app
        self._runner = asyncio.Runner(loop_factory=loop_factory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something else on the same loop."""
        return self._runner.run(coroutine)

    def request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 4321))
            async with httpx.AsyncClient(transport=transport, base_url="http://phiserve") as client:
                return await client.request(method, url, **arguments)

        return self.run(send())

    def get(self, url: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", url, **arguments)

    def post(self, url: str, **arguments: Any) -> httpx.Response:
        return self.request("POST", url, **arguments)


def noting(app: ASGIApp, began_ns: int, received_ns: int) -> ASGIApp:
    """`app` behind an HTTP server that notes when it read each request's first byte and its last."""

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope | {BEGAN_NS: began_ns, RECEIVED_NS: received_ns}, receive, send)

    return noted


class _AnnouncingServer(uvicorn.Server):
    """Tells when it has started, so that nobody polls."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@contextmanager
def running_server(app: FastAPI, **settings: Any) -> Iterator[int]:
    """Serve `app` with uvicorn from a thread; gives the port. `settings` are uvicorn's own, for TLS for instance."""
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None, access_log=False, **settings)
    server = _AnnouncingServer(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert server.is_up.wait(START_TIMEOUT_S), "the server did not start"
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
