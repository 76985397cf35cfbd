"""The real process traced and logged: what a receiver of spans and a reader of its log have after it has drained."""

from __future__ import annotations

import io
import json
import socket

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from PIL import Image

from phiserve.v1 import classifier_pb2 as pb
from phiserve.v1 import classifier_pb2_grpc as pb_grpc
from tests.end_to_end.phiserve_process import client_of, serving
from tests.fakes.otlp_receiver import attributes, otlp_receiver

WAIT_S = 30
HTTP_TRACE, GRPC_TRACE = "1" * 32, "2" * 32
PLACE = "a place that nobody shall know"


def parent(trace_id: str) -> str:
    return f"00-{trace_id}-{'b' * 16}-01"


@pytest.fixture(scope="module")
def geotagged(espresso) -> bytes:
    """A photograph that tells where it was taken."""
    exif, written = Image.Exif(), io.BytesIO()
    exif[0x010E] = PLACE
    Image.open(io.BytesIO(espresso)).save(written, "JPEG", exif=exif)
    return written.getvalue()


def test_the_last_spans_arrive_and_no_picture_with_them(profiled, lean_flags, geotagged) -> None:
    """Spans and log lines of both wires name the callers' traces, are there when it has ended, and hold no EXIF."""
    with otlp_receiver() as receiver:
        flags = (
            "--tracing-endpoint",
            receiver.url,
            "--tracing-ratio",
            "0",
            "--access-log",
            "1",
            "--log-level",
            "debug",
        )
        with serving(*lean_flags, *flags) as server, grpc.insecure_channel(server.grpc_address) as channel:
            with client_of(server) as client:
                assert client.get("/readyz").status_code == 200
                answered = client.post("/classify", content=geotagged, headers={"traceparent": parent(HTTP_TRACE)})
                assert answered.status_code == 200
                cut = client.post("/classify", content=geotagged[:5000], headers={"X-Request-ID": "cut"})
                assert cut.status_code == 400
            request = pb.ClassifyRequest(image=geotagged, budget_ms=20_000)
            metadata = (("traceparent", parent(GRPC_TRACE)), ("x-request-id", "by-grpc"))
            pb_grpc.ClassifierStub(channel).Classify(request, timeout=WAIT_S, metadata=metadata)
            server.stop()
            assert server.wait() == 0
        spans = {(span.trace_id.hex(), span.name): span for span in receiver.spans}
        for trace_id in (HTTP_TRACE, GRPC_TRACE):
            assert {"classify", "decode", "queue", "preprocess", "inference"} <= {
                name for found, name in spans if found == trace_id
            }
        assert {trace_id for trace_id, _ in spans} == {HTTP_TRACE, GRPC_TRACE}
        roots = {span.name for span in spans.values() if span.kind == Span.SPAN_KIND_SERVER}
        assert roots == {"POST /classify", "phiserve.v1.Classifier/Classify"}
        assert attributes(spans[GRPC_TRACE, "phiserve.v1.Classifier/Classify"])["phiserve.request_id"] == "by-grpc"
        sent = str(receiver.spans)
    log = server.log()
    lines = [line for line in log if line["logger"] == "service.telemetry.access_log"]
    assert [(line["path"], line["status"], line.get("trace_id")) for line in lines] == [
        ("/classify", "200", HTTP_TRACE),
        ("/classify", "400", None),
        ("/phiserve.v1.Classifier/Classify", "OK", GRPC_TRACE),
    ]
    assert [line["request_id"] for line in lines[1:]] == ["cut", "by-grpc"]
    assert (lines[0]["answered"], lines[1]["failed"], lines[1]["error"]) == (1, 1, "invalid_image")
    assert lines[0]["variant"] == answered.json()["variant"]["name"]
    for told in (json.dumps(log), sent):
        assert PLACE not in told
        assert "JFIF" not in told


def test_a_receiver_that_is_down_holds_up_neither_answers_nor_the_end(profiled, lean_flags, espresso) -> None:
    """Every request is answered, the process ends with 0, and its log says that spans were lost."""
    with socket.socket() as nobody:  # a port that is taken, at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with serving(*lean_flags, "--tracing-endpoint", endpoint) as server, client_of(server) as client:
            for _ in range(3):
                assert client.post("/classify", content=espresso).status_code == 200
            server.stop()
            assert server.wait() == 0
    assert "the last spans were not taken within 3 s and are lost" in [line["message"] for line in server.log()]
