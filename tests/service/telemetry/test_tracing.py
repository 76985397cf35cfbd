"""Spans as a receiver of OTLP decodes them, of requests that came over real HTTP and gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from phiserve.v1 import classifier_pb2
from service.frontends.inference import open_inference_pb2
from service.frontends.oip_tensors import join_elements
from tests.fakes.grpc_server import frame
from tests.fakes.menus import gpu_menu
from tests.fakes.otlp_receiver import Receiver, attributes
from tests.fakes.patience import RISING_S
from tests.fakes.runtime import FakeWorkers
from tests.fakes.traced_server import Clients, TracedServer

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=1,other=2"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}
STAGES = ["admission", "decode", "queue", "run"]
WITHIN_RUN = ["preprocess", "inference"]


async def over_rest(clients: Clients, image: bytes = b"image", **headers: str) -> None:
    await clients.http.post("/classify?budget_ms=5000", content=image, headers=headers)


async def over_oip_rest(clients: Clients, image: bytes = b"image", **headers: str) -> None:
    body = join_elements([image])
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(body)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers |= {"Inference-Header-Content-Length": str(len(header))}
    await clients.http.post("/v2/models/efficientnet/infer", content=header + body, headers=headers)


async def over_grpc(clients: Clients, image: bytes = b"image", **headers: str) -> None:
    request = classifier_pb2.ClassifyRequest(image=image, budget_ms=5000)
    await _ignoring_status(clients.classifier.Classify(request, metadata=tuple(headers.items())))


async def over_oip_grpc(clients: Clients, image: bytes = b"image", **headers: str) -> None:
    tensor = open_inference_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    request = open_inference_pb2.ModelInferRequest(
        model_name="efficientnet", inputs=[tensor], raw_input_contents=[join_elements([image])]
    )
    await _ignoring_status(clients.oip.ModelInfer(request, metadata=tuple(headers.items())))


async def _ignoring_status(call: Any) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call


ASKS = {
    "POST /classify": over_rest,
    "POST /v2/models/{model}/infer": over_oip_rest,
    "phiserve.v1.Classifier/Classify": over_grpc,
    "inference.GRPCInferenceService/ModelInfer": over_oip_grpc,
}


def children(receiver: Receiver, parent: Span) -> list[Span]:
    """In the order of time."""
    found = [span for span in receiver.spans if span.parent_span_id == parent.span_id]
    return sorted(found, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


def server_span(receiver: Receiver) -> Span:
    (span,) = [span for span in receiver.spans if span.kind == Span.SPAN_KIND_SERVER]
    return span


@pytest.mark.parametrize("name", ASKS)
def test_a_request_is_a_server_span_over_its_stages(name) -> None:
    """By every door: the caller's trace goes on, stages follow without a gap, the last over its own parts."""

    async def scenario(clients: Clients) -> None:
        await ASKS[name](clients, **SAMPLED)

    receiver = TracedServer().run(scenario)
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE_ID}
    server = server_span(receiver)
    assert (server.name, server.parent_span_id.hex(), server.trace_state) == (name, PARENT_ID, "vendor=1,other=2")
    classify, response = children(receiver, server)
    assert (classify.name, response.name) == ("classify", "response")
    stages = children(receiver, classify)
    assert names(stages) == STAGES
    assert names(children(receiver, stages[-1])) == WITHIN_RUN
    ends = [stage.end_time_unix_nano for stage in stages]
    assert [stage.start_time_unix_nano for stage in stages] == [classify.start_time_unix_nano, *ends[:-1]]
    assert ends[-1] == classify.end_time_unix_nano == response.start_time_unix_nano
    assert server.start_time_unix_nano <= classify.start_time_unix_nano
    assert response.end_time_unix_nano == server.end_time_unix_nano
    assert {span.status.code for span in receiver.spans} == {Status.STATUS_CODE_UNSET}
    assert attributes(classify)["phiserve.outcome"] == "answered"
    assert attributes(stages[-1])["phiserve.variant"] == attributes(classify)["phiserve.variant"] == "large"


def test_spans_follow_the_conventions_of_http() -> None:
    """Method, route, status and the rest, by their names in OpenTelemetry's conventions; the request's id is ours."""

    async def scenario(clients: Clients) -> None:
        await over_rest(clients, **{"X-Request-ID": "order-66", "User-Agent": "a test"})

    receiver = TracedServer().run(scenario)
    found = attributes(server_span(receiver))
    assert found.pop("server.port") > 0
    assert found == {
        "phiserve.request_id": "order-66",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "user_agent.original": "a test",
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "url.path": "/classify",
        "url.query": "budget_ms=5000",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
    }
    (resource,) = receiver.resources
    assert (resource["service.name"], resource["service.version"]) == ("phiserve", "1.2.3")
    assert set(receiver.paths) == {"/v1/traces"}


def test_spans_follow_the_conventions_of_rpc() -> None:
    """The full method and the status by its name."""

    async def scenario(clients: Clients) -> None:
        await over_grpc(clients, **{"x-request-id": "order-66"})

    found = attributes(server_span(TracedServer().run(scenario)))
    assert found.pop("server.port") > 0
    assert found.pop("user_agent.original").startswith("grpc-python-asyncio")
    assert found == {
        "phiserve.request_id": "order-66",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "rpc.system.name": "grpc",
        "rpc.method": "phiserve.v1.Classifier/Classify",
        "rpc.response.status_code": "OK",
    }


@pytest.mark.parametrize(
    ("query", "image", "status", "ended_in", "kind"),
    [
        ("top_k=0", b"image", 422, "request", None),
        ("budget_ms=2", b"image", 504, "admission", "deadline_exceeded"),
        ("", b"text", 400, "admission", "invalid_image"),
        ("", b"broken", 400, "decode", "invalid_image"),
        ("", b"poison", 500, "run", "inference_failed"),
    ],
)
def test_a_failed_request_names_the_stage_where_it_ended(query, image, status, ended_in, kind) -> None:
    """The exchange tells the stage, and that stage, the last there is, has the error; so has the picture's span."""

    async def scenario(clients: Clients) -> None:
        assert (await clients.http.post(f"/classify?{query}", content=image)).status_code == status

    receiver = TracedServer().run(scenario)
    server = server_span(receiver)
    assert attributes(server)["phiserve.ended_in"] == ended_in
    assert (server.status.code == Status.STATUS_CODE_ERROR) is (status >= 500)
    blamed = [span for span in receiver.spans if attributes(span).get("error.type") == kind]
    if kind is None:
        assert receiver.spans == [server]
        return
    classify = receiver.only("classify")
    assert names(children(receiver, classify)) == STAGES[: STAGES.index(ended_in) + 1]
    assert sorted(names(blamed)) == sorted(["classify", ended_in])
    assert {span.status.code for span in blamed} == {Status.STATUS_CODE_ERROR}


def test_over_grpc_a_failed_request_names_its_stage_too() -> None:
    """With the status by its name; one that is the caller's fault does not mark the server's span."""

    async def scenario(clients: Clients) -> None:
        await over_grpc(clients, b"broken")
        await over_oip_grpc(clients, b"poison")

    receiver = TracedServer().run(scenario)
    told = {
        span.name: (attributes(span)["rpc.response.status_code"], attributes(span)["phiserve.ended_in"])
        for span in receiver.spans
        if span.kind == Span.SPAN_KIND_SERVER
    }
    assert told == {
        "phiserve.v1.Classifier/Classify": ("INVALID_ARGUMENT", "decode"),
        "inference.GRPCInferenceService/ModelInfer": ("INTERNAL", "run"),
    }


def test_what_ends_in_the_queue_and_who_left_during_a_run() -> None:
    """A deadline that passes in the queue is told there; a caller who leaves ends where it was, without an error."""

    async def scenario(clients: Clients) -> None:
        running = asyncio.create_task(over_rest(clients, b"never ends"))
        while not workers.plans:
            await clients.http.get("/variants")
        for budget_s in RISING_S:  # a short one may have passed before there is a place in the queue
            expired = await clients.http.post(f"/classify?budget_ms={1000 * budget_s}", content=b"image")
            assert expired.status_code == 504
            if "in the queue" in expired.json()["detail"]:
                break
        running.cancel()
        await asyncio.wait([running])
        counted = 'phiserve_requests_total{outcome="cancelled",variant=""} 1.0'
        while counted not in (await clients.http.get("/metrics")).text:
            assert workers.plans, "each turn asks the server, which hears of the caller who left"

    workers = FakeWorkers(slowness=100_000)
    receiver = TracedServer(workers=workers).run(scenario)
    outcomes = {attributes(span)["phiserve.outcome"]: span for span in receiver.named("classify")}
    assert names(children(receiver, outcomes["failed"])) == ["admission", "decode", "queue"]
    assert attributes(children(receiver, outcomes["failed"])[-1])["error.type"] == "deadline_exceeded"
    assert names(children(receiver, outcomes["cancelled"])) == STAGES
    assert "error.type" not in attributes(children(receiver, outcomes["cancelled"])[-1])
    left = [span for span in receiver.named("POST /classify") if "http.response.status_code" not in attributes(span)]
    assert [attributes(span)["phiserve.ended_in"] for span in left] == ["run"]


@pytest.mark.parametrize(
    ("ratio", "headers", "traces"),
    [
        (1, NOT_SAMPLED, set()),
        (0, SAMPLED, {TRACE_ID}),
        (0, {}, set()),
        (0, {"traceparent": "00-nonsense-01"}, set()),
    ],
)
def test_who_began_the_trace_decides_whether_it_is_kept(ratio, headers, traces) -> None:
    """A caller's decision holds whatever the ratio; the ratio is for traces that begin here."""

    async def scenario(clients: Clients) -> None:
        for ask in ASKS.values():
            await ask(clients, **headers)

    receiver = TracedServer(ratio=ratio).run(scenario)
    assert {span.trace_id.hex() for span in receiver.spans} == traces
    assert len([span for span in receiver.spans if span.kind == Span.SPAN_KIND_SERVER]) == len(ASKS) * len(traces)


def test_a_malformed_trace_begins_a_new_one() -> None:
    """Nothing of what a caller made up becomes an id."""

    async def scenario(clients: Clients) -> None:
        await over_rest(clients, traceparent="00-" + "0" * 32 + f"-{PARENT_ID}-01", tracestate="a=1")

    server = server_span(TracedServer().run(scenario))
    assert (server.parent_span_id, server.trace_state) == (b"", "")
    assert server.trace_id.hex() not in ("0" * 32, TRACE_ID)


def test_probes_are_not_traced() -> None:
    """What asks every few seconds how the server is would fill every trace store."""

    async def scenario(clients: Clients) -> None:
        for path in ("/livez", "/readyz", "/metrics", "/v2/health/ready"):
            assert (await clients.http.get(path, headers=SAMPLED)).status_code == 200
        await clients.oip.ServerReady(open_inference_pb2.ServerReadyRequest(), metadata=tuple(SAMPLED.items()))

    assert TracedServer().run(scenario).spans == []


def test_a_shared_run_is_a_span_that_its_pictures_link_to() -> None:
    """`batch` is a trace of its own with a link to each sampled picture, whose runs link back; others only count."""

    async def scenario(clients: Clients) -> None:
        asked = [over_rest(clients, **SAMPLED) for _ in range(6)]
        await asyncio.gather(*asked, over_rest(clients, **NOT_SAMPLED))

    receiver = TracedServer(menu=gpu_menu()).run(scenario)
    batches = {span.span_id: span for span in receiver.named("batch")}
    assert batches
    classified = {span.span_id for span in receiver.named("classify")}
    for batch in batches.values():
        assert batch.trace_id.hex() != TRACE_ID
        assert batch.parent_span_id == b""
        assert {link.span_id for link in batch.links} <= classified
        assert 1 <= len(batch.links) <= attributes(batch)["phiserve.batch_size"]
        assert attributes(batch)["phiserve.inference_ms"] > 0
    runs = [span for span in receiver.named("run") if span.links]
    assert len(runs) == sum(len(batch.links) for batch in batches.values())
    for run in runs:
        assert run.parent_span_id in {link.span_id for link in batches[run.links[0].span_id].links}


def test_a_stream_is_one_exchange_with_a_span_for_each_frame() -> None:
    """However long it goes on, frames are told as they end."""

    async def scenario(clients: Clients) -> None:
        call = clients.classifier.ClassifyStream(metadata=tuple(SAMPLED.items()))
        for number in (1, 2):
            await call.write(frame(number))
            assert (await call.read()).frame_id == number
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

    receiver = TracedServer().run(scenario)
    server = receiver.only("phiserve.v1.Classifier/ClassifyStream")
    assert names(children(receiver, server)) == ["classify", "classify"]


def test_several_pictures_of_one_request_are_told_apart() -> None:
    """One exchange, a `classify` for each; it ended where a picture failed, though others were answered."""

    async def scenario(clients: Clients) -> None:
        images = [("image", ("a", image, "image/jpeg")) for image in (b"image", b"broken", b"other")]
        await clients.http.post("/classify", files=images)

    receiver = TracedServer().run(scenario)
    server = server_span(receiver)
    outcomes = sorted(attributes(span)["phiserve.outcome"] for span in receiver.named("classify"))
    assert outcomes == ["answered", "answered", "failed"]
    assert attributes(server).get("phiserve.ended_in", "decode") == "decode"


def test_a_receiver_that_hangs_fails_no_request_and_holds_a_bounded_queue(monkeypatch) -> None:
    """Requests are answered, spans beyond the queue are dropped, and the end is not waited for beyond its bound."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    # Longer than the requests take: with each export that is given up the receiver holds another batch.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")

    async def scenario(clients: Clients) -> None:
        clients.receiver.stalled = threading.Event()
        for _ in range(12):
            answer = await clients.http.post("/classify", content=b"image")
            assert answer.status_code == 200

    server = TracedServer(flush_s=0.01)
    receiver = server.run(scenario)
    assert server.flushed is False
    assert len(receiver.spans) <= 20 + 10 < 12 * len(STAGES)


def test_a_receiver_that_is_not_there_fails_no_request(monkeypatch) -> None:
    """A refused connection is the exporter's own trouble."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")

    async def scenario(clients: Clients) -> None:
        for ask in ASKS.values():
            await ask(clients)
        assert (await clients.http.post("/classify", content=b"image")).status_code == 200

    with socket.socket() as nobody:  # a port that is taken, at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        assert TracedServer(endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}").run(scenario).spans == []


def test_latencies_have_the_trace_as_exemplar_if_it_is_kept() -> None:
    """In OpenMetrics a bucket names a trace that the receiver has; one that was not sampled is never named."""
    pages: list[str] = []

    async def scenario(clients: Clients) -> None:
        for headers in (NOT_SAMPLED, SAMPLED):
            await over_rest(clients, **headers)
            page = await clients.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
            pages.append(page.text)

    receiver = TracedServer().run(scenario)
    without, within = (
        [
            sample.exemplar.labels
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.exemplar is not None
        ]
        for page in pages
    )
    assert without == []
    span_id = server_span(receiver).span_id.hex()
    assert {(labels["trace_id"], labels["span_id"]) for labels in within} == {(TRACE_ID, span_id)}
