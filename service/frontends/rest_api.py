"""The REST front end: routes that translate between HTTP and `service.core.engine`, and nothing more.

It measures nothing and decides nothing: no metric, no routing, no retry. `POST /classify` bypasses the framework on
purpose, its validation, serialisation, router and middleware: they would cost more than the rest of this layer. The
route is declared all the same, for the documentation, and every other method on that path is the framework's to refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.engine import Engine, Readiness
from service.core.request import Classification
from service.errors import ImageTooLarge, InvalidArgument, NotReady, PhiserveError, UnknownVariant
from service.exchange import ExchangeObserver
from service.frontends import rest_answer, rest_schemas
from service.frontends.http_at_once import AtOnce
from service.frontends.http_body import BodyLimits, read_images, times_ns
from service.frontends.http_disconnect import unless_disconnected
from service.frontends.http_envelope import HttpEnvelope
from service.frontends.http_problems import (
    PROBLEM_PATH,
    install_problem_handlers,
    problem,
    problem_response,
    request_id_of,
)
from service.frontends.rest_answer import json_response
from service.frontends.rest_at_once import PicturesAtOnce
from service.frontends.rest_docs import install_docs
from service.frontends.rest_openapi import CLASSIFY_DESCRIPTION, classify_openapi, install_openapi
from service.frontends.rest_parameters import ClassifyParameters
from service.frontends.status_codes import STATUS_BY_ERROR

MetricsPage = Callable[[str], tuple[bytes, str]]
"""Renders the metrics for what an `Accept` header asks for: body and content type."""

_CLASSIFY_PATH = "/classify"

# Faults of the request and not of a picture: several images share them, so they are answered once.
_SHARED_FAULTS = (InvalidArgument, UnknownVariant, NotReady)


@dataclass(frozen=True, slots=True)
class RestLimits:
    """Bounds of what one request may bring and ask.

    `image_bytes_max`: encoded bytes of one image. `body_bytes_max`: bytes of a whole multipart body, which bounds
    the memory one request can hold. `images_per_request_max`: parts of a multipart body. `top_k_max`: classes in an
    answer.
    """

    image_bytes_max: int = 20 * 2**20
    body_bytes_max: int = 64 * 2**20
    images_per_request_max: int = 16
    top_k_max: int = 20


def create_rest_api(
    engine: Engine,
    *,
    limits: RestLimits,
    metrics_page: MetricsPage,
    version: str,
    bind_request_id: Callable[[str], object] = lambda _: None,
    observer: ExchangeObserver | None = None,
) -> RestApi:
    """The ASGI application over `engine`.

    `bind_request_id` is called with each request's id in that request's own context, for logging. `observer` hears of
    every exchange, whatever its path.
    """
    app = RestApi(
        title="phiserve",
        version=version,
        docs_url=None,
        redoc_url=None,
        # Generated clients name their methods by these.
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(HttpEnvelope, bind_request_id=bind_request_id, observer=observer)
    install_problem_handlers(app)
    parameters = ClassifyParameters(
        budget_ns_default=engine.budget_ns_default, budget_ns_max=engine.budget_ns_max, top_k_max=limits.top_k_max
    )
    app.classify = HttpEnvelope(_install_classify(app, engine, parameters, limits), bind_request_id, observer)
    app.pictures = PicturesAtOnce(
        engine,
        parameters,
        app.classify,
        app.router.routes[-1],
        path=_CLASSIFY_PATH,
        image_bytes_max=limits.image_bytes_max,
    )
    _install_menu(app, engine)
    _install_probes(app, engine, metrics_page)
    _install_problem_kinds(app)
    install_docs(app)
    install_openapi(app)
    return app


class RestApi(FastAPI):
    """The framework's application, with `POST /classify` served before it, most of it by `pictures`."""

    classify: HttpEnvelope
    pictures: AtOnce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] == "http" and scope["path"] == _CLASSIFY_PATH and scope["method"] == "POST":
            await self.classify(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _install_classify(app: FastAPI, engine: Engine, parameters: ClassifyParameters, limits: RestLimits) -> ASGIApp:
    """Declare the route, and return what serves it without the router."""
    body_limits = BodyLimits(
        image_bytes_max=limits.image_bytes_max,
        body_bytes_max=limits.body_bytes_max,
        images_max=limits.images_per_request_max,
    )

    @app.post(
        _CLASSIFY_PATH,
        summary="Classify an image, or several",
        description=CLASSIFY_DESCRIPTION,
        response_model=rest_schemas.Answer | rest_schemas.Answers,
        openapi_extra=classify_openapi(parameters, limits.images_per_request_max),
        tags=["classify"],
    )
    async def classify(request: Request) -> Response:
        options = parameters.parse(request.scope["query_string"])
        images = await read_images(request, body_limits)
        began_ns, received_ns = times_ns(request.scope, engine.now_ns)
        client = request.client.host if request.client else ""
        first = images[0]
        if len(images) == 1 and isinstance(first, bytes):
            # Admitted before its caller is watched: what is refused at once needs no watch.
            admitted = engine.admit(first, options, received_ns=received_ns, began_ns=began_ns, client=client)
            return _respond([await unless_disconnected(request.receive, engine.answer(admitted))])

        async def infer(image: bytes) -> Classification:
            return await engine.infer(image, options, received_ns=received_ns, began_ns=began_ns, client=client)

        return _respond(await unless_disconnected(request.receive, _infer_all(images, infer)))

    route = app.router.routes[-1]

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = route  # as the router would: observers ask for it
        request = Request(scope, receive)
        try:
            response = await classify(request)
        except PhiserveError as error:
            response = problem_response(error, request_id_of(request))
        await response(scope, receive, send)

    return serve


async def _infer_all(
    images: tuple[bytes | ImageTooLarge, ...], infer: Callable[[bytes], Awaitable[Classification]]
) -> list[Classification | PhiserveError]:
    """Each image's answer or error, in order. All run at once; cancelling this cancels them all."""

    async def result_of(image: bytes | ImageTooLarge) -> Classification | PhiserveError:
        if isinstance(image, ImageTooLarge):
            return image
        try:
            return await infer(image)
        except PhiserveError as error:
            return error

    if len(images) == 1:
        return [await result_of(images[0])]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(result_of(image)) for image in images]
    return [task.result() for task in tasks]


def _respond(results: list[Classification | PhiserveError]) -> Response:
    """One result is the whole answer, with its own status; several are a list under 200.

    Raises:
        PhiserveError: the only result, or a fault that all results share.
    """
    first = results[0]
    if isinstance(first, PhiserveError) and all(
        type(result) is type(first) and isinstance(result, _SHARED_FAULTS) for result in results
    ):
        raise first
    if len(results) > 1:
        total_ms = max((_total_ms(result) for result in results), default=0.0)
        return json_response({"results": [_result(result) for result in results]}, {"total": total_ms})
    if isinstance(first, PhiserveError):
        raise first
    return rest_answer.classified(first)


def _result(result: Classification | PhiserveError) -> dict[str, Any]:
    return {"error": problem(result)} if isinstance(result, PhiserveError) else rest_answer.answer(result)


def _total_ms(result: Classification | PhiserveError) -> float:
    return 0.0 if isinstance(result, PhiserveError) else rest_answer.timings_ms(result.timings)["total"]


def _install_menu(app: FastAPI, engine: Engine) -> None:
    @app.get(
        "/variants",
        summary="What can be asked for, and what each budget would get",
        response_model=rest_schemas.Menu,
        tags=["menu"],
    )
    async def variants() -> Response:
        """Every variant, most accurate first: accuracy and its source, provenance and licence, measured latencies."""
        return json_response(rest_answer.menu(engine))


def _install_probes(app: FastAPI, engine: Engine, metrics_page: MetricsPage) -> None:
    @app.get("/livez", summary="Does the process answer?", response_model=rest_schemas.Liveness, tags=["operations"])
    async def livez() -> Response:
        """Always 200; restart the process when it is not."""
        return json_response({"status": "alive"})

    @app.get("/readyz", summary="Are requests taken?", response_model=rest_schemas.ReadinessAnswer, tags=["operations"])
    async def readyz() -> Response:
        """200 when every variant is loaded, warmed and profiled; 503 while starting and draining."""
        if engine.readiness is not Readiness.READY:
            raise NotReady(f"the server is {engine.readiness.value}; send requests when this answers 200")
        return json_response({"status": engine.readiness.value})

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, tags=["operations"])
    async def metrics(request: Request) -> Response:
        """The text exposition format; OpenMetrics, which has exemplars, if `Accept` names it."""
        body, content_type = metrics_page(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})


def _install_problem_kinds(app: FastAPI) -> None:
    kinds = {
        row.slug: {
            "type": PROBLEM_PATH + row.slug,
            "title": row.title,
            "status": row.http,
            "grpc_status": row.grpc,
            "description": (error.__doc__ or "").partition("\n")[0],
        }
        for error, row in STATUS_BY_ERROR.items()
    }

    @app.get(
        PROBLEM_PATH + "{slug}",
        summary="What a problem's type means",
        response_model=rest_schemas.ProblemKind,
        tags=["operations"],
    )
    async def problem_kind(slug: str) -> Response:
        """The page that the `type` of a problem refers to."""
        if slug not in kinds:
            raise HTTPException(404)
        return json_response(kinds[slug])
