"""What OpenAPI says beyond the response models: the body and parameters of /classify, and problems for errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.errors import StoreRefused, Unauthenticated
from service.frontends import rest_schemas
from service.frontends.http_body import IMAGE_PART
from service.frontends.http_problems import PROBLEM_MEDIA_TYPE
from service.frontends.rest_parameters import ClassifyParameters
from service.frontends.status_codes import STATUS_BY_ERROR

CLASSIFY_DESCRIPTION = f"""\
The body is the image itself, or multipart/form-data with parts named `{IMAGE_PART}`.

A body with **one** image, raw or multipart, is answered with its result: an answer, or a problem with its own status.
Multipart with **several** images is answered 200 with `results`, one for each part in order, independent of one
another: an answer, or `{{"error": problem}}`. Only a fault that is the request's own, such as a malformed parameter,
fails it as a whole.

The budget counts from when the request was received whole to when its answer is ready to be written.
"""

_FOR_OPERATORS = (Unauthenticated, StoreRefused)
_CLASSIFY_STATUSES = sorted({row.http for kind, row in STATUS_BY_ERROR.items() if kind not in _FOR_OPERATORS})
_BINARY = {"type": "string", "format": "binary"}


def classify_openapi(parameters: ClassifyParameters, images_max: int) -> dict[str, Any]:
    """The parts of `POST /classify` that the framework cannot see, since that route parses for itself."""
    titles: dict[int, list[str]] = {}
    for row in STATUS_BY_ERROR.values():
        titles.setdefault(row.http, []).append(row.title)
    return {
        "parameters": parameters.to_openapi(),
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": _BINARY},
                "application/octet-stream": {"schema": _BINARY},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": [IMAGE_PART],
                        "properties": {
                            IMAGE_PART: {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": images_max}
                        },
                    }
                },
            },
        },
        "responses": {
            str(status): {"description": " or ".join(titles[status]), "content": _problem_content()}
            for status in _CLASSIFY_STATUSES
        },
    }


def install_openapi(app: FastAPI) -> None:
    """Make `/openapi.json` complete: the shape of problems, and 503 where readiness is asked."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    # The framework documents overriding the method as the way to change what it generates.
    app.openapi = openapi  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, license_info={"name": "Apache-2.0"})
    document["components"]["schemas"]["Problem"] = rest_schemas.Problem.model_json_schema()
    for path, status in (("/readyz", 503), ("/problems/{slug}", 404)):
        responses = document["paths"][path]["get"]["responses"]
        responses.pop("422", None)  # a path segment is text, whatever it holds
        responses[str(status)] = {"description": "See the problem's detail", "content": _problem_content()}
    document["components"]["schemas"].pop("HTTPValidationError", None)
    document["components"]["schemas"].pop("ValidationError", None)
    return document


def _problem_content() -> dict[str, Any]:
    return {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
