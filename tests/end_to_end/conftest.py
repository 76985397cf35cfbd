"""One store, one profile and one server for the whole session; tests that end a server start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.phiserve_process import ServerProcess, client_of, run_phiserve, serving

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
LITE = ("lite0", "lite1", "lite2")


@pytest.fixture(scope="session")
def lite_store(tmp_path_factory) -> Path:
    """A store of Lite0 to Lite2 with their real weights, built by the command."""
    store = tmp_path_factory.mktemp("lite") / "store"
    built = run_phiserve("store", "build", *LITE, "--store", store)
    assert built.returncode == 0, built.stderr
    return store


@pytest.fixture(scope="session")
def lite0_store(tmp_path_factory) -> Path:
    """A store of one variant, without a profile, that tests may copy and change."""
    store = tmp_path_factory.mktemp("lite0") / "store"
    assert run_phiserve("store", "build", "lite0", "--store", store).returncode == 0
    return store


@pytest.fixture(scope="session")
def serve_flags(lite_store) -> list[str | Path]:
    """Flags of every server on that store: those that decide what is profiled are the same, so one profile does."""
    return ["--store", lite_store, "--batch-size-max", "1"]


@pytest.fixture(scope="session")
def lean_flags(serve_flags) -> list[str | Path]:
    """Of servers that may as well have one variant: they are sooner up."""
    return [*serve_flags, "--variant", "lite0"]


@pytest.fixture(scope="session")
def server(serve_flags) -> Iterator[ServerProcess]:
    """The server that most tests share: the first on its store, so it measures the machine."""
    bounds = ("--image-bytes-max", "1000000", "--body-bytes-max", "8000000", "--image-pixels-max", "4000000")
    with serving(*serve_flags, *bounds, "--images-per-request-max", "16") as server:
        yield server


@pytest.fixture(scope="session")
def profiled(server) -> ServerProcess:
    """Asked for by tests that start another server on the store: after this it has a profile."""
    return server


@pytest.fixture(scope="session")
def client(server) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="session")
def espresso() -> bytes:
    return (PHOTOGRAPHS / "espresso.jpg").read_bytes()
