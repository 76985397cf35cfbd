"""What every HTTP exchange gets, whatever its route: a request id, and an answer even when the application raised.

The outermost layer of ours, plain ASGI. It reads no body and knows no route.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.frontends.http_problems import problem_response
from service.frontends.request_ids import accepted_request_id

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"


class HttpEnvelope:
    """ASGI middleware: sets `X-Request-ID` on every response and turns what escaped into a problem.

    `bind_request_id` is called with the id before anything else, in the request's own context: logging binds its
    context variable there.
    """

    def __init__(self, app: ASGIApp, bind_request_id: Callable[[str], object]) -> None:
        self._app = app
        self._bind_request_id = bind_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = accepted_request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        self._bind_request_id(request_id)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("the client left before it was answered")
        except Exception as error:
            if started:
                raise  # half an answer is out: only cutting the connection tells the caller so
            logger.exception("unexpected error while serving %s %r", scope["method"], scope["path"])
            await problem_response(error, request_id)(scope, receive, send_with_id)
