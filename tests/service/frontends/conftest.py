"""The REST API over a scripted engine, in-process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from service.core.tally import Tally
from service.frontends.oip_request import OipLimits
from service.frontends.oip_rest import install_oip_rest
from service.frontends.oip_service import OipService
from service.frontends.oip_statistics import Statistics
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.engine import ScriptedEngine
from tests.fakes.http import InProcessClient

LIMITS = RestLimits(image_bytes_max=1000, body_bytes_max=5000, images_per_request_max=4, top_k_max=20)


OIP_LIMITS = OipLimits(image_bytes_max=1000, body_bytes_max=500_000, images_max=4, top_k_max=20)


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
        metrics_page=lambda _: (b"up 1\n", "text/plain; version=1.0.0; charset=utf-8"),
        version="1.2.3",
        bind_request_id=bound_ids.append,
    )


@pytest.fixture
def client(app: FastAPI) -> Iterator[InProcessClient]:
    with InProcessClient(app) as client:
        yield client


@pytest.fixture
def tally(engine: ScriptedEngine) -> Tally:
    return Tally(engine.clock)


@pytest.fixture
def oip_service(engine: ScriptedEngine) -> OipService:
    return OipService(engine, OIP_LIMITS)


@pytest.fixture
def oip_statistics(engine: ScriptedEngine, tally: Tally) -> Statistics:
    """Statistics in 1970: the epoch is where the engine's clock began."""
    return Statistics(tally, engine.now_ns, engine.now_ns)


@pytest.fixture
def oip_client(app: FastAPI, oip_service: OipService, oip_statistics: Statistics) -> Iterator[InProcessClient]:
    """The REST API with the Open Inference Protocol beside it."""
    install_oip_rest(app, oip_service, oip_statistics, version="1.2.3")
    with InProcessClient(app) as client:
        yield client
