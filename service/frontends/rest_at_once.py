"""`POST /classify` of one picture as the body, answered as soon as it can be: what nearly every request is.

The route serves all else: several pictures, bodies of unknown length, faults in the query or the header. Both give the
same answers.
"""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from service.core.engine import Engine
from service.core.request import Classification
from service.errors import InvalidArgument, PhiserveError
from service.frontends.http_at_once import Answering
from service.frontends.http_body import is_one_image, times_ns
from service.frontends.http_envelope import HttpEnvelope
from service.frontends.http_problems import problem_response
from service.frontends.rest_answer import classified
from service.frontends.rest_parameters import ClassifyParameters


class PicturesAtOnce:
    """`AtOnce` for the route at `path`."""

    def __init__(
        self,
        engine: Engine,
        parameters: ClassifyParameters,
        envelope: HttpEnvelope,
        route: BaseRoute,
        *,
        path: str,
        image_bytes_max: int,
    ) -> None:
        """`envelope` is what the route's exchanges get; `route` is what observers are told of."""
        self._engine = engine
        self._parameters = parameters
        self._envelope = envelope
        self._route = route
        self._path = path
        self._image_bytes_max = image_bytes_max

    def takes(self, scope: Scope) -> bool:
        """See `AtOnce`."""
        if scope["path"] != self._path or scope["method"] != "POST":
            return False
        try:
            self._parameters.parse(scope["query_string"])  # which are kept for when they are needed
        except InvalidArgument:
            return False  # the route says so, without reading the body
        return is_one_image(scope["headers"], self._image_bytes_max)

    def begin(self, scope: Scope) -> None:
        """See `AtOnce`."""
        self._envelope.begin(scope)

    def answer(self, scope: Scope, body: bytes) -> Response | Answering:
        """See `AtOnce`."""
        engine, client = self._engine, scope.get("client")
        began_ns, received_ns = times_ns(scope, engine.now_ns)
        options = self._parameters.parse(scope["query_string"])
        scope["route"] = self._route
        try:
            admitted = engine.admit(
                body, options, received_ns=received_ns, began_ns=began_ns, client=client[0] if client else ""
            )
        except PhiserveError as error:
            return self._envelope.answered(scope, problem_response(error, scope["state"]["request_id"]))
        return self._envelope.answering(scope, _answer(scope, engine.answer(admitted)))


async def _answer(scope: Scope, answering: Awaitable[Classification]) -> Response:
    try:
        return classified(await answering)
    except PhiserveError as error:
        return problem_response(error, scope["state"]["request_id"])
