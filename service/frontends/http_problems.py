"""Errors as RFC 9457 problem+json: how every HTTP error of this server looks, whoever raised it.

It never shows a traceback, an exception's text or a type name of ours: what is not a `PhiserveError` is
answered with a fixed sentence and logged by `http_envelope`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service.errors import DeadlineExceeded, InvalidArgument, Overloaded, PhiserveError, Unauthenticated
from service.frontends.http_body import BodyTooLarge
from service.frontends.status_codes import wire_status

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_PATH = "/problems/"
"""A problem's `type` is this path and the slug: a relative reference that the server itself answers."""

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
LINGER_S = 1.0
"""How long the rest of a refused body is read and dropped before the connection is closed."""


def problem(error: BaseException, request_id: str | None = None) -> dict[str, Any]:
    """`error` as the members of a problem: `type`, `title`, `status`, `detail`, and what its class adds.

    `smallest_feasible_budget_ms` on DeadlineExceeded and `retry_after_ms` on Overloaded say what would have
    worked; `instance` names this very occurrence by its request id.
    """
    row = wire_status(error)
    detail = error.detail if isinstance(error, PhiserveError) else "The server failed; its log says more."
    members: dict[str, Any] = {
        "type": PROBLEM_PATH + row.slug,
        "title": row.title,
        "status": row.http,
        "detail": detail,
    }
    if request_id is not None:
        members["instance"] = f"urn:phiserve:request:{request_id}"
    if isinstance(error, DeadlineExceeded) and error.smallest_feasible_budget_ns is not None:
        members["smallest_feasible_budget_ms"] = error.smallest_feasible_budget_ns / NS_PER_MS
    if isinstance(error, Overloaded):
        members["retry_after_ms"] = error.retry_after_ns / NS_PER_MS
    return members


def problem_response(error: BaseException, request_id: str | None = None) -> Response:
    """The whole answer for `error`, as a problem."""
    return error_response(error, problem(error, request_id), PROBLEM_MEDIA_TYPE)


def error_response(error: BaseException, content: Mapping[str, Any], media_type: str) -> Response:
    """`content` as the answer for `error`, with the status and the headers its class calls for.

    `Retry-After` is whole seconds, rounded up and at least 1, since HTTP (RFC 9110, section 10.2.3) has no finer.
    """
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, -(-error.retry_after_ns // NS_PER_S)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    status = wire_status(error).http
    if isinstance(error, BodyTooLarge):
        return _LastWords(orjson.dumps(content), status, headers | {"Connection": "close"}, media_type)
    return Response(orjson.dumps(content), status, headers, media_type)


def install_problem_handlers(app: FastAPI) -> None:
    """Answer our errors, and those that the framework raises itself (404, 405, 422), as problems."""
    app.add_exception_handler(PhiserveError, _on_phiserve_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


class _LastWords(Response):
    """A response to a request whose body was not read to its end, after which the connection is closed.

    Closing a socket with unread bytes makes the kernel send a reset, which can destroy the answer before the
    caller has read it. So the answer goes out first, then what the caller still sends is dropped for a while.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 ASGI's signature
        """Send everything, drain for at most `LINGER_S`, then end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER_S):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        except TimeoutError:
            pass  # the caller is slow or endless; it has had its answer
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def request_id_of(request: Request) -> str | None:
    """The id that `http_envelope` gave this request."""
    return getattr(request.state, "request_id", None)


async def _on_phiserve_error(request: Request, error: Exception) -> Response:
    return problem_response(error, request_id_of(request))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return problem_response(InvalidArgument("; ".join(faults)), request_id_of(request))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """A plain status, which needs no type of its own (`about:blank`, RFC 9457 section 4.2.1)."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    members = {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": _http_detail(request, error, headers),
    }
    if (request_id := request_id_of(request)) is not None:
        members["instance"] = f"urn:phiserve:request:{request_id}"
    return Response(orjson.dumps(members), error.status_code, headers, PROBLEM_MEDIA_TYPE)


def _http_detail(request: Request, error: HTTPException, headers: Mapping[str, str]) -> str:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return "Nothing is served at this path; /docs lists what is."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers.get("Allow", headers.get("allow", "another method"))
        return f"{request.method} is not served at this path; use {allowed}."
    return str(error.detail)
