"""One table of scenarios over all four fronts: whatever door a request comes by, it fares the same.

The fronts are those of `phiserve serve`, on real ports, over an engine that follows a script.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import httpx

from phiserve.v1 import classifier_pb2, classifier_pb2_grpc
from service import errors
from service.core.engine import Readiness
from service.core.request import Classification, OnMiss, RequestOptions, RoutingPolicy
from service.core.tally import Tally
from service.frontends.inference import open_inference_pb2, open_inference_pb2_grpc
from service.frontends.oip_tensors import join_elements
from service.frontends.status_codes import wire_status
from service.fronts import build_fronts
from service.http_server import loop_factory
from service.serving import take_ports
from service.settings import Settings
from service.telemetry.observers import build_observers
from tests.fakes import reloads
from tests.fakes.engine import HELD, ScriptedEngine, classification
from tests.fakes.menus import MS

IMAGE = b"a picture"
TOP_K = 3
IMAGE_BYTES_MAX = 1000
WAIT_S = 20


@dataclass(frozen=True)
class Asked:
    """What is asked of every front, in the words of the REST query."""

    image: bytes = IMAGE
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """What every front must tell."""

    variant: str
    budget_met: bool
    budget_ms: float
    classes: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True)
class Refused:
    """The status in the front's own terms, and the sentence for the caller."""

    status: int | str
    detail: str


Outcome = Answered | Refused
Ask = Callable[[Asked], Awaitable[Outcome]]


def rest(base: str) -> Ask:
    async def ask(asked: Asked) -> Outcome:
        async with httpx.AsyncClient(base_url=base, timeout=WAIT_S, verify=False) as client:
            answer = await client.post("/classify", params={"top_k": TOP_K} | asked.parameters, content=asked.image)
        body = answer.json()
        if answer.status_code != 200:
            return Refused(answer.status_code, body["detail"])
        classes = tuple((row["index"], row["label"], round(row["probability"], 5)) for row in body["predictions"])
        return Answered(body["variant"]["name"], body["budget_met"], body["budget_ms"], classes)

    return ask


def classifier(address: str) -> Ask:
    async def ask(asked: Asked) -> Outcome:
        values = {"top_k": TOP_K} | asked.parameters
        if "on_miss" in values:
            values["on_miss"] = classifier_pb2.OnMiss.Value(f"ON_MISS_{values['on_miss'].upper()}")
        async with grpc.aio.insecure_channel(address) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            try:
                answer = await stub.Classify(classifier_pb2.ClassifyRequest(image=asked.image, **values))
            except grpc.aio.AioRpcError as error:
                return Refused(error.code().name, error.details())
        classes = tuple((row.index, row.label, round(row.probability, 5)) for row in answer.predictions)
        return Answered(answer.variant.name, answer.budget_met, answer.budget_ms, classes)

    return ask


def oip_classes(elements: list[str]) -> tuple[tuple[int, str, float], ...]:
    rows = [element.split(":", 2) for element in elements]
    return tuple((int(index), label, round(float(value), 5)) for value, index, label in rows)


def elements_of(raw: bytes) -> list[bytes]:
    """The BYTES elements of a raw tensor: each behind its length, four bytes, little-endian."""
    found, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def oip_rest(base: str) -> Ask:
    async def ask(asked: Asked) -> Outcome:
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {}}
        body = join_elements([asked.image])
        image["parameters"] = {"binary_data_size": len(body)}
        top_k = asked.parameters.get("top_k", TOP_K)
        wanted = {"name": "probabilities", "parameters": {"classification": top_k}}
        parameters = {name: value for name, value in asked.parameters.items() if name != "top_k"}
        header = httpx.Request(
            "POST", base, json={"inputs": [image], "outputs": [wanted], "parameters": parameters}
        ).content
        async with httpx.AsyncClient(base_url=base, timeout=WAIT_S, verify=False) as client:
            answer = await client.post(
                "/v2/models/efficientnet/infer",
                content=header + body,
                headers={"Inference-Header-Content-Length": str(len(header))},
            )
        found = answer.json()
        if answer.status_code != 200:
            return Refused(answer.status_code, found["error"])
        told = found["parameters"]
        return Answered(
            told["variant"], told["budget_met"], told["budget_ms"], oip_classes(found["outputs"][0]["data"])
        )

    return ask


def oip_grpc(address: str) -> Ask:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}

    def value(given: Any) -> open_inference_pb2.InferParameter:
        return open_inference_pb2.InferParameter(**{fields[type(given)]: given})

    async def ask(asked: Asked) -> Outcome:
        request = open_inference_pb2.ModelInferRequest(
            model_name="efficientnet",
            parameters={name: value(given) for name, given in asked.parameters.items() if name != "top_k"},
            inputs=[open_inference_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])],
            outputs=[
                open_inference_pb2.ModelInferRequest.InferRequestedOutputTensor(
                    name="probabilities",
                    parameters={"classification": value(asked.parameters.get("top_k", TOP_K))},
                )
            ],
            raw_input_contents=[join_elements([asked.image])],
        )
        async with grpc.aio.insecure_channel(address) as channel:
            try:
                answer = await open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
            except grpc.aio.AioRpcError as error:
                return Refused(error.code().name, error.details())
        told = answer.parameters
        elements = [element.decode() for element in elements_of(answer.raw_output_contents[0])]
        variant, budget_met = told["variant"].string_param, told["budget_met"].bool_param
        return Answered(variant, budget_met, told["budget_ms"].double_param, oip_classes(elements))

    return ask


FRONTS = ("REST", "gRPC", "OIP over HTTP", "OIP over gRPC")


@dataclass
class Doors:
    """The four ways to ask one engine."""

    engine: ScriptedEngine
    asks: dict[str, Ask]

    async def everywhere(self, asked: Asked) -> dict[str, Outcome]:
        return {name: await ask(asked) for name, ask in self.asks.items()}


def over_all(scenario: Callable[[Doors], Awaitable[None]], engine: ScriptedEngine | None = None) -> None:
    """Run `scenario` with all fronts of a server open."""
    engine = engine or ScriptedEngine()

    async def run() -> None:
        settings = Settings(port=0, grpc_port=0, image_bytes_max=IMAGE_BYTES_MAX, body_bytes_max=5000)
        observers = build_observers(version="1.2.3", clock=engine.clock)
        with take_ports(settings) as ports:
            fronts = build_fronts(settings, engine, observers, Tally(engine.clock), ports, reload=reloads.never)
            await fronts.start()
            assert fronts.grpc is not None
            http, address = fronts.http.url, fronts.grpc.address
            asks = (rest(http), classifier(address), oip_rest(http), oip_grpc(address))
            try:
                await scenario(Doors(engine, dict(zip(FRONTS, asks, strict=True))))
            finally:
                await fronts.stop(WAIT_S)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run())


ANSWERS = {
    "in time": classification(top_k=TOP_K, probability=0.5),
    "degraded": classification(top_k=TOP_K, name="large", degraded_from="largest"),
    "late": classification(top_k=TOP_K, budget_met=False),
    "without WordNet ids": classification(top_k=TOP_K, wnids=False),
    "untrained": classification(top_k=TOP_K, trained=False, top1=None),
}


def expected(answer: Classification) -> Answered:
    return Answered(
        answer.variant.name,
        answer.budget_met,
        answer.budget_ns / MS,
        tuple((best.index, best.label, round(best.probability, 5)) for best in answer.predictions),
    )


def test_the_same_answer_by_every_door() -> None:
    """Variant, budget and predictions are the same on all four, and are what the engine gave."""

    async def scenario(doors: Doors) -> None:
        for name, answer in ANSWERS.items():
            doors.engine.answers[IMAGE] = answer
            assert await doors.everywhere(Asked()) == dict.fromkeys(FRONTS, expected(answer)), name

    over_all(scenario)


ERRORS = (
    errors.InvalidImage("the JPEG data ends before the picture does; send the whole file"),
    errors.ImageTooLarge("too many pixels; scale it down"),
    errors.UnsupportedMediaType("SVG is not served; send a JPEG"),
    errors.UnknownVariant("no variant 'b9'; try one of b0"),
    errors.InvalidArgument("no allowed variant has top-1 of 99 or more; the best has 80"),
    errors.Overloaded("the queue is full; come back later", retry_after_ns=1_500 * MS),
    errors.DeadlineExceeded("no allowed variant can make the budget", smallest_feasible_budget_ns=9 * MS),
    errors.NotReady("the server is draining; try another replica"),
    errors.InferenceFailed("the run failed; the log says more"),
)


def test_the_same_error_by_every_door() -> None:
    """Each class of the error tree has its row's status on each wire, and the same sentence."""

    async def scenario(doors: Doors) -> None:
        for error in ERRORS:
            row = wire_status(error)
            over_http, over_grpc = Refused(row.http, error.detail), Refused(row.grpc, error.detail)
            doors.engine.failures[IMAGE] = error
            found = await doors.everywhere(Asked())
            assert found == dict(zip(FRONTS, itertools.cycle((over_http, over_grpc)), strict=False)), error

    over_all(scenario)


def test_every_error_that_a_request_can_meet_is_in_the_table() -> None:
    """No class of the tree is left out but those that are of no request of one image."""
    seen = {type(error) for error in ERRORS}
    left_out = {errors.Unauthenticated, errors.MalformedRequest, errors.StoreRefused}
    assert set(errors.PhiserveError.__subclasses__()) - left_out == seen


LIMITS = {
    "budget of nothing": (Asked(parameters={"budget_ms": 0.0}), errors.InvalidArgument),
    "budget beyond the server's": (Asked(parameters={"budget_ms": 1e9}), errors.InvalidArgument),
    "more classes than the server gives": (Asked(parameters={"top_k": 1000}), errors.InvalidArgument),
    "priority beyond 9": (Asked(parameters={"priority": 10}), errors.InvalidArgument),
    "accuracy beyond 100": (Asked(parameters={"min_accuracy": 101.0}), errors.InvalidArgument),
    "an image beyond the bound": (Asked(image=b"x" * (IMAGE_BYTES_MAX + 1)), errors.ImageTooLarge),
}


def test_the_same_limits_at_every_door() -> None:
    """What is out of bounds is refused by all with the same class of error, before the engine sees it."""

    async def scenario(doors: Doors) -> None:
        for name, (asked, kind) in LIMITS.items():
            row = wire_status(kind("any"))
            found = await doors.everywhere(asked)
            statuses = {front: outcome.status for front, outcome in found.items() if isinstance(outcome, Refused)}
            assert statuses == dict(zip(FRONTS, itertools.cycle((row.http, row.grpc)), strict=False)), name
            assert doors.engine.calls == [], name

    over_all(scenario)


POLICIES = {
    "budget": ({"budget_ms": 37.5}, RequestOptions(budget_ns=37_500_000)),
    "target": ({"target_ms": 20.0}, RequestOptions(policy=RoutingPolicy(target_ns=20 * MS))),
    "floor": ({"min_accuracy": 76.5}, RequestOptions(policy=RoutingPolicy(min_accuracy=76.5))),
    "late": ({"on_miss": "late"}, RequestOptions(policy=RoutingPolicy(on_miss=OnMiss.LATE))),
    "priority": ({"priority": 7}, RequestOptions(policy=RoutingPolicy(priority=7))),
}


def test_the_same_wish_reaches_the_engine_by_every_door() -> None:
    """The engine is asked for exactly the same, whichever wire the parameters came on."""

    async def scenario(doors: Doors) -> None:
        for name, (parameters, options) in POLICIES.items():
            doors.engine.calls.clear()
            await doors.everywhere(Asked(parameters=parameters))
            asked = [call.options for call in doors.engine.calls]
            assert asked == [replace(options, top_k=TOP_K)] * len(FRONTS), name
            assert {call.client for call in doors.engine.calls} == {"127.0.0.1"}, name

    over_all(scenario)


def test_a_caller_that_leaves_frees_its_place_at_every_door() -> None:
    """Closing the connection, or cancelling the call, ends the request in the engine."""

    async def scenario(doors: Doors) -> None:
        for front, ask in doors.asks.items():
            doors.engine.held.clear()
            doors.engine.cancelled.clear()
            asking = asyncio.ensure_future(ask(Asked(image=HELD)))
            assert await asyncio.to_thread(doors.engine.held.wait, WAIT_S), front
            asking.cancel()
            assert await asyncio.to_thread(doors.engine.cancelled.wait, WAIT_S), front

    over_all(scenario)


def test_no_door_is_open_while_the_engine_is_not_ready() -> None:
    """Before and after, every front answers that the server takes nothing."""
    row = wire_status(errors.NotReady("any"))

    async def scenario(doors: Doors) -> None:
        doors.engine.readiness = Readiness.DRAINING
        found = await doors.everywhere(Asked())
        statuses = [outcome.status for outcome in found.values() if isinstance(outcome, Refused)]
        assert statuses == [row.http, row.grpc, row.http, row.grpc]

    over_all(scenario)
