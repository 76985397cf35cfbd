"""Bytes that real clients put on the wire, recorded by `tests/interop/record.py`, are read as they were meant."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from service.core.request import OnMiss, RawPixels, RequestOptions, RoutingPolicy
from service.frontends import oip_grpc_wire, oip_rest_wire
from service.frontends.inference import open_inference_pb2 as pb
from service.frontends.oip_models import Models
from service.frontends.oip_request import InferCall, OipLimits, RequestReader, WantedOutput
from tests.fakes.engine import ScriptedEngine
from tests.fakes.menus import MS
from tests.interop.record import PICTURE, PIXELS

DOCUMENTS = [json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "oip_goldens").glob("*.json"))]
GOLDENS = [
    pytest.param(recording, id=f"{document['client']} {document['version']} {recording['wire']} {recording['name']}")
    for document in DOCUMENTS
    for recording in document["recordings"]
]


def call_of(recording: dict[str, Any]) -> InferCall:
    body = base64.b64decode(recording["body"])
    if recording["wire"] == "grpc":
        return oip_grpc_wire.parse_call(pb.ModelInferRequest.FromString(body))
    length = recording["header_length"]
    return oip_rest_wire.parse_call(
        body,
        model="efficientnet",
        version="",
        header_length=None if length is None else str(length),
        query=b"",
        json_bytes_max=100_000,
    ).call


def test_every_client_was_recorded() -> None:
    """There are recordings of Triton's, KServe's and MLServer's clients on both wires."""
    wires = {(document["client"], recording["wire"]) for document in DOCUMENTS for recording in document["recordings"]}
    assert wires == {(client, wire) for client in ("kserve", "mlserver", "tritonclient") for wire in ("grpc", "http")}


@pytest.mark.parametrize("recording", GOLDENS)
def test_a_recorded_request_is_read_as_it_was_meant(recording) -> None:
    """Two pictures, or two pictures' pixels, a budget of 250 ms said in the client's way, priority and on_miss."""
    engine = ScriptedEngine()
    limits = OipLimits(image_bytes_max=1000, body_bytes_max=10_000, images_max=4, top_k_max=20)
    call = call_of(recording)
    models = Models(engine)
    # The recordings name a variant of the default store; the scripted engine has others.
    work = RequestReader(engine, models, limits).read(
        InferCall("efficientnet", "", call.id, call.parameters, call.inputs, call.outputs)
    )
    pixels = (RawPixels(2, 1, PIXELS[:6]), RawPixels(2, 1, PIXELS[6:]))
    classification = 3 if recording["name"] == "classification" else None
    assert call.id == "42"
    assert work.pictures == (pixels if "pixels" in recording["name"] else (PICTURE, PICTURE))
    assert work.outputs == (WantedOutput("probabilities", classification),)
    assert work.options == RequestOptions(
        budget_ns=250 * MS,
        top_k=classification or 1,
        policy=RoutingPolicy(on_miss=OnMiss.LATE, priority=3),
    )
