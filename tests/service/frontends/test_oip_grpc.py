"""The Open Inference Protocol's gRPC service, over a real loopback server and a scripted engine."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

import grpc
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
from service.frontends.grpc_envelope import GrpcEnvelope
from service.frontends.inference import open_inference_pb2 as pb
from service.frontends.inference import open_inference_pb2_grpc as pb_grpc
from service.frontends.oip_grpc import SERVICE_NAME, OipServicer
from service.frontends.oip_metadata import config, index, model_metadata
from service.frontends.oip_tensors import ELEMENTS_MAX, join_elements
from tests.fakes.engine import HELD, classification
from tests.fakes.menus import MS

Scenario = Callable[[pb_grpc.GRPCInferenceServiceStub], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture
def servicer(oip_service, oip_statistics) -> OipServicer:
    return OipServicer(oip_service, oip_statistics, version="1.2.3")


@pytest.fixture
def run(servicer) -> Run:
    """Runs a scenario with a stub that is connected to a server on a free port."""

    async def over_loopback(scenario: Scenario) -> None:
        server = grpc.aio.server(interceptors=[GrpcEnvelope([SERVICE_NAME], lambda _: None)])
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await scenario(pb_grpc.GRPCInferenceServiceStub(channel))
        finally:
            await server.stop(0)

    return lambda scenario: asyncio.run(over_loopback(scenario))


def values(**parameters) -> dict[str, pb.InferParameter]:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: pb.InferParameter(**{fields[type(value)]: value}) for name, value in parameters.items()}


def request_of(*pictures: bytes, model: str = "large", outputs=(), **parameters) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name=model,
        id="42",
        parameters=values(**parameters),
        inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[len(pictures)])],
        outputs=[
            pb.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=values(**asked))
            for name, asked in outputs
        ],
        raw_input_contents=[join_elements(pictures)],
    )


async def refused(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name, error.value.details()


def test_server_and_models_introduce_themselves_as_over_http(run, oip_service) -> None:
    """Metadata, configuration and index are the same dictionaries as over HTTP, as messages."""

    async def scenario(stub) -> None:
        model = oip_service.models.find("large")
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        server = await stub.ServerMetadata(pb.ServerMetadataRequest())
        assert (server.name, server.version, server.extensions[0]) == ("phiserve", "1.2.3", "binary_tensor_data")
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="large"))
        assert metadata == pb.ModelMetadataResponse(**model_metadata(model))
        assert [tensor.name for tensor in metadata.inputs] == ["image", "pixels"]
        answer = await stub.ModelConfig(pb.ModelConfigRequest(name="large", version="1"))
        assert answer.config == pb.ModelConfig(**config(model))
        assert answer.config.input[1].data_type == pb.TYPE_UINT8
        listed = await stub.RepositoryIndex(pb.RepositoryIndexRequest())
        assert [(row.name, row.state) for row in listed.models] == [
            (row["name"], row["state"]) for row in index(oip_service.models, ready_only=False)
        ]
        ready = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
        assert [row.name for row in ready.models] == ["efficientnet", "large"]

    run(scenario)


def test_readiness_is_an_answer_and_an_unknown_model_an_error(run, engine) -> None:
    """Ready or not is told in the message; only a model or version that there is not is NOT_FOUND."""

    async def ready(stub) -> list[bool]:
        return [
            (await stub.ServerReady(pb.ServerReadyRequest())).ready,
            *[
                (await stub.ModelReady(pb.ModelReadyRequest(name=name))).ready
                for name in ("efficientnet", "large", "unknown")
            ],
        ]

    async def scenario(stub) -> None:
        assert await ready(stub) == [True, True, True, False]
        for request in (pb.ModelReadyRequest(name="nothing"), pb.ModelReadyRequest(name="large", version="2")):
            assert (await refused(stub.ModelReady(request)))[0] == "NOT_FOUND"
        engine.readiness = Readiness.DRAINING
        assert await ready(stub) == [False] * 4

    run(scenario)


def test_an_answer_has_its_tensors_in_binary_form(run, engine) -> None:
    """Every output is a raw content of the answer, its parameters are typed, and the request's id comes back."""

    async def scenario(stub) -> None:
        outputs = [("probabilities", {}), ("label", {})]
        answer = await stub.ModelInfer(request_of(b"picture", outputs=outputs))
        assert (answer.model_name, answer.model_version, answer.id) == ("large", "1", "42")
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in answer.outputs] == [
            ("probabilities", "FP32", [1, 1000]),
            ("label", "BYTES", [1]),
        ]
        assert struct.unpack("<1000f", answer.raw_output_contents[0])[281:283] == (0.75, 0.375)
        assert answer.raw_output_contents[1] == join_elements([b"class 281"])
        told = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in answer.parameters.items()}
        assert told == {
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
        }
        assert type(told["budget_met"]) is bool
        assert type(told["batch_size"]) is int

    run(scenario)
    (call,) = engine.calls
    assert (call.image, call.client) == (b"picture", "127.0.0.1")


def test_contents_say_what_raw_contents_say(run, engine) -> None:
    """BYTES and UINT8 tensors may stand in their typed fields; base64 is decoded where it is said to be base64."""
    tensor = pb.ModelInferRequest.InferInputTensor
    inputs = [
        tensor(name="image", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"picture"]}),
        tensor(
            name="image",
            datatype="BYTES",
            shape=[1, 1],
            parameters=values(content_type="base64"),
            contents={"bytes_contents": [b"cGljdHVyZQ=="]},
        ),
        tensor(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], contents={"uint_contents": [0, 128, 255]}),
    ]

    async def scenario(stub) -> None:
        for each in inputs:
            await stub.ModelInfer(pb.ModelInferRequest(model_name="large", inputs=[each]))
        raw = pb.ModelInferRequest(
            model_name="large",
            inputs=[tensor(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], contents={})],
            raw_input_contents=[b"\0\x80\xff"],
        )
        await stub.ModelInfer(raw)

    run(scenario)
    pixels = RawPixels(1, 1, b"\0\x80\xff")
    assert [call.image for call in engine.calls] == [b"picture", b"picture", pixels, pixels]


def test_a_classification_is_text(run) -> None:
    """The best k classes are length-prefixed `value:index:label`."""

    async def scenario(stub) -> None:
        answer = await stub.ModelInfer(request_of(b"a", b"b", outputs=[("probabilities", {"classification": 2})]))
        assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [2, 2])
        assert answer.raw_output_contents == [join_elements([b"0.750000:281:class 281", b"0.375000:282:class 282"] * 2)]

    run(scenario)


def test_parameters_of_every_type_reach_the_engine(run, engine) -> None:
    """Fractions, whole numbers and text are read alike."""

    async def scenario(stub) -> None:
        await stub.ModelInfer(request_of(b"a", budget_ms=12.5, min_accuracy="80", priority=7))

    run(scenario)
    policy = RoutingPolicy(variant="large", min_accuracy=80.0, priority=7)
    assert engine.calls[0].options == RequestOptions(budget_ns=12_500_000, top_k=1, policy=policy)


def test_a_calls_deadline_is_its_budget(run, engine) -> None:
    """What is left of the deadline when the request arrives is the budget, unless the request names one."""

    async def scenario(stub) -> None:
        await stub.ModelInfer(request_of(b"a"), timeout=30)
        await stub.ModelInfer(request_of(b"a", budget_ms=20), timeout=30)
        await stub.ModelInfer(request_of(b"a", timeout=50_000), timeout=30)
        await stub.ModelInfer(request_of(b"a"))

    run(scenario)
    first, *others = [call.options.budget_ns for call in engine.calls]
    # gRPC rounds a deadline up on its way, by less than a hundredth.
    assert 1_000 * MS < first <= 30_300 * MS
    assert others == [20 * MS, 50 * MS, None]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidImage("cut off"), "INVALID_ARGUMENT"),
        (UnknownVariant("no such variant"), "NOT_FOUND"),
        (ImageTooLarge("too many pixels"), "RESOURCE_EXHAUSTED"),
        (UnsupportedMediaType("not served"), "INVALID_ARGUMENT"),
        (Overloaded("full", retry_after_ns=5 * MS), "RESOURCE_EXHAUSTED"),
        (InferenceFailed("the run failed"), "INTERNAL"),
        (NotReady("draining"), "UNAVAILABLE"),
        (DeadlineExceeded("too late"), "DEADLINE_EXCEEDED"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_its_code_and_its_sentence(run, engine, error, code) -> None:
    """The status is the one of the table, the details are what the caller can do."""
    engine.failures[b"picture"] = error

    async def scenario(stub) -> None:
        assert await refused(stub.ModelInfer(request_of(b"picture"))) == (code, error.detail)

    run(scenario)


def test_a_bug_is_internal_without_its_text(run, engine, caplog) -> None:
    """An exception outside the tree says nothing to the caller; the log has it."""
    engine.failures[b"picture"] = RuntimeError("secret")

    async def scenario(stub) -> None:
        code, detail = await refused(stub.ModelInfer(request_of(b"picture")))
        assert code == "INTERNAL"
        assert "secret" not in detail

    run(scenario)
    assert "secret" in caplog.text


def test_requests_that_cannot_be_read_are_told_why(run, engine) -> None:
    """Contents that do not fit the inputs, parameters without a value and unknown names are INVALID_ARGUMENT."""
    tensor = pb.ModelInferRequest.InferInputTensor
    image = tensor(name="image", datatype="BYTES", shape=[1])
    filled = tensor(name="image", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"a"]})
    request = pb.ModelInferRequest

    async def scenario(stub) -> None:
        for asked, detail in (
            (request(model_name="large"), "has 0 inputs"),
            (request(model_name="large", inputs=[image]), "has 1 elements, but 0 were sent"),
            (request(model_name="large", inputs=[image], raw_input_contents=[b"", b""]), "2 raw_input_contents"),
            (request(model_name="large", inputs=[image], raw_input_contents=[b"\x09\0\0\0a"]), "4-byte little-endian"),
            (request(model_name="large", inputs=[filled], raw_input_contents=[b""]), "both contents and"),
            (
                request(model_name="large", inputs=[tensor(name="image", datatype="FP32", shape=[1])]),
                "input image is BYTES, not 'FP32'",
            ),
            (
                request(model_name="large", inputs=[filled], parameters={"budget_ms": pb.InferParameter()}),
                "parameter 'budget_ms' has no value",
            ),
            (request_of(b"a", budget=1), "no parameter is named 'budget'"),
            (
                request(
                    model_name="large",
                    inputs=[tensor(name="image", parameters=values(shared_memory_region="r"))],
                ),
                "shared memory",
            ),
        ):
            code, told = await refused(stub.ModelInfer(asked))
            assert code == "INVALID_ARGUMENT"
            assert detail in told

    run(scenario)
    assert engine.calls == []


def test_pixels_in_contents_are_bounded(run) -> None:
    """Many numbers one by one would hold up everybody; the refusal says where they may stand."""
    flood = {"uint_contents": bytes(ELEMENTS_MAX + 1)}
    tensor = pb.ModelInferRequest.InferInputTensor(name="pixels", datatype="UINT8", shape=[1], contents=flood)

    async def scenario(stub) -> None:
        code, detail = await refused(stub.ModelInfer(pb.ModelInferRequest(model_name="large", inputs=[tensor])))
        assert code == "RESOURCE_EXHAUSTED"
        assert "send raw_input_contents" in detail

    run(scenario)


def test_a_call_that_is_cancelled_frees_its_pictures(run, engine) -> None:
    """The client's cancellation reaches every picture of the request."""

    async def scenario(stub) -> None:
        call = stub.ModelInfer(request_of(HELD, HELD))
        assert await asyncio.to_thread(engine.held.wait, 20)
        call.cancel()
        assert await asyncio.to_thread(engine.cancelled.wait, 20)

    run(scenario)


def test_a_stream_answers_in_order_and_survives_failures(run, engine) -> None:
    """Each request has its answer or its error, by id, and what comes after a failure is served."""
    engine.failures[b"broken"] = InvalidImage("cut off")
    engine.answers[b"b"] = classification(name="b3")

    async def scenario(stub) -> None:
        requests = [request_of(picture) for picture in (b"a", b"broken", b"b")]
        for position, request in enumerate(requests):
            request.id = str(position)
        answers = [answer async for answer in stub.ModelStreamInfer(iter(requests))]
        assert [(answer.infer_response.id, answer.error_message) for answer in answers] == [
            ("0", ""),
            ("1", "cut off"),
            ("2", ""),
        ]
        variants = [answer.infer_response.parameters["variant"].string_param for answer in answers]
        assert variants == ["small", "", "b3"]

    run(scenario)


def test_a_stream_ends_with_the_server(run, servicer) -> None:
    """A stream that its sender keeps open ends well when the server stops, after the answers to what it had read."""

    async def scenario(stub) -> None:
        stream = stub.ModelStreamInfer()
        await stream.write(request_of(b"a"))
        assert (await stream.read()).infer_response.id == "42"
        servicer.end_streams()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK

    run(scenario)


def test_a_stream_that_is_cancelled_frees_its_picture(run, engine) -> None:
    """What is in service for a stream is not worked on once its caller has left."""

    async def scenario(stub) -> None:
        stream = stub.ModelStreamInfer()
        await stream.write(request_of(HELD))
        assert await asyncio.to_thread(engine.held.wait, 20)
        stream.cancel()
        assert await asyncio.to_thread(engine.cancelled.wait, 20)

    run(scenario)


def test_a_bug_in_a_stream_says_nothing_of_itself(run, engine, caplog) -> None:
    """The message is the fixed sentence, the log has the rest, and the stream goes on."""
    engine.failures[b"picture"] = RuntimeError("secret")

    async def scenario(stub) -> None:
        requests = iter([request_of(b"picture"), request_of(b"a")])
        broken, good = [answer async for answer in stub.ModelStreamInfer(requests)]
        assert broken.error_message == "The server failed; its log says more."
        assert not good.error_message

    run(scenario)
    assert "secret" in caplog.text


def test_a_streams_deadline_is_no_requests_budget(run, engine) -> None:
    """It is for the whole stream, so a request that names no budget has the server's default."""

    async def scenario(stub) -> None:
        assert [answer async for answer in stub.ModelStreamInfer(iter([request_of(b"a")]), timeout=30)]

    run(scenario)
    assert engine.calls[0].options.budget_ns is None


def test_statistics_are_messages_of_the_same_counts(run, tally) -> None:
    """One model's counts, or every model's when none is named."""
    tally.request_settled(classification(name="large"))

    async def scenario(stub) -> None:
        one = await stub.ModelStatistics(pb.ModelStatisticsRequest(name="large"))
        assert [row.inference_stats.success.ns for row in one.model_stats] == [9_000_400]
        every = await stub.ModelStatistics(pb.ModelStatisticsRequest())
        assert [row.name for row in every.model_stats] == ["efficientnet", "large", "unknown"]

    run(scenario)


def test_the_service_has_the_protocols_name() -> None:
    """Clients call it by this name and no other."""
    assert SERVICE_NAME == "inference.GRPCInferenceService"
