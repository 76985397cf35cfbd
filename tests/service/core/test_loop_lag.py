"""What waited for a busy event loop is known to have waited, and an ordinary turn is none of that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.core.loop_lag import USUAL_NS, LoopLag
from service.core.request import RequestOptions
from service.errors import DeadlineExceeded
from tests.fakes.clock import FakeClock
from tests.fakes.event_loop import run_in_fake_time
from tests.fakes.runtime import build_engine

MS = 1_000_000


class Loop:
    """Runs what was called for at the end of a turn."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lag = LoopLag(self.clock)
        self.calls: list[Callable[[], None]] = []

    def behind_ns(self, reading_ns: int = 0) -> int:
        return self.lag.behind_ns(self.calls.append, reading_ns)

    def turn(self, took_ns: int) -> None:
        self.clock.advance(took_ns)
        for call in self.calls:
            call()
        self.calls.clear()


def test_nothing_is_late_before_a_turn_was_long() -> None:
    """A turn of ordinary work is part of every request's overhead and is not counted again."""
    loop = Loop()
    assert loop.behind_ns() == 0
    loop.turn(USUAL_NS)
    assert loop.behind_ns() == 0


def test_who_comes_after_a_long_turn_had_waited_for_it() -> None:
    """As long as that turn took, however late in the next one the request is looked at."""
    loop = Loop()
    loop.behind_ns()
    loop.turn(80 * MS)
    assert loop.behind_ns() == 80 * MS
    loop.clock.advance(70 * MS)
    assert loop.behind_ns() == 80 * MS
    assert len(loop.calls) == 1, "a turn is timed once, however many come in it"


def test_a_backlog_is_forgotten_when_nobody_came_for_as_long() -> None:
    """A flood that ended has no request refused afterwards."""
    loop = Loop()
    loop.behind_ns()
    loop.turn(80 * MS)
    loop.clock.advance(81 * MS)
    assert loop.behind_ns() == 0


def test_reading_a_picture_is_waiting_while_the_loop_is_behind() -> None:
    """Its pieces waited for turns of the loop, two at most; with a loop that keeps up it is the network's."""
    loop = Loop()
    assert loop.behind_ns(reading_ns=30 * MS) == 0
    loop.turn(80 * MS)
    assert loop.behind_ns(reading_ns=30 * MS) == 110 * MS
    assert loop.behind_ns(reading_ns=400 * MS) == 240 * MS


def test_a_short_turn_ends_it_at_once() -> None:
    """The loop has caught up: what is read now has not waited."""
    loop = Loop()
    loop.behind_ns()
    loop.turn(80 * MS)
    loop.behind_ns()
    loop.turn(1 * MS)
    assert loop.behind_ns() == 0


def test_the_wait_counts_as_part_of_the_budget() -> None:
    """What would be in time if it had been sent just now is refused, and what has time for the wait too is answered."""

    async def scenario() -> None:
        engine = build_engine()
        loop = asyncio.get_running_loop()

        async def infer(budget_ms: int) -> object:
            asked = RequestOptions(budget_ns=budget_ms * MS, top_k=1)
            return await engine.infer(b"A", asked, received_ns=engine.now_ns())

        engine.open()
        first = asyncio.create_task(infer(500))
        loop.call_soon(lambda: loop.pass_by(0.1))
        for _ in range(3):
            await asyncio.sleep(0)  # a turn of the loop, in fake time
        with pytest.raises(DeadlineExceeded):
            await infer(100)
        await first
        assert (await infer(100)).budget_met

    run_in_fake_time(scenario())
