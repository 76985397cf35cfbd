"""Calls from other threads to an event loop, on asyncio's own loop and on uvloop's, through event counter and pipe."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable

import pytest
import uvloop

from service.core.loop_mail import LoopMail

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
THREADS, CALLS = 4, 500


@pytest.fixture(params=LOOPS)
def loop_factory(request) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


@pytest.fixture(params=["event counter", "pipe"])
def wake_up(request, monkeypatch) -> None:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)


@pytest.mark.usefixtures("wake_up")
def test_every_call_arrives_on_the_loops_thread_in_order(loop_factory) -> None:
    """Whatever several threads post is called once, on the loop's thread, each thread's calls in their order."""

    async def scenario() -> None:
        mail, heard, done = LoopMail.of(asyncio.get_running_loop()), [], asyncio.Event()

        def hear(thread: int, number: int) -> None:
            heard.append((threading.get_ident(), thread, number))
            if len(heard) == THREADS * CALLS:
                done.set()

        def post_all(thread: int) -> None:
            for number in range(CALLS):
                mail.post(hear, thread, number)

        threads = [threading.Thread(target=post_all, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(done.wait(), 30)
        for thread in threads:
            thread.join()
        assert {ident for ident, *_ in heard} == {threading.get_ident()}
        for thread in range(THREADS):
            assert [number for _, which, number in heard if which == thread] == list(range(CALLS))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


def test_a_call_that_raises_is_told_and_costs_no_other_its_turn(loop_factory) -> None:
    """An exception goes to the loop's handler, and what was posted behind it is called."""

    async def scenario() -> None:
        loop, told, heard = asyncio.get_running_loop(), [], asyncio.Event()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        mail = LoopMail.of(loop)
        mail.put(int, "no number")
        mail.post(heard.set)
        await asyncio.wait_for(heard.wait(), 30)
        assert [type(error) for error in told] == [ValueError]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


def test_a_loop_has_one_letter_box(loop_factory) -> None:
    """Whoever asks on the same loop gets the same one: its descriptors are opened once."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert LoopMail.of(loop) is LoopMail.of(loop)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


def test_a_closed_loop_says_so(loop_factory) -> None:
    """Posting to a loop that was closed raises, as `call_soon_threadsafe` does; nothing is lost without a word."""

    async def scenario() -> LoopMail:
        return LoopMail.of(asyncio.get_running_loop())

    loop = loop_factory()
    mail = loop.run_until_complete(scenario())
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        mail.post(print)


@pytest.mark.usefixtures("wake_up")
def test_a_loop_that_is_gone_leaves_no_descriptor_open(loop_factory, monkeypatch) -> None:
    """What waking a loop took is given back when the loop is."""
    opened, closed = [], []
    for name in ("eventfd", "pipe"):
        if hasattr(os, name):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *args, real=real: opened.append(got := real(*args)) or got)
    real_close = os.close
    monkeypatch.setattr(os, "close", lambda descriptor: (closed.append(descriptor), real_close(descriptor))[1])

    async def scenario() -> None:
        LoopMail.of(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())
    del runner
    gc.collect()
    mine = [one for each in opened for one in (each if isinstance(each, tuple) else (each,))]
    assert mine
    assert set(mine) <= set(closed)
