"""What every HTTP exchange gets, whatever its route: request id, observer, an answer even if the application raised.

The outermost layer of ours, plain ASGI. It reads no body and knows no route.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.exchange import Ending, Exchange, ExchangeObserver
from service.frontends.http_problems import problem_response
from service.frontends.request_ids import accepted_request_id

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID_FIELD = REQUEST_ID_HEADER.lower().encode()
_BEGUN = "phiserve.begun"


class HttpEnvelope:
    """ASGI middleware: sets `X-Request-ID` on every response and turns what escaped into a problem.

    `bind_request_id` is called with the id before anything else, in the request's own context: logging binds its
    context variable there. `observer` hears of every exchange in the same context.
    """

    def __init__(
        self, app: ASGIApp, bind_request_id: Callable[[str], object], observer: ExchangeObserver | None = None
    ) -> None:
        self._app = app
        self._bind_request_id = bind_request_id
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, exchange = scope.pop(_BEGUN, None) or self._begin(scope)
        if self._observer is None or exchange is None:
            await self._serve(scope, receive, send, request_id)
            return
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._serve(scope, receive, send_and_note, request_id)
        finally:
            self._observer.exchange_ended(exchange, _ending(status, scope))

    def begin(self, scope: Scope) -> None:
        """Begin an exchange before it is served, in its own context; either it is, or `answered` follows."""
        scope[_BEGUN] = self._begin(scope)

    def answered(self, scope: Scope, response: Response) -> Response:
        """`response`, as the answer of an exchange that was begun and never is served."""
        request_id, exchange = scope.pop(_BEGUN)
        response.raw_headers.append((_REQUEST_ID_FIELD, request_id.encode()))
        if self._observer is not None and exchange is not None:
            self._observer.exchange_ended(exchange, _ending(response.status_code, scope))
        return response

    async def answering(self, scope: Scope, work: Coroutine[Any, Any, Response]) -> Response:
        """As `answered`, of the response that `work` comes to; cancelled where that is, and raises nothing else."""
        request_id, exchange = scope[_BEGUN]
        try:
            response = await work
        except asyncio.CancelledError:
            if self._observer is not None and exchange is not None:
                self._observer.exchange_ended(exchange, _ending(0, scope))
            raise
        except Exception as error:  # noqa: BLE001  as in `_serve`
            response = _unexpected(error, scope, request_id)
        return self.answered(scope, response)

    def _begin(self, scope: Scope) -> tuple[str, Exchange | None]:
        """The request's id; and the exchange, if somebody observes it."""
        given = next((value for name, value in scope["headers"] if name == _REQUEST_ID_FIELD), None)
        request_id = accepted_request_id(None if given is None else given.decode("latin-1"))
        scope.setdefault("state", {})["request_id"] = request_id
        self._bind_request_id(request_id)
        if self._observer is None:
            return request_id, None
        exchange = _exchange(scope, Headers(scope=scope), request_id)
        self._observer.exchange_began(exchange)
        return request_id, exchange

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID_FIELD, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("the client left before it was answered")
        except Exception as error:
            if started:
                raise  # half an answer is out: only cutting the connection tells the caller so
            await _unexpected(error, scope, request_id)(scope, receive, send_with_id)


def _unexpected(error: Exception, scope: Scope, request_id: str) -> Response:
    logger.error("unexpected error while serving %s %r", scope["method"], scope["path"], exc_info=error)
    return problem_response(error, request_id)


def _exchange(scope: Scope, headers: Headers, request_id: str) -> Exchange:
    def header(name: str) -> str | None:
        return ", ".join(headers.getlist(name)) or None

    server = scope.get("server") or ("", None)
    client = scope.get("client")
    return Exchange(
        request_id=request_id,
        method=scope["method"],
        path=scope["path"],
        client=client[0] if client else "",
        header=header,
        query=scope["query_string"].decode("latin-1"),
        scheme=scope["scheme"],
        protocol_version=scope["http_version"],
        server_address=server[0],
        server_port=server[1],
    )


def _ending(status: int, scope: Scope) -> Ending:
    """`status` 0: nothing was sent. The router has left the matching route in `scope`."""
    route = getattr(scope.get("route"), "path", "")
    return Ending(str(status) if status else None, is_error=not 0 < status < 400, is_fault=status >= 500, route=route)
