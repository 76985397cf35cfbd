"""The REST API over a scripted engine, in-process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.engine import ScriptedEngine
from tests.fakes.http import InProcessClient

LIMITS = RestLimits(image_bytes_max=1000, body_bytes_max=5000, images_per_request_max=4, top_k_max=20)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def bound_ids() -> list[str]:
    """Every request id that the API bound for logging."""
    return []


@pytest.fixture
def app(engine: ScriptedEngine, bound_ids: list[str]) -> FastAPI:
    return create_rest_api(
        engine,
        limits=LIMITS,
        metrics_page=lambda: (b"up 1\n", "text/plain; version=1.0.0; charset=utf-8"),
        version="1.2.3",
        bind_request_id=bound_ids.append,
    )


@pytest.fixture
def client(app: FastAPI) -> Iterator[InProcessClient]:
    with InProcessClient(app) as client:
        yield client
