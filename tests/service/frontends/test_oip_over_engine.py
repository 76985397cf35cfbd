"""The Open Inference Protocol over the real engine and scheduler, with fake decoding and runs in fake time."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from service.core.engine import Engine
from service.core.tally import Tally
from service.frontends.oip_request import OipLimits
from service.frontends.oip_rest import install_oip_rest
from service.frontends.oip_service import OipService
from service.frontends.oip_statistics import Statistics
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.event_loop import FakeTimeLoop, LoopClock
from tests.fakes.http import InProcessClient
from tests.fakes.runtime import FakeWorkers, build_engine, probabilities_of

# In fake time the fakes decode in 1 ms and run "small", "medium" and "large" in 10, 20 and 50 ms.


@pytest.fixture
def tally() -> Tally:
    return Tally(LoopClock())


@pytest.fixture
def workers() -> FakeWorkers:
    return FakeWorkers()


@pytest.fixture
def real_engine(tally, workers) -> Engine:
    return build_engine(instrument=tally, workers=workers, worker_count=4)


@pytest.fixture
def client(real_engine, tally) -> Iterator[InProcessClient]:
    app = create_rest_api(real_engine, limits=RestLimits(), metrics_page=lambda _: (b"", "text/plain"), version="1.2.3")
    limits = OipLimits(image_bytes_max=1000, body_bytes_max=100_000, images_max=8, top_k_max=20)
    statistics = Statistics(tally, real_engine.now_ns)
    install_oip_rest(app, OipService(real_engine, limits), statistics, version="1.2.3")
    with InProcessClient(app, FakeTimeLoop) as client:
        yield client


def infer(client: InProcessClient, *pictures: bytes, model: str = "efficientnet", outputs=None, **parameters):
    data = [base64.b64encode(picture).decode() for picture in pictures]
    tensor = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}
    body = {"inputs": [tensor], "parameters": parameters} | ({} if outputs is None else {"outputs": outputs})
    return client.post(f"/v2/models/{model}/infer", json=body)


@pytest.mark.parametrize(("budget_ms", "variant"), [(20, "small"), (50, "medium"), (100, "large")])
def test_the_routing_model_routes_by_budget(client, budget_ms, variant) -> None:
    """A larger budget gets a more accurate variant, and the answer says which and how long it took."""
    told = infer(client, b"A", budget_ms=budget_ms).json()["parameters"]
    assert (told["variant"], told["budget_ms"], told["budget_met"]) == (variant, budget_ms, True)
    assert told["total_ms"] == {"small": 11.0, "medium": 21.0, "large": 51.0}[variant]


def test_a_variants_model_answers_with_that_variant_or_not_at_all(client) -> None:
    """Pinned, a budget that another variant would make is refused with what works."""
    assert infer(client, b"A", model="medium", budget_ms=500).json()["parameters"]["variant"] == "medium"
    refusal = infer(client, b"A", model="medium", budget_ms=15)
    assert refusal.status_code == 504
    assert "about 21.0 ms" in refusal.json()["error"]


def test_every_picture_has_its_own_row(client) -> None:
    """Rows come in the order of the pictures, each the network's own to the last bit."""
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "image", "shape": [3], "datatype": "BYTES",
                    "data": [base64.b64encode(picture).decode() for picture in (b"A", b"C", b"B")],
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()  # fmt: skip
    response = client.post("/v2/models/small/infer", content=header)
    tail = response.content[int(response.headers["inference-header-content-length"]) :]
    assert tail == b"".join(probabilities_of(picture) for picture in (b"A", b"C", b"B"))


def test_pixels_need_no_decoding(client) -> None:
    """A tensor of pixels makes a budget in which an encoded picture could not even be decoded."""
    tensor = {"name": "pixels", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [65, 66, 67]}
    body = {"inputs": [tensor], "parameters": {"budget_ms": 10.5}, "outputs": [{"name": "label"}]}
    answer = client.post("/v2/models/efficientnet/infer", json=body).json()
    assert (answer["outputs"][0]["data"], answer["parameters"]["decode_ms"]) == (["class 65"], 0.0)
    assert infer(client, b"A", budget_ms=10.5).status_code == 504


def test_one_broken_picture_leaves_nothing_behind(client, real_engine, workers, tally) -> None:
    """The others of its request are taken out of the engine, which is idle and drained at once."""
    response = infer(client, b"A", b"broken", b"B", b"poison", model="large")
    assert (response.status_code, response.json()) == (400, {"error": "the picture ends too early"})
    assert client.run(real_engine.drain(1_000_000_000))
    assert all(totals.answered.count == 0 for totals in tally.by_variant.values())


def test_a_failed_run_fails_the_request(client) -> None:
    """What the runtime raised stays in the log; the request is a 500 in the protocol's shape."""
    response = infer(client, b"poison", b"A", model="small")
    assert response.status_code == 500
    assert "the server's log has the cause" in response.json()["error"]


def test_a_draining_server_refuses_and_is_not_ready(client, real_engine) -> None:
    """Readiness and requests agree: 503 for both, and the models are unavailable."""
    client.run(real_engine.drain(1_000_000_000))
    assert client.get("/v2/health/ready").status_code == 503
    assert infer(client, b"A").status_code == 503
    assert {row["state"] for row in client.post("/v2/repository/index").json()} == {"UNAVAILABLE"}


def test_statistics_count_what_was_served(client) -> None:
    """Answers, runs and failures since the start, by variant and for the model that routes."""
    infer(client, b"A", b"B", model="small")
    infer(client, b"A", model="large")
    infer(client, b"A", budget_ms=1)
    rows = {row["name"]: row for row in client.get("/v2/models/stats").json()["model_stats"]}
    assert {name: row["inference_count"] for name, row in rows.items()} == {
        "efficientnet": 3, "small": 2, "medium": 0, "large": 1,
    }  # fmt: skip
    assert rows["efficientnet"]["inference_stats"]["fail"]["count"] == 1
    large = rows["large"]["inference_stats"]
    assert (large["success"], large["compute_infer"]) == (
        {"count": 1, "ns": 51_000_000},
        {"count": 1, "ns": 25_000_000},
    )
    assert sum(batch["compute_infer"]["count"] * batch["batch_size"] for batch in rows["small"]["batch_stats"]) == 2
