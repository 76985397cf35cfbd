"""`/docs`: the API reference, with every asset served from here. No page of ours refers to another host.

Swagger UI comes as a Python package; the page that starts it is ours, in `web/`. The Content-Security-Policy
makes the browser enforce what the first line says.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    # Swagger UI sets style attributes from its script.
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff"}
_ASSET_HEADERS = _HEADERS | {"Cache-Control": "public, max-age=3600"}


def install_docs(app: FastAPI) -> None:
    """Add `/`, which leads to `/docs`, and `/docs` with its assets."""
    ours = resources.files("service.frontends").joinpath("web")
    swagger_ui = resources.files("fastapi_swagger").joinpath("resources")
    page = ours.joinpath("docs.html").read_bytes()
    assets = {
        "docs.js": _asset(ours.joinpath("docs.js"), "text/javascript"),
        "favicon.png": _asset(swagger_ui.joinpath("favicon-32x32.png"), "image/png"),
        "swagger-ui.css": _asset(swagger_ui.joinpath("swagger-ui.css"), "text/css"),
        "swagger-ui-bundle.js": _asset(swagger_ui.joinpath("swagger-ui-bundle.js"), "text/javascript"),
    }

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("docs", status_code=307)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        headers = _HEADERS | {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
        return Response(page, headers=headers, media_type="text/html")

    @app.get("/docs/{name}", include_in_schema=False)
    async def docs_asset(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404)
        content, media_type = assets[name]
        return Response(content, headers=_ASSET_HEADERS, media_type=media_type)


def _asset(file: Traversable, media_type: str) -> tuple[bytes, str]:
    """Read once, when the server starts: a missing asset fails there and not in front of a reader."""
    return file.read_bytes(), media_type
