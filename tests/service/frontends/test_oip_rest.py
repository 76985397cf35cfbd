"""The /v2 paths over a scripted engine: what Triton's and KServe's clients ask for, and errors in their shape."""

from __future__ import annotations

import asyncio
import base64
import json
import struct

import httpx
import pytest

from service.core.engine import Readiness
from service.core.request import RawPixels, RequestOptions, RoutingPolicy
from service.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InferenceFailed,
    InvalidImage,
    NotReady,
    Overloaded,
    UnknownVariant,
    UnsupportedMediaType,
)
from tests.fakes.engine import HELD, classification
from tests.fakes.http import InProcessClient, noting
from tests.fakes.menus import MS

RAW = {"Inference-Header-Content-Length": "0"}


def request_of(*pictures: bytes, **members) -> dict:
    data = [base64.b64encode(picture).decode() for picture in pictures]
    return {"inputs": [{"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}]} | members


def split(response: httpx.Response) -> tuple[dict, bytes]:
    end = int(response.headers["inference-header-content-length"])
    return json.loads(response.content[:end]), response.content[end:]


def test_the_server_introduces_itself(oip_client) -> None:
    """Name, version and the extensions that are served, live and ready."""
    assert oip_client.get("/v2").json() == {
        "name": "phiserve",
        "version": "1.2.3",
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository(index)",
            "parameters",
            "statistics",
        ],
    }
    assert oip_client.get("/v2/health/live").json() == {"live": True}
    assert oip_client.get("/v2/health/ready").json() == {"ready": True}


def test_a_model_describes_its_tensors(oip_client) -> None:
    """Both inputs and every output with datatype and shape, at any version that there is."""
    expected = {
        "name": "large",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 1000]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "variant", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert oip_client.get("/v2/models/large").json() == expected
    assert oip_client.get("/v2/models/large/versions/1").json() == expected
    assert oip_client.get("/v2/models/efficientnet").json() == expected | {"name": "efficientnet"}


def test_a_configuration_names_the_same_tensors(oip_client) -> None:
    """Triton's model configuration says what the metadata says, in its own words."""
    config = oip_client.get("/v2/models/large/config").json()
    metadata = oip_client.get("/v2/models/large").json()
    for theirs, ours in (("input", "inputs"), ("output", "outputs")):
        assert [(tensor["name"], tensor["dims"]) for tensor in config[theirs]] == [
            (tensor["name"], tensor["shape"]) for tensor in metadata[ours]
        ]
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_STRING", "TYPE_UINT8"]
    assert (config["max_batch_size"], config["backend"]) == (0, "onnxruntime")


def test_the_index_tells_which_models_answer(oip_client, engine) -> None:
    """An untrained variant is there but unavailable, with the reason; readiness is every model's."""
    untrained = {
        "name": "unknown",
        "version": "1",
        "state": "UNAVAILABLE",
        "reason": "untrained, which this server was not told to serve",
    }
    ready = [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in ("efficientnet", "large")]
    assert oip_client.post("/v2/repository/index").json() == [*ready, untrained]
    assert oip_client.post("/v2/repository/index", json={"ready": True}).json() == ready
    assert oip_client.post("/v2/repository/index", content=b"{").status_code == 400
    engine.readiness = Readiness.DRAINING
    assert oip_client.post("/v2/repository/index", json={"ready": True}).json() == []
    assert oip_client.post("/v2/repository/index").json()[0]["reason"] == "the server is draining"


def test_readiness_is_a_status(oip_client, engine) -> None:
    """200 where requests are taken, 404 where there is no such model, 503 where they are not taken now."""
    paths = [
        "/v2/health/ready",
        "/v2/models/efficientnet/ready",
        "/v2/models/large/versions/1/ready",
        "/v2/models/unknown/ready",
        "/v2/models/nothing/ready",
        "/v2/models/large/versions/2/ready",
        "/v2/health/live",
    ]
    assert [oip_client.get(path).status_code for path in paths] == [200, 200, 200, 503, 404, 404, 200]
    engine.readiness = Readiness.STARTING
    assert [oip_client.get(path).status_code for path in paths] == [503, 503, 503, 503, 404, 404, 200]


def test_an_answer_has_every_probability_and_what_rest_tells(oip_client) -> None:
    """Probabilities of all classes in class order, and variant, budget and timings as parameters."""
    response = oip_client.post("/v2/models/efficientnet/infer", json=request_of(b"picture", id="42"))
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    answer = response.json()
    (output,) = answer.pop("outputs")
    assert answer == {
        "model_name": "efficientnet",
        "model_version": "1",
        "id": "42",
        "parameters": {
            "variant": "small",
            "trained": True,
            "budget_ms": 1000.0,
            "budget_met": True,
            "decode_ms": 1.235,
            "queue_ms": 0.25,
            "preprocess_ms": 2.0,
            "inference_ms": 5.0,
            "total_ms": 9.0,
            "batch_size": 3,
        },
    }
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [1, 1000])
    assert output["data"][281:284] == [0.75, 0.375, 0.1875]
    assert len(output["data"]) == 1000


def test_an_answer_hides_none_of_its_weaknesses(oip_client, engine) -> None:
    """Untrained weights, a missed budget and degradation of any picture show in the parameters."""
    engine.answers[b"a"] = classification(name="b3")
    engine.answers[b"b"] = classification(name="b1", trained=False, budget_met=False, degraded_from="b4")
    outputs = [{"name": "variant"}]
    answer = oip_client.post("/v2/models/efficientnet/infer", json=request_of(b"a", b"b", outputs=outputs)).json()
    assert answer["outputs"] == [{"name": "variant", "datatype": "BYTES", "shape": [2], "data": ["b3", "b1"]}]
    told = answer["parameters"]
    assert (told["variant"], told["trained"], told["budget_met"], told["degraded_from"]) == (
        "b3, b1",
        False,
        False,
        "b4",
    )


def test_a_classification_is_value_index_and_label(oip_client) -> None:
    """The best k classes of each picture as text, falling, in place of the whole row."""
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    answer = oip_client.post("/v2/models/large/infer", json=request_of(b"a", b"b", outputs=outputs)).json()
    assert answer["outputs"] == [
        {
            "name": "probabilities",
            "datatype": "BYTES",
            "shape": [2, 2],
            "data": ["0.750000:281:class 281", "0.375000:282:class 282"] * 2,
        }
    ]


def test_a_picture_may_be_the_whole_body(oip_client, engine) -> None:
    """With a header length of 0 the body is the picture, its parameters are the query, and the answer is binary."""
    response = oip_client.post("/v2/models/large/infer?budget_ms=25", content=b"picture", headers=RAW)
    assert response.headers["content-type"] == "application/octet-stream"
    answer, tail = split(response)
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 4000}
    assert struct.unpack("<1000f", tail)[281] == 0.75
    (call,) = engine.calls
    assert (call.image, call.client) == (b"picture", "192.0.2.7")
    assert call.options == RequestOptions(budget_ns=25 * MS, top_k=1, policy=RoutingPolicy(variant="large"))


def test_pixels_reach_the_engine_as_pixels(oip_client, engine) -> None:
    """A tensor of two pictures behind the JSON is two requests of raw pixels, with one deadline and one client."""
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "pixels",
                    "shape": [2, 1, 2, 3],
                    "datatype": "UINT8",
                    "parameters": {"binary_data_size": 12},
                }
            ]
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    response = oip_client.post("/v2/models/large/infer", content=header + bytes(range(12)), headers=headers)
    assert response.json()["outputs"][0]["shape"] == [2, 1000]
    assert [call.image for call in engine.calls] == [
        RawPixels(2, 1, bytes(range(6))),
        RawPixels(2, 1, bytes(range(6, 12))),
    ]
    assert len({call.received_ns for call in engine.calls}) == 1


def test_the_budget_counts_from_the_last_byte(oip_client, engine) -> None:
    """A body that takes long to arrive costs its caller no budget."""

    async def slow_body():
        yield b"first half, "
        engine.clock.advance(700 * MS)
        yield b"second half"

    oip_client.post("/v2/models/large/infer", content=slow_body(), headers=RAW)
    assert engine.calls[0].received_ns == engine.now_ns()


ERRORS = [
    (InvalidImage("cut off"), 400),
    (UnknownVariant("no such variant"), 404),
    (ImageTooLarge("too many pixels"), 413),
    (UnsupportedMediaType("not served"), 415),
    (Overloaded("full", retry_after_ns=1_200 * MS), 429),
    (InferenceFailed("the run failed"), 500),
    (NotReady("draining"), 503),
    (DeadlineExceeded("too late; about 11.0 ms", smallest_feasible_budget_ns=11 * MS), 504),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda value: type(value).__name__)
def test_every_error_has_its_status_and_the_protocols_shape(oip_client, engine, error, status) -> None:
    """The body is an object with one member, `error`; Retry-After tells whom the server has no room for."""
    engine.failures[b"picture"] = error
    response = oip_client.post("/v2/models/large/infer", json=request_of(b"picture"))
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.json() == {"error": error.detail}
    assert response.headers.get("retry-after") == ("2" if status == 429 else None)


def test_requests_that_cannot_be_read_are_told_why(oip_client, engine) -> None:
    """Malformed bodies are 400, impossible parameters 422, too large ones 413; the engine hears of none."""
    infer = "/v2/models/large/infer"
    for response, status, detail in (
        (oip_client.post(infer, content=b"\xff\xd8"), 400, "the body is not JSON"),
        (oip_client.post(infer, json={"inputs": []}), 400, "send one: image"),
        (oip_client.post(infer, json=request_of(b"a", parameters={"budget_ms": -1})), 422, "budget_ms must be"),
        (oip_client.post(infer, json=request_of(b"a" * 1001)), 413, "at most 1000 bytes"),
        (oip_client.post(infer, content=b"a", headers={"Content-Encoding": "gzip"}), 415, "Content-Encoding"),
        (oip_client.post("/v2/models/nothing/infer", json=request_of(b"a")), 404, "served are efficientnet, large"),
        (oip_client.post("/v2/models/large/versions/7/infer", json=request_of(b"a")), 404, "no version '7'"),
    ):
        assert response.status_code == status
        assert detail in response.json()["error"]
    assert engine.calls == []


def test_a_body_beyond_its_bound_ends_the_connection(oip_client) -> None:
    """What is longer than a request may be is refused by its announced length, and not read."""
    response = oip_client.post("/v2/models/large/infer", content=bytes(500_001), headers=RAW)
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    assert "at most 500000 bytes" in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/nothing"), ("GET", "/v2/models/large/infer"), ("POST", "/v2/repository/models/large/load")],
)
def test_a_path_that_is_not_served_says_so_in_the_same_shape(oip_client, method, path) -> None:
    """Clients of the protocol read `error`, so that is what they find everywhere below /v2."""
    response = oip_client.request(method, path)
    assert response.status_code == 404
    assert path in response.json()["error"]


def test_a_bug_is_an_internal_error_without_its_text(oip_client, engine) -> None:
    """An exception outside the tree is 500, and what it says stays in the log."""
    engine.failures[b"picture"] = RuntimeError("secret")
    response = oip_client.post("/v2/models/large/infer", json=request_of(b"picture"))
    assert response.status_code == 500
    assert "secret" not in response.text


def test_one_failed_picture_fails_the_request_and_cancels_the_others(oip_client, engine) -> None:
    """A tensor has no holes: the first error is the answer, and what is still running is not paid for."""
    engine.failures[b"broken"] = InvalidImage("cut off")
    response = oip_client.post("/v2/models/large/infer", json=request_of(HELD, b"broken"))
    assert (response.status_code, response.json()) == (400, {"error": "cut off"})
    assert engine.cancelled.is_set()


def test_a_caller_that_leaves_cancels_its_pictures(oip_client, oip_service, engine, app) -> None:
    """A disconnect while the pictures are in service ends them all."""

    async def leave() -> None:
        body = json.dumps(request_of(HELD, HELD)).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_):
            raise AssertionError("nobody is there to be answered")

        scope = {
            "type": "http", "method": "POST", "path": "/v2/models/large/infer", "query_string": b"", "headers": [],
            "client": ("192.0.2.7", 1), "http_version": "1.1", "scheme": "http", "server": ("phiserve", 80),
        }  # fmt: skip
        exchange = asyncio.ensure_future(app(scope, receive, send))
        assert await asyncio.to_thread(engine.held.wait, 20)
        gone.set()
        await exchange

    oip_client.run(leave())
    assert engine.cancelled.is_set()


def test_variants_with_different_classes_are_no_tensor(oip_client, engine) -> None:
    """Rows of different length cannot be stacked; the refusal says how to ask instead."""
    engine.answers[b"a"] = classification(class_count=1000)
    engine.answers[b"b"] = classification(class_count=300)
    response = oip_client.post("/v2/models/efficientnet/infer", json=request_of(b"a", b"b"))
    assert response.status_code == 500
    assert "name one variant as the model" in response.json()["error"]


def test_statistics_are_those_of_the_models_that_were_asked_for(oip_client, tally) -> None:
    """One model's, any version's, or every model's, in the shape of the extension."""
    tally.request_settled(classification(name="large"))
    one = oip_client.get("/v2/models/large/stats").json()["model_stats"]
    assert [(row["name"], row["inference_count"]) for row in one] == [("large", 1)]
    assert oip_client.get("/v2/models/large/versions/1/stats").json()["model_stats"] == one
    every = oip_client.get("/v2/models/stats").json()["model_stats"]
    assert [(row["name"], row["inference_count"]) for row in every] == [
        ("efficientnet", 1),
        ("large", 1),
        ("unknown", 0),
    ]
    assert oip_client.get("/v2/models/nothing/stats").status_code == 404


def test_the_engine_is_told_when_a_call_was_read(oip_client, engine) -> None:
    """Where the HTTP server noted its first byte and its last, both go with each of its pictures."""
    with InProcessClient(noting(oip_client.app, began_ns=3, received_ns=5)) as client:
        client.post("/v2/models/efficientnet/infer", json=request_of(b"a", b"b"))
    assert {(call.began_ns, call.received_ns) for call in engine.calls} == {(3, 5)}
