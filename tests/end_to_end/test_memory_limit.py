"""A real server under a limit on memory: what does not fit is unloaded, comes when it is named, and budgets hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from model_store.footprint import Footprint
from tests.end_to_end.conftest import LITE
from tests.end_to_end.phiserve_process import client_of, run_phiserve, serving
from tests.fakes.footprints import measured_footprints

MIB = 1024**2


@pytest.fixture(scope="module")
def smallest_mib(profiled, serve_flags) -> int:
    """The smallest limit that works, from the refusal of one that does not."""
    refused = run_phiserve(
        "serve", *serve_flags, "--port", "0", "--grpc", "off", "--memory-limit-mib", "1", timeout_s=200
    )
    assert refused.returncode == 2, refused.stderr
    said = re.search(r"the smallest limit that works here is (\d+)", refused.stderr)
    assert said is not None, refused.stderr
    return int(said[1])


@pytest.fixture(scope="module")
def footprints(smallest_mib, lite_store) -> Mapping[str, Footprint]:
    """What that refusal has measured."""
    return measured_footprints(lite_store)


@pytest.fixture(scope="module")
def limit_mib(smallest_mib, footprints) -> int:
    """Room for Lite1 or Lite2 beside Lite0 while it is loaded, and not for both: halfway between."""
    lite0, lite1, lite2 = (footprints[name] for name in LITE)
    one = max(lite1.loading_bytes, lite2.loading_bytes)
    both = min(lite1.resident_bytes + lite2.loading_bytes, lite2.resident_bytes + lite1.loading_bytes)
    return smallest_mib + ((one + both) // 2 + lite0.resident_bytes - lite0.loading_bytes) // MIB


@pytest.fixture(scope="module")
def limited(limit_mib, serve_flags):
    """A server with room for one variant at a time beside the smallest."""
    with serving(*serve_flags, "--memory-limit-mib", str(limit_mib)) as server:
        yield server


def loaded(client) -> dict[str, bool]:
    return {row["name"]: row["loaded"] for row in client.get("/variants").json()["variants"]}


def metric(client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " "))
    return float(line.rpartition(" ")[2])


def resident_mib(server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def test_the_smallest_limit_that_is_named_works(smallest_mib, footprints, serve_flags, espresso) -> None:
    """A start under it serves the smallest variant, and says of the others that they do not fit."""
    lite0, *larger = (footprints[name].loading_bytes for name in LITE)
    # Some more than that, since no two starts take the same, and halfway to what the next one needs.
    limit = str(smallest_mib + (min(larger) - lite0) // 2 // MIB)
    with serving(*serve_flags, "--memory-limit-mib", limit) as server, client_of(server) as client:
        assert [name for name, is_loaded in loaded(client).items() if is_loaded] == ["lite0"]
        assert client.post("/classify", content=espresso).json()["variant"]["name"] == "lite0"
        never = client.post("/classify?variant=lite2", content=espresso)
        assert (never.status_code, "does not fit into the memory" in never.json()["detail"]) == (404, True)


def test_a_variant_comes_back_when_it_is_named(limited, limit_mib, espresso) -> None:
    """One that is not loaded is loaded for a request with time for it; one without is told what time would do."""
    with client_of(limited) as client:
        before = loaded(client)
        absent = next(name for name in ("lite1", "lite2") if not before[name])
        refused = client.post(f"/classify?variant={absent}&budget_ms=20", content=espresso)
        assert refused.status_code == 504
        assert "has to be loaded first" in refused.json()["detail"]
        feasible_ms = refused.json()["smallest_feasible_budget_ms"]
        assert feasible_ms > 20
        assert loaded(client) == before, "nothing is loaded for one request that could not wait for it"
        # Other processes may have the cores: more time than was asked for.
        answer = client.post(f"/classify?variant={absent}&budget_ms={20 * feasible_ms:.0f}", content=espresso)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["variant"]["name"], answer.json()["budget_met"]) == (absent, True)
        after = loaded(client)
        assert (after[absent], after["lite0"]) == (True, True)
        assert metric(client, f'phiserve_variant_loads_total{{reason="named",variant="{absent}"}}') == 1
        assert metric(client, f'phiserve_variant_loaded{{variant="{absent}"}}') == 1
        assert resident_mib(limited) <= limit_mib


def test_every_wire_says_what_is_loaded(limited) -> None:
    """The index of the Open Inference Protocol and its readiness, and gRPC, agree with the menu."""
    with client_of(limited) as client:
        menu = loaded(client)
        assert set(menu.values()) == {True, False}
        index = {row["name"]: row for row in client.post("/v2/repository/index").json()}
        for name, is_loaded in menu.items():
            assert index[name]["state"] == ("READY" if is_loaded else "UNAVAILABLE")
            assert is_loaded or "no room for it now" in index[name]["reason"]
            assert client.get(f"/v2/models/{name}/ready").status_code == (200 if is_loaded else 503)
        assert index["efficientnet"]["state"] == "READY"
    import grpc  # noqa: PLC0415 - nothing else here needs it

    from phiserve.v1 import classifier_pb2, classifier_pb2_grpc  # noqa: PLC0415

    with grpc.insecure_channel(limited.grpc_address) as channel:
        listed = classifier_pb2_grpc.ClassifierStub(channel).ListVariants(
            classifier_pb2.ListVariantsRequest(), timeout=60
        )
        assert {row.name: row.loaded for row in listed.variants} == menu
