"""`phiserve.v1.Classifier` over a real server and connection, and a scripted engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from phiserve.v1 import classifier_pb2 as pb
from service import errors
from service.core.engine import Readiness
from service.core.request import OnMiss, RequestOptions, RoutingPolicy
from service.errors import PhiserveError
from service.frontends.grpc_stream import StreamLimits
from service.frontends.status_codes import STATUS_BY_ERROR, wire_status
from tests.fakes.engine import HELD, Call, ScriptedEngine
from tests.fakes.grpc_server import IMAGE_BYTES_MAX, GrpcScenario, Served, frame
from tests.fakes.menus import MS
from tests.fakes.patience import RISING_S

WAIT_S = 20


@pytest.fixture
def scenario() -> GrpcScenario:
    return GrpcScenario()


async def within(work: Awaitable[Any]) -> Any:
    """The result of `work`, which must not take for ever."""
    return await asyncio.wait_for(work, WAIT_S)


async def is_set(event: threading.Event) -> None:
    """Until the engine has set `event`."""
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, WAIT_S)


@dataclass
class GatedEngine(ScriptedEngine):
    """Answers nothing before its gate is opened, and says when requests have come."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def infer(self, image, options, *, received_ns, client=""):
        self.came.release()
        await self.gate.wait()
        return await super().infer(image, options, received_ns=received_ns, client=client)

    async def have_come(self, count: int) -> None:
        for _ in range(count):
            await within(self.came.acquire())


async def refused(call: Any) -> tuple[grpc.aio.AioRpcError, status_pb2.Status]:
    """How the call failed, and its rich status."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await within(call)
    status = rpc_status.from_call(Trailers(caught.value))
    assert status is not None, "no details"
    return caught.value, status


class Trailers:
    """An error of grpc.aio as grpc-status wants to read it."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.details, self.trailing_metadata = error.code, error.details, error.trailing_metadata


def reason_of(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def test_an_image_is_answered(scenario) -> None:
    """The engine gets the image, the options and the caller's host; the caller gets the answer and a request id."""

    async def run(served: Served) -> None:
        request = pb.ClassifyRequest(
            image=b"cat", budget_ms=25, top_k=2, variant="b3", min_accuracy=70, on_miss=pb.ON_MISS_LATE, priority=4
        )
        call = served.stub.Classify(request)
        answer = await within(call)
        assert [row.label for row in answer.predictions] == ["class 281", "class 282"]
        assert (answer.variant.name, answer.budget_ms) == ("small", 25)
        trailers = dict(await call.trailing_metadata())
        assert scenario.bound_ids == [trailers["x-request-id"]]

    scenario.run(run)
    policy = RoutingPolicy(variant="b3", min_accuracy=70.0, on_miss=OnMiss.LATE, priority=4)
    received_ns = scenario.engine.now_ns()
    assert scenario.engine.calls == [Call(b"cat", RequestOptions(25 * MS, 2, policy), received_ns, "127.0.0.1")]


@pytest.mark.parametrize("given", ["abc-123", "no spaces, please"])
def test_a_request_id_that_is_safe_is_taken_over(scenario, given) -> None:
    """As over HTTP: echoed and bound for logging, or replaced by a fresh one."""

    async def run(served: Served) -> str:
        call = served.stub.Classify(pb.ClassifyRequest(image=b"cat"), metadata=(("x-request-id", given),))
        await within(call)
        return dict(await call.trailing_metadata())["x-request-id"]

    echoed = scenario.run(run)
    assert scenario.bound_ids == [echoed]
    assert (echoed == given) is (given == "abc-123")
    assert echoed


def failing(kind: type[PhiserveError]) -> PhiserveError:
    if kind is errors.Overloaded:
        return kind("because", retry_after_ns=1_500 * MS)
    if issubclass(kind, errors.DeadlineExceeded):
        return kind("because", smallest_feasible_budget_ns=12_300_000)
    return kind("because")


@pytest.mark.parametrize("kind", [*STATUS_BY_ERROR, ZeroDivisionError], ids=lambda kind: kind.__name__)
def test_every_error_ends_the_call_with_its_status(scenario, kind, caplog) -> None:
    """Code, sentence, reason and request id; what is a bug is logged and not told."""
    error = failing(kind) if issubclass(kind, PhiserveError) else ZeroDivisionError("secret")
    scenario.engine.failures[b"bad"] = error

    async def run(served: Served) -> None:
        failed, status = await refused(served.stub.Classify(pb.ClassifyRequest(image=b"bad")))
        assert failed.code().name == wire_status(error).grpc
        told = "because" if isinstance(error, PhiserveError) else "The server failed; its log says more."
        assert failed.details() == told
        assert reason_of(status) == wire_status(error).slug.upper().replace("-", "_")
        info = error_details_pb2.RequestInfo()
        assert status.details[-1].Unpack(info)
        assert [info.request_id] == scenario.bound_ids == [dict(failed.trailing_metadata())["x-request-id"]]

    scenario.run(run)
    assert ("ZeroDivisionError: secret" in caplog.text) is (kind is ZeroDivisionError)


def test_what_is_no_request_never_reaches_the_engine(scenario) -> None:
    """Parameters, an empty image and one that is too large are refused before."""

    async def run(served: Served) -> list[str]:
        requests = [
            pb.ClassifyRequest(image=b"cat", top_k=21),
            pb.ClassifyRequest(),
            pb.ClassifyRequest(image=b"x" * (IMAGE_BYTES_MAX + 1)),
        ]
        return [reason_of((await refused(served.stub.Classify(request)))[1]) for request in requests]

    assert scenario.run(run) == ["INVALID_ARGUMENT", "INVALID_IMAGE", "IMAGE_TOO_LARGE"]
    assert scenario.engine.calls == []


def test_the_deadline_of_a_call_is_its_budget_where_it_names_none(scenario) -> None:
    """What is left of it; a budget that is named stays, and a call without either has the server's default."""

    async def run(served: Served) -> None:
        await within(served.stub.Classify(pb.ClassifyRequest(image=b"cat"), timeout=30))
        await within(served.stub.Classify(pb.ClassifyRequest(image=b"cat", budget_ms=20), timeout=30))
        await within(served.stub.Classify(pb.ClassifyRequest(image=b"cat")))
        await within(served.stub.Classify(pb.ClassifyRequest(image=b"cat"), timeout=3600))

    scenario.run(run)
    by_deadline, by_name, by_default, beyond = (call.options.budget_ns for call in scenario.engine.calls)
    # Deadlines travel rounded: a little more than 30 s may arrive.
    assert 15_000 * MS < by_deadline < 31_000 * MS
    assert (by_name, by_default) == (20 * MS, None)
    assert beyond == scenario.engine.budget_ns_max


def test_a_caller_that_hangs_up_frees_its_place(scenario) -> None:
    """The engine's work on it is cancelled."""

    async def run(served: Served) -> None:
        call = served.stub.Classify(pb.ClassifyRequest(image=HELD))
        await is_set(scenario.engine.held)
        call.cancel()
        await is_set(scenario.engine.cancelled)
        assert (await within(call.code())).name == "CANCELLED"

    scenario.run(run)


def test_a_caller_whose_deadline_passes_frees_its_place(scenario) -> None:
    """The engine's work on it is cancelled too, once there is any: a deadline may pass before the server is asked."""

    async def run(served: Served) -> None:
        for timeout_s in RISING_S:
            call = served.stub.Classify(pb.ClassifyRequest(image=HELD), timeout=timeout_s)
            assert (await within(call.code())).name == "DEADLINE_EXCEEDED"
            if scenario.engine.held.is_set():
                break
        await is_set(scenario.engine.cancelled)

    scenario.run(run)


def test_the_menu_is_listed(scenario) -> None:
    """Every variant, most accurate first, with what is not served marked."""

    async def run(served: Served) -> list[tuple[str, bool, bool]]:
        listed = await within(served.stub.ListVariants(pb.ListVariantsRequest()))
        return [(row.name, row.trained, row.routable) for row in listed.variants]

    assert scenario.run(run) == [("large", True, True), ("unknown", False, False)]


async def streamed(served: Served, frames: list[pb.ClassifyStreamRequest]) -> list[pb.ClassifyStreamResponse]:
    """All answers to `frames`, sent while answers are read."""
    call = served.stub.ClassifyStream(iter(frames))
    answers = [answer async for answer in call]
    assert (await call.code()).name == "OK"
    return answers


def test_every_frame_is_answered_in_order(scenario) -> None:
    """Whatever becomes of each: the sender's numbers come back, none is missing, and failures end nothing."""
    scenario.engine.failures |= {b"bad": errors.InvalidImage("no picture"), b"bug": ZeroDivisionError("secret")}
    images = [b"cat", b"bad", b"", b"bug", b"x" * 1001, *(b"cat" for _ in range(20))]
    numbers = [7, 7, *range(100, 0, -1)]
    frames = [frame(number, image) for number, image in zip(numbers, images, strict=False)]
    frames.append(pb.ClassifyStreamRequest(frame_id=2**64 - 1))
    answers = scenario.run(lambda served: within(streamed(served, frames)))
    assert [answer.frame_id for answer in answers] == [sent.frame_id for sent in frames]
    assert all(answer.WhichOneof("outcome") for answer in answers)
    reasons = [reason_of(answer.error) for answer in answers if answer.HasField("error")]
    assert reasons == ["INVALID_IMAGE", "INVALID_IMAGE", "INTERNAL_ERROR", "IMAGE_TOO_LARGE", "INVALID_ARGUMENT"]
    assert "secret" not in str(answers)


@pytest.mark.parametrize(("is_last", "reason"), [(False, "STALE_FRAME"), (True, "DEADLINE_EXCEEDED")])
def test_an_overtaken_frame_is_told_so(is_last, reason) -> None:
    """A budget that could not be met while newer frames waited makes a stale frame; the newest is none."""
    error = errors.DeadlineExceeded("too tight", smallest_feasible_budget_ns=12_300_000)
    engine = GatedEngine(failures={b"tight": error})
    images = [b"cat", b"cat", b"tight"] if is_last else [b"cat", b"tight", b"cat"]

    async def run(served: Served) -> None:
        call = served.stub.ClassifyStream(iter([frame(number, image) for number, image in enumerate(images)]))
        await engine.have_come(len(images))
        engine.gate.set()
        answers = [answer async for answer in call]
        failed = answers[images.index(b"tight")]
        assert [answer.HasField("error") for answer in answers] == [image == b"tight" for image in images]
        assert failed.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert reason_of(failed.error) == reason
        assert failed.error.message.startswith("too tight")

    GrpcScenario(engine, stream=StreamLimits(3, 3)).run(run)


def test_a_stream_that_is_left_frees_its_places(scenario) -> None:
    """What is in flight is cancelled when the caller hangs up."""

    async def run(served: Served) -> None:
        call = served.stub.ClassifyStream()
        await within(call.write(frame(1, HELD)))
        await is_set(scenario.engine.held)
        call.cancel()
        await is_set(scenario.engine.cancelled)

    scenario.run(run)


def test_a_bounded_number_of_frames_is_read_ahead() -> None:
    """With nothing answered the server reads no further, however much is sent; then it goes on, and nothing is lost."""
    engine = GatedEngine()

    async def run(served: Served) -> None:
        call = served.stub.ClassifyStream(iter([frame(number) for number in range(50)]))
        await engine.have_come(4)
        # A whole round trip on the same connection, during which more could have been read.
        await within(served.stub.ListVariants(pb.ListVariantsRequest()))
        assert engine.came.locked(), "a fifth frame was read"
        engine.gate.set()
        assert [answer.frame_id async for answer in call] == list(range(50))

    GrpcScenario(engine, stream=StreamLimits(4, 4)).run(run)


def test_draining_refuses_what_comes(scenario) -> None:
    """An engine that is not ready says so over gRPC too."""
    scenario.engine.readiness = Readiness.DRAINING

    async def run(served: Served) -> str:
        failed, _ = await refused(served.stub.Classify(pb.ClassifyRequest(image=b"cat")))
        return failed.code().name

    assert scenario.run(run) == "UNAVAILABLE"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, None], ids=["asyncio", "as served"])
def test_either_event_loop_serves(scenario, loop) -> None:
    """Asyncio's own as well as the one that the server runs on."""

    async def run(served: Served) -> None:
        calls = [served.stub.Classify(pb.ClassifyRequest(image=b"cat")) for _ in range(20)]
        await within(asyncio.gather(*calls))
        assert len(await within(streamed(served, [frame(number) for number in range(20)]))) == 20

    scenario.run(run, loop)
