"""How HTTP connections end when the server does: told so with an answer, and never waited for without a bound.

The outermost layer, plain ASGI. It decides neither when draining begins nor how long it lasts.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotReady
from service.frontends.http_envelope import REQUEST_ID_HEADER
from service.frontends.http_problems import problem_response

_CUT_DETAIL = "the server stopped before this request had arrived whole; try another replica"


def cut_answer(scope: Scope) -> Response:
    """The answer to an exchange that is cut."""
    # Set by the layer below, which is gone by now with everything it would have added.
    request_id = scope.get("state", {}).get("request_id")
    response = problem_response(NotReady(_CUT_DETAIL), request_id)
    if request_id is not None:
        response.headers[REQUEST_ID_HEADER] = request_id
    return response


class HttpDrain:
    """ASGI middleware. `begin`: every answer closes its connection; `cut`: what has no answer yet gets a 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._draining = False
        self._cut = False
        self._exchanges: set[asyncio.Task[object]] = set()

    def begin(self) -> None:
        """From now on each answer says `Connection: close`.

        A client that reuses a connection the server is about to close loses the request it sends in that moment,
        and cannot tell whether it was served. One that was told opens another connection, to another replica.
        """
        self._draining = True

    def cut(self) -> None:
        """Answer every exchange in progress with 503, a body that is still being sent included."""
        self.begin()
        self._cut = True
        for task in self._exchanges:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_last(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._draining:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        task = asyncio.current_task()
        assert task is not None, "an exchange is served by a task"
        self._exchanges.add(task)
        try:
            await self._app(scope, receive, send_last)
        except asyncio.CancelledError:
            if not self._cut or started:
                raise  # half an answer is out: only cutting the connection tells the caller so
            await cut_answer(scope)(scope, receive, send_last)
        finally:
            self._exchanges.discard(task)
