"""What the engine tells those who cannot be in time: at once, and with a budget that would do."""

from __future__ import annotations

import asyncio

import pytest

from service.core.engine import Engine
from service.core.request import Classification, RequestOptions
from service.errors import DeadlineExceeded
from tests.fakes.event_loop import run_in_fake_time
from tests.fakes.menus import MS
from tests.fakes.runtime import FakeDecoder, FakeWorkers, RecordingInstrument, build_engine


async def infer(engine: Engine, image: bytes, budget_ms: float) -> Classification:
    return await engine.infer(image, RequestOptions(round(budget_ms * MS), 5), received_ns=engine.now_ns())


def test_an_impossible_budget_is_refused_at_the_door() -> None:
    """A budget below decode plus the fastest variant fails at once and names the smallest feasible one."""

    async def scenario() -> None:
        decoder, instrument = FakeDecoder(), RecordingInstrument()
        engine = build_engine(decoder=decoder, instrument=instrument)
        before_ns = engine.now_ns()
        with pytest.raises(DeadlineExceeded, match=r"smallest feasible budget .* 11\.0 ms") as caught:
            await infer(engine, b"A", 5)
        assert caught.value.smallest_feasible_budget_ns == 11 * MS
        assert engine.now_ns() == before_ns
        assert decoder.resolutions == [], "it must be refused before any decode"
        assert instrument.events == [("refused", "DeadlineExceeded")]
        answer = await infer(engine, b"A", 11)
        assert answer.variant.name == "small"
        assert answer.budget_met

    run_in_fake_time(scenario())


def test_a_queue_that_is_too_long_is_refused_at_the_door() -> None:
    """A request that the queue ahead leaves no time for is refused before decode, with a budget that would do."""

    async def scenario() -> None:
        engine = build_engine()
        busy = [asyncio.create_task(infer(engine, b"A", 100)) for _ in range(4)]
        await asyncio.sleep(0.002)
        with pytest.raises(DeadlineExceeded, match="the queue ahead takes about") as caught:
            await infer(engine, b"B", 12)
        assert caught.value.smallest_feasible_budget_ns > 12 * MS
        await asyncio.gather(*busy)

    run_in_fake_time(scenario())


def test_an_impossible_budget_beside_others_names_one_that_works_then() -> None:
    """While others wait, a budget below any run is refused with one that is answered if it is asked for at once."""

    async def scenario() -> None:
        engine = build_engine()
        busy = [asyncio.create_task(infer(engine, b"A", 100)) for _ in range(4)]
        await asyncio.sleep(0.002)
        with pytest.raises(DeadlineExceeded, match="no allowed variant") as caught:
            await infer(engine, b"B", 3)
        named_ms = caught.value.smallest_feasible_budget_ns / MS
        assert named_ms > 11, "the worker is busy with one of them"
        answer = await infer(engine, b"B", named_ms)
        assert answer.budget_met
        await asyncio.gather(*busy)

    run_in_fake_time(scenario())


def test_a_budget_that_ran_out_in_the_queue_names_one_for_the_queue_as_it_is() -> None:
    """Four more wait whose slack is spent when it is given up: a budget that an idle server makes is of no use."""

    async def scenario() -> None:
        engine = build_engine(workers=FakeWorkers(takes_ns=lambda plan: 40 * MS))
        first = asyncio.create_task(infer(engine, b"A", 14))
        await asyncio.sleep(0.002)
        given_up = asyncio.create_task(infer(engine, b"B", 30))
        others = [asyncio.create_task(infer(engine, b"C", 65)) for _ in range(4)]
        with pytest.raises(DeadlineExceeded, match="the budget ran out in the queue") as caught:
            await given_up
        assert caught.value.smallest_feasible_budget_ns > 45 * MS
        await asyncio.gather(first, *others, return_exceptions=True)

    run_in_fake_time(scenario())
