"""The engine over the real scheduler, with decode and runs in fake time."""

from __future__ import annotations

import asyncio

import pytest

from service.core.engine import Engine, Readiness
from service.core.instrument import Instrument
from service.core.request import (
    Classification,
    OnMiss,
    Plan,
    QueuedRequest,
    RawPixels,
    RequestOptions,
    RoutingPolicy,
)
from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidArgument,
    InvalidImage,
    NotReady,
    Overloaded,
    UnknownVariant,
)
from tests.fakes.event_loop import run_in_fake_time
from tests.fakes.menus import MS, gpu_menu
from tests.fakes.runtime import FakeDecoder, FakeWorkers, RecordingInstrument, build_engine, probabilities_of

LATE = RoutingPolicy(on_miss=OnMiss.LATE)


def options(budget_ms: float | None = None, policy: RoutingPolicy | None = None, top_k: int = 5) -> RequestOptions:
    budget_ns = None if budget_ms is None else round(budget_ms * MS)
    return RequestOptions(budget_ns, top_k, policy or RoutingPolicy())


async def infer(engine: Engine, image: bytes, asked: RequestOptions | None = None) -> object:
    return await engine.infer(image, asked or options(), received_ns=engine.now_ns())


def test_answers_with_labels_timings_and_variant() -> None:
    """An answer names its classes, the variant that gave it, and where the time went."""

    async def scenario() -> None:
        answer = await infer(build_engine(), b"A", options(100, top_k=2))
        assert [(p.index, p.wnid, p.label) for p in answer.predictions] == [
            (65, "n00000065", "class 65"),
            (66, "n00000066", "class 66"),
        ]
        assert answer.variant.name == "large"
        assert answer.budget_met
        assert answer.budget_ns == 100 * MS
        assert answer.degraded_from is None
        assert answer.batch_size == 1
        timings = answer.timings
        assert timings.decode_ns == pytest.approx(1 * MS, rel=0.01)
        assert timings.total_ns == pytest.approx(51 * MS, rel=0.01)
        assert timings.queue_ns == 0

    run_in_fake_time(scenario())


def test_instruments_hear_when_each_stage_begins() -> None:
    """A request is queued when it is decoded and its run starts when a worker takes it, as its timings say."""

    class Stages(Instrument):
        def __init__(self) -> None:
            self.queued, self.started, self.settled = [], [], []

        def request_queued(self, request: QueuedRequest, queued_ns: int) -> None:
            self.queued.append((request.request_id, queued_ns - request.received_ns))

        def run_started(self, plan: Plan, started_ns: int) -> None:
            self.started.append((plan.request_ids, started_ns))

        def request_settled(self, classification: Classification) -> None:
            self.settled.append(classification.timings)

    async def scenario() -> None:
        stages = Stages()
        engine = build_engine(instrument=stages)
        began_ns = engine.now_ns()
        await asyncio.gather(*(infer(engine, b"A", options(500)) for _ in range(2)))
        assert [queued_ns for _, queued_ns in stages.queued] == [timings.decode_ns for timings in stages.settled]
        started_ns = {request_id: at_ns for ids, at_ns in stages.started for request_id in ids}
        waited_ns = [started_ns[request_id] - began_ns - queued_ns for request_id, queued_ns in stages.queued]
        assert waited_ns == [timings.queue_ns for timings in stages.settled]
        assert max(waited_ns) > 0

    run_in_fake_time(scenario())


def test_no_budget_means_the_default_budget() -> None:
    """Without a budget the server's default counts, which gets the most accurate variant."""

    async def scenario() -> None:
        answer = await infer(build_engine(), b"A")
        assert answer.budget_ns == 1000 * MS
        assert answer.variant.name == "large"

    run_in_fake_time(scenario())


def test_decodes_no_larger_than_a_feasible_variant_needs() -> None:
    """The decoder is asked for the shorter side that the best still feasible variant's crop needs."""

    async def scenario() -> None:
        decoder = FakeDecoder()
        engine = build_engine(decoder=decoder)
        await infer(engine, b"A", options(100))
        assert decoder.resolutions == [256]  # 224 / 0.875

    run_in_fake_time(scenario())


def test_load_degrades_accuracy_and_says_so() -> None:
    """When the queue forces a cheaper variant the answer names what an idle server would have used."""

    async def scenario() -> None:
        engine = build_engine()
        answers = await asyncio.gather(*(infer(engine, b"A", options(130)) for _ in range(8)))
        degraded = [answer for answer in answers if answer.degraded_from]
        assert degraded
        assert {answer.degraded_from for answer in degraded} == {"large"}
        assert all(answer.budget_met for answer in answers)

    run_in_fake_time(scenario())


def test_a_batch_keeps_answers_apart() -> None:
    """Requests that share a run each get the answer to their own image."""

    async def scenario() -> None:
        workers = FakeWorkers()
        engine = build_engine(menu=gpu_menu(), workers=workers)
        images = [bytes([65 + index]) for index in range(9)]
        answers = await asyncio.gather(*(infer(engine, image) for image in images))
        assert [answer.predictions[0].index for answer in answers] == [65 + index for index in range(9)]
        assert max(len(plan.request_ids) for plan in workers.plans) > 1

    run_in_fake_time(scenario())


def test_a_cancelled_caller_never_touches_its_batch_mates() -> None:
    """Cancelling one caller of a running batch leaves the other answers and the worker as they were."""

    async def scenario() -> None:
        workers, instrument = FakeWorkers(), RecordingInstrument()
        engine = build_engine(menu=gpu_menu(), workers=workers, instrument=instrument)
        calls = [asyncio.create_task(infer(engine, bytes([65 + index]))) for index in range(5)]
        await asyncio.sleep(0.025)  # the first runs alone for 20 ms, the rest then share a run
        assert len(workers.plans[-1].request_ids) == 4
        victim = workers.plans[-1].request_ids[0] - 1
        calls[victim].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[victim], asyncio.CancelledError)
        others = [answer for index, answer in enumerate(answers) if index != victim]
        expected = [65 + index for index in range(5) if index != victim]
        assert [answer.predictions[0].index for answer in others] == expected
        assert instrument.names().count("cancelled") == 1
        assert instrument.names().count("settled") == 4
        assert (await infer(engine, b"Z")).predictions[0].index == ord("Z")

    run_in_fake_time(scenario())


def test_a_caller_may_leave_while_its_image_is_decoded() -> None:
    """A request cancelled during decode never reaches the queue and holds no place."""

    async def scenario() -> None:
        workers = FakeWorkers()
        engine = build_engine(workers=workers, decoder=FakeDecoder(decode_ms=30))
        call = asyncio.create_task(infer(engine, b"A"))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert workers.plans == []
        assert await engine.drain(1 * MS)

    run_in_fake_time(scenario())


def test_a_slow_run_is_refused_at_its_deadline() -> None:
    """When a run overshoots, its caller gets the refusal at the deadline and not when the run is over."""

    async def scenario() -> None:
        engine = build_engine(workers=FakeWorkers(slowness=3))
        started_ns = engine.now_ns()
        with pytest.raises(DeadlineExceeded):
            await infer(engine, b"A", options(60))
        assert engine.now_ns() - started_ns == pytest.approx(60 * MS, abs=1000)

    run_in_fake_time(scenario())


def test_late_answers_are_marked() -> None:
    """With on_miss=late an impossible budget is answered by the fastest variant and marked as missed."""

    async def scenario() -> None:
        answer = await infer(build_engine(), b"A", options(3, LATE))
        assert answer.variant.name == "small"
        assert not answer.budget_met

    run_in_fake_time(scenario())


def test_a_failing_run_fails_its_own_requests_only() -> None:
    """A run that raises is an InferenceFailed for its requests; the engine goes on."""

    async def scenario() -> None:
        engine = build_engine()
        with pytest.raises(InferenceFailed):
            await infer(engine, b"poison")
        assert (await infer(engine, b"A")).predictions[0].index == 65

    run_in_fake_time(scenario())


@pytest.mark.parametrize(
    ("image", "asked", "expected"),
    [
        (b"text", options(), InvalidImage),
        (b"broken", options(), InvalidImage),
        (b"A", options(-1), InvalidArgument),
        (b"A", options(60_001), InvalidArgument),
        (b"A", options(top_k=0), InvalidArgument),
        (b"A", options(top_k=21), InvalidArgument),
        (b"A", options(policy=RoutingPolicy(variant="huge")), UnknownVariant),
        (b"A", options(policy=RoutingPolicy(min_accuracy=99)), InvalidArgument),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_kind(
    image: bytes, asked: RequestOptions, expected: type[Exception]
) -> None:
    """Each kind of bad request ends with its own error, and the engine serves the next one."""

    async def scenario() -> None:
        engine = build_engine()
        with pytest.raises(expected):
            await infer(engine, image, asked)
        assert (await infer(engine, b"A")).budget_met

    run_in_fake_time(scenario())


def test_admitted_requests_are_bounded() -> None:
    """Beyond the bound of requests between door and answer a request is refused with a time to come back."""

    async def scenario() -> None:
        engine = build_engine(admitted_max=2)
        calls = [asyncio.create_task(infer(engine, b"A")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await infer(engine, b"A")
        await asyncio.gather(*calls)
        assert (await infer(engine, b"A")).budget_met

    run_in_fake_time(scenario())


def test_the_pixels_that_wait_are_bounded() -> None:
    """Pictures wait while their bytes fit; one too many is refused with a time to retry, and room comes back."""

    async def scenario() -> None:
        engine = build_engine(queue_bytes_max=300)
        running = asyncio.create_task(infer(engine, bytes([1]) * 1000))
        await asyncio.sleep(0.002)
        waiting = [asyncio.create_task(infer(engine, bytes([2 + index]) * 100)) for index in range(3)]
        await asyncio.sleep(0.002)
        with pytest.raises(Overloaded, match="300 bytes wait") as caught:
            await infer(engine, b"A")
        assert caught.value.retry_after_ns > 0
        waiting[0].cancel()
        small = asyncio.create_task(infer(engine, b"A"))
        answers = await asyncio.gather(running, small, *waiting[1:])
        assert [answer.predictions[0].index for answer in answers] == [1, ord("A"), 3, 4]
        assert (await infer(engine, bytes([9]) * 1000)).predictions[0].index == 9, "alone it has room"
        assert (await infer(engine, bytes([8]) * 300)).predictions[0].index == 8

    run_in_fake_time(scenario())


def test_one_clients_flood_leaves_room_for_others() -> None:
    """A client at its own bound is refused while another client's request is served."""

    async def scenario() -> None:
        engine = build_engine(admitted_per_client_max=2)
        flood = [
            asyncio.create_task(engine.infer(b"A", options(), received_ns=engine.now_ns(), client="flood"))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="this client has 2 requests in service"):
            await engine.infer(b"A", options(), received_ns=engine.now_ns(), client="flood")
        other = await engine.infer(b"B", options(), received_ns=engine.now_ns(), client="other")
        assert other.budget_met
        await asyncio.gather(*flood)
        again = await engine.infer(b"A", options(), received_ns=engine.now_ns(), client="flood")
        assert again.budget_met

    run_in_fake_time(scenario())


def test_an_announced_drain_still_serves() -> None:
    """Between the announcement and the drain the server is not ready, yet answers what still reaches it."""

    async def scenario() -> None:
        engine = build_engine()
        engine.announce_drain()
        assert engine.readiness is Readiness.DRAINING
        assert (await infer(engine, b"A")).budget_met

    run_in_fake_time(scenario())


def test_drain_serves_what_was_admitted_and_refuses_the_rest() -> None:
    """Draining loses no admitted request, not even one still being decoded, and takes no new one."""

    async def scenario() -> None:
        engine = build_engine(decoder=FakeDecoder(decode_ms=20))
        calls = [asyncio.create_task(infer(engine, b"A", options(5000))) for _ in range(6)]
        await asyncio.sleep(0.001)
        drained = asyncio.create_task(engine.drain(10_000 * MS))
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await infer(engine, b"A")
        assert len(await asyncio.gather(*calls)) == 6
        assert await drained

    run_in_fake_time(scenario())


def test_drain_is_bounded_and_leaves_nobody_without_a_reply() -> None:
    """When the drain's time is up, what is left is told so instead of hanging."""

    async def scenario() -> None:
        engine = build_engine(workers=FakeWorkers(slowness=1000))
        calls = [asyncio.create_task(infer(engine, b"A", options(50_000, LATE))) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not await engine.drain(100 * MS)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends} == {NotReady}

    run_in_fake_time(scenario())


def test_the_menu_trusts_a_machine_again_that_was_slow() -> None:
    """Nothing need run for it: a budget that slow runs ruled out is said to be enough once their distrust has faded."""

    async def scenario() -> None:
        engine = build_engine(workers=FakeWorkers(slowness=4))
        for _ in range(4):
            await infer(engine, b"A", options(10_000))
        assert engine.choose_when_idle(52 * MS) != "large"
        await asyncio.sleep(30)
        assert engine.choose_when_idle(52 * MS) == "large"

    run_in_fake_time(scenario())


def test_the_menu_says_what_each_budget_would_get() -> None:
    """`choose_when_idle` and `variants` show the ladder of budgets and the profile they follow from."""

    async def scenario() -> None:
        engine = build_engine()
        assert [engine.choose_when_idle(ms * MS) for ms in (5, 11, 21, 51)] == [None, "small", "medium", "large"]
        rows = engine.variants()
        assert [row.variant.name for row in rows] == ["large", "medium", "small"]
        assert rows[0].latency_ns_by_batch == {1: {1: 50 * MS, 2: 100 * MS, 4: 200 * MS}}

    run_in_fake_time(scenario())


def test_pixels_are_served_like_a_picture_without_its_decode() -> None:
    """Pixels need no decoding, so a budget that no encoded picture could make is made."""

    async def scenario() -> None:
        engine = build_engine()
        pixels = RawPixels(2, 1, b"Apples")
        with pytest.raises(DeadlineExceeded):
            await infer(engine, b"A", options(10.5))
        answer = await infer(engine, pixels, options(10.5))
        assert answer.predictions[0].index == ord("A")
        assert (answer.variant.name, answer.budget_met, answer.timings.decode_ns) == ("small", True, 0)

    run_in_fake_time(scenario())


def test_pixels_teach_nothing_about_decoding() -> None:
    """However many pictures need no decoding, what an encoded one is refused for stays the same."""

    async def scenario() -> None:
        engine = build_engine()
        for _ in range(50):
            await infer(engine, RawPixels(1, 1, b"RGB"), options(100))
        with pytest.raises(DeadlineExceeded) as refused:
            await infer(engine, b"A", options(5))
        assert refused.value.smallest_feasible_budget_ns == 11 * MS

    run_in_fake_time(scenario())


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 1, 4), (0, 5, 0), (-1, -1, 3)])
def test_pixels_of_another_length_than_they_say_are_refused(shape) -> None:
    """Width and height must fit the bytes: nothing is read beyond their end."""
    width, height, length = shape
    with pytest.raises(ValueError, match="pixels of RGB"):
        RawPixels(width, height, bytes(length))


def test_every_answer_has_every_class() -> None:
    """Batch-mates get their own probabilities of all classes, in class order, whatever top_k they asked for."""

    async def scenario() -> None:
        engine = build_engine(menu=gpu_menu())
        images = [bytes([65 + position]) for position in range(4)]
        answers = await asyncio.gather(*(infer(engine, image, options(100, top_k=1)) for image in images))
        assert [answer.probabilities for answer in answers] == [probabilities_of(image) for image in images]
        assert max(answer.batch_size for answer in answers) > 1

    run_in_fake_time(scenario())


def test_the_way_in_is_taken_to_last_as_long_as_the_way_out() -> None:
    """An event loop that takes 3 ms to hand over answers has kept what comes in waiting as long, within its budget."""

    async def scenario() -> None:
        engine = build_engine(overhead_ms=3)
        answer = await infer(engine, b"A", options(100))
        assert answer.timings.total_ns == pytest.approx((3 + 1 + 50) * MS, rel=0.01)
        # 1 ms to decode, 10 to run, and 3 each way.
        await infer(build_engine(overhead_ms=3), b"A", options(17.1))
        with pytest.raises(DeadlineExceeded):
            await infer(build_engine(overhead_ms=3), b"A", options(16.9))

    run_in_fake_time(scenario())
