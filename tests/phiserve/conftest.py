"""Both kinds of client, and a scripted engine behind the real REST front end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest

from phiserve import AsyncClient, Client
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.clients import blocking_client
from tests.fakes.engine import ScriptedEngine
from tests.fakes.grpc_classifier import grpc_classifier
from tests.fakes.http import running_server


class CurrentEngine:
    """Whatever engine the running test has: one server then does for all of them."""

    def __init__(self) -> None:
        self.current = ScriptedEngine()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


@pytest.fixture(scope="session")
def current_engine() -> CurrentEngine:
    return CurrentEngine()


@pytest.fixture
def engine(current_engine) -> ScriptedEngine:
    """A fresh engine behind the shared server."""
    current_engine.current = ScriptedEngine()
    return current_engine.current


@contextmanager
def _serve(engine: ScriptedEngine, **settings: Any) -> Iterator[str]:
    api = create_rest_api(engine, limits=RestLimits(), metrics_page=lambda _: (b"", "text/plain"), version="1.2.3")
    with running_server(api, **settings) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[str]]:
    """Serves an engine over the real REST front end; gives the URL. Further arguments are uvicorn's settings."""
    return _serve


@pytest.fixture(scope="session")
def http_url(current_engine, serve) -> Iterator[str]:
    """A server over the engine of the running test."""
    with serve(current_engine) as url:
        yield url


@pytest.fixture(scope="session")
def grpc_url(current_engine) -> Iterator[str]:
    """The same over gRPC."""
    with grpc_classifier(current_engine) as server:
        yield server.url


@pytest.fixture(params=["http", "grpc"])
def url(request, engine) -> str:
    """Either; what holds over one wire holds over the other."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def connect(request) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind, with the methods of `Client`, and closes them."""
    with ExitStack() as opened:
        yield lambda url, **arguments: opened.enter_context(blocking_client(request.param, url, **arguments))
