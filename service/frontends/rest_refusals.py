"""What the door refuses of `POST /classify`, answered at once. Answers nothing else, not even other errors.

One picture as the body is judged as soon as it is there. If the door would let it in, the route asks again: who is
admitted must be counted with those before it in the same step.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from service.core.engine import Engine
from service.core.request import Refused
from service.errors import InvalidArgument
from service.frontends.http_body import is_one_image, times_ns
from service.frontends.http_envelope import HttpEnvelope
from service.frontends.http_problems import problem_response
from service.frontends.rest_parameters import ClassifyParameters


class Refusals:
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

    def answer(self, scope: Scope, body: bytes) -> Response | None:
        """See `AtOnce`."""
        engine, client = self._engine, scope.get("client")
        began_ns, received_ns = times_ns(scope, engine.now_ns)
        options = self._parameters.parse(scope["query_string"])
        found = engine.knock(
            body, options, received_ns=received_ns, began_ns=began_ns, client=client[0] if client else ""
        )
        if not isinstance(found, Refused):
            return None
        scope["route"] = self._route
        return self._envelope.answered(scope, lambda request_id: problem_response(engine.refuse(found), request_id))
