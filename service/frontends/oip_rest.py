"""The HTTP front of the Open Inference Protocol: its paths under /v2, and nothing more than their translation.

Errors are `{"error": …}` as the protocol prescribes, with the statuses of `status_codes.py`. The paths are not in the
OpenAPI description: the protocol has one of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.errors import MalformedRequest, NotReady, PhiserveError, UnknownVariant
from service.frontends import oip_rest_wire as wire
from service.frontends.http_body import read_body, times_ns
from service.frontends.http_disconnect import unless_disconnected
from service.frontends.http_problems import error_response
from service.frontends.oip_metadata import config, index, model_metadata, server_metadata
from service.frontends.oip_models import Model
from service.frontends.oip_service import OipService
from service.frontends.oip_statistics import Statistics

Endpoint = Callable[[Request], Awaitable[Response]]

_INDEX_BYTES_MAX = 64 * 2**10


def install_oip_rest(app: FastAPI, service: OipService, statistics: Statistics, *, version: str) -> None:
    """Add the protocol's paths to `app`; `version` is the server's, as metadata shows it."""
    routes = _OipRoutes(service, statistics, version)
    paths: list[tuple[str, str, Endpoint]] = [
        ("GET", "/v2", routes.server),
        ("GET", "/v2/health/live", routes.live),
        ("GET", "/v2/health/ready", routes.ready),
        ("GET", "/v2/models/stats", routes.all_stats),
        ("POST", "/v2/repository/index", routes.repository_index),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        paths += [
            ("GET", model, routes.model),
            ("GET", model + "/ready", routes.model_ready),
            ("GET", model + "/config", routes.model_config),
            ("GET", model + "/stats", routes.model_stats),
            ("POST", model + "/infer", routes.infer),
        ]
    for method, path, endpoint in paths:
        app.router.routes.append(_Route(path, _answering_errors(endpoint), methods=[method]))
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app.router.routes.append(_Route("/v2/{path:path}", _answering_errors(routes.unknown), methods=every))


def _answering_errors(endpoint: Endpoint) -> Endpoint:
    """`endpoint`, with our errors answered in the protocol's shape. What else is raised is the envelope's."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except PhiserveError as error:
            return error_response(error, {"error": error.detail}, wire.JSON_MEDIA_TYPE)

    return answer


class _Route(Route):
    """Leaves itself in the scope, as FastAPI's own routes do: who observes an exchange is told its pattern."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `Route`."""
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope


class _OipRoutes:
    """One method for each path."""

    def __init__(self, service: OipService, statistics: Statistics, version: str) -> None:
        self._service = service
        self._statistics = statistics
        self._version = version
        self._json_bytes_max = wire.json_bytes_max(service.limits.image_bytes_max)

    async def server(self, _: Request) -> Response:
        return _json(server_metadata(self._version))

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        if not self._service.models.server_ready:
            raise NotReady("the server is starting or draining; send requests when this answers 200")
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        return _json(model_metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        model = self._model(request)
        if not self._service.models.is_ready(model):
            raise NotReady(f"model {model.name} is not ready: {self._service.models.state(model)[1]}")
        return _json({"name": model.name, "ready": True})

    async def model_config(self, request: Request) -> Response:
        return _json(config(self._model(request)))

    async def model_stats(self, request: Request) -> Response:
        return _json(self._statistics.of([self._model(request)]))

    async def all_stats(self, _: Request) -> Response:
        return _json(self._statistics.of(self._service.models.all))

    async def repository_index(self, request: Request) -> Response:
        body = await read_body(request, _INDEX_BYTES_MAX)
        try:
            asked = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError:
            raise MalformedRequest('the body must be empty or an object such as {"ready": true}') from None
        return _json(index(self._service.models, ready_only=isinstance(asked, dict) and asked.get("ready") is True))

    async def infer(self, request: Request) -> Response:
        body = await read_body(request, self._service.limits.body_bytes_max)
        began_ns, received_ns = times_ns(request.scope, self._service.now_ns)
        asked = wire.parse_call(
            body,
            model=request.path_params["model"],
            version=request.path_params.get("version", ""),
            header_length=request.headers.get(wire.HEADER_LENGTH),
            query=request.scope["query_string"],
            json_bytes_max=self._json_bytes_max,
        )
        client = request.client.host if request.client else ""
        work = self._service.infer(asked.call, received_ns=received_ns, began_ns=began_ns, client=client)
        answer = await unless_disconnected(request.receive, work)
        written = wire.write_answer(answer, asked.binary_outputs)
        if written.header_length is None:
            return Response(written.content, media_type=wire.JSON_MEDIA_TYPE)
        headers = {wire.HEADER_LENGTH: str(written.header_length)}
        return Response(written.content, headers=headers, media_type=wire.BINARY_MEDIA_TYPE)

    async def unknown(self, request: Request) -> Response:
        # The nearest class there is: what is unknown here is a path, and 404 is what clients look at.
        raise UnknownVariant(f"the protocol has no {request.method} {request.url.path}, or it is not served")

    def _model(self, request: Request) -> Model:
        return self._service.models.find(request.path_params["model"], request.path_params.get("version", ""))


def _json(content: Mapping[str, Any] | list[dict[str, Any]]) -> Response:
    return Response(orjson.dumps(content), media_type=wire.JSON_MEDIA_TYPE)
