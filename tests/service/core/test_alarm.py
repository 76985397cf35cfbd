"""One timer, whatever is wished for meanwhile: it rings at the last wish and at no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.alarm import Alarm
from tests.fakes.event_loop import LoopClock, run_in_fake_time

MS = 1_000_000


def rung_at_ms(wishes: Callable[[Callable[[int | None], None]], Coroutine[None, None, None]]) -> list[int]:
    """Milliseconds after the start at which an alarm rang that was given `wishes`, in milliseconds after the start."""

    async def run() -> list[int]:
        clock, rang = LoopClock(), list[int]()
        began_ns = clock.now_ns()
        alarm = Alarm(clock, lambda: rang.append(round((clock.now_ns() - began_ns) / MS)))
        await wishes(lambda at_ms: alarm.set(None if at_ms is None else began_ns + at_ms * MS))
        await asyncio.sleep(10)
        return rang

    return run_in_fake_time(run())


def test_it_rings_once_at_the_time_wished_for() -> None:
    """And not again, until something is wished for again; what has passed is wished for at once."""

    async def wishes(wish: Callable[[int | None], None]) -> None:
        wish(20)
        await asyncio.sleep(0.05)
        wish(90)
        await asyncio.sleep(0.05)
        wish(30)

    assert rung_at_ms(wishes) == [20, 90, 100]


@pytest.mark.parametrize(("last", "expected"), [(40, [40]), (15, [15]), (None, []), (0, [10])])
def test_the_last_wish_counts(last: int | None, expected: list[int]) -> None:
    """A later one, an earlier one, none, and one whose time has passed when it is made."""

    async def wishes(wish: Callable[[int | None], None]) -> None:
        wish(20)
        await asyncio.sleep(0.01)
        wish(last)

    assert rung_at_ms(wishes) == expected


@given(st.lists(st.tuples(st.integers(1, 25), st.none() | st.integers(-20, 50)), max_size=20))
def test_it_rings_as_if_a_timer_were_set_for_each_wish(steps: list[tuple[int, int | None]]) -> None:
    """Whatever is wished for and when: at the time of each wish that no other had replaced until then.

    Wishes are made at even milliseconds and for odd ones, so that none is made at the very time of another's ring.
    """

    async def wishes(wish: Callable[[int | None], None]) -> None:
        now_ms = 0
        for after, ahead in steps:
            await asyncio.sleep(2 * after / 1000)
            now_ms += 2 * after
            wish(None if ahead is None else now_ms + 2 * ahead + 1)

    expected, made_ms = list[int](), 0
    for number, (after, ahead) in enumerate(steps):
        made_ms += 2 * after
        replaced_ms = made_ms + 2 * steps[number + 1][0] if number + 1 < len(steps) else float("inf")
        due_ms = None if ahead is None else max(made_ms, made_ms + 2 * ahead + 1)
        if due_ms is not None and due_ms < replaced_ms:
            expected.append(due_ms)
    assert rung_at_ms(wishes) == expected


def test_a_wish_that_moves_on_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred deadlines, each 10 ms after the one before and a second ahead, take one timer."""
    timers = 0

    async def wishes(wish: Callable[[int | None], None]) -> None:
        loop = asyncio.get_running_loop()
        original = loop.call_later

        def call_later(*args: object) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return original(*args)

        for number in range(100):
            with monkeypatch.context() as patch:
                patch.setattr(loop, "call_later", call_later)
                wish(1000 + 10 * number)
            await asyncio.sleep(0.01)

    assert rung_at_ms(wishes) == [1990]
    assert timers == 1
