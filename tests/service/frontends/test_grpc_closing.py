"""When a port may be closed, in fake time: soon after the last call, and never much later than a second."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from service.frontends.grpc_closing import CallsBeforeClosing
from tests.fakes.event_loop import run_in_fake_time

CALL = SimpleNamespace(method="/a.Service/Call")


async def serve(_call: object) -> str:
    return "served"


def intercept(calls: CallsBeforeClosing) -> asyncio.Task[str]:
    return asyncio.create_task(calls.intercept_service(serve, CALL))


@pytest.mark.parametrize(
    ("every_ms", "quiet_after_ms"),
    [
        pytest.param(None, (40, 70), id="none"),
        pytest.param(80, (40, 130), id="few"),
        pytest.param(2, (500, 1100), id="many"),
    ],
)
def test_quiet_comes_soon_where_calls_are_few_and_in_the_end_anyway(every_ms, quiet_after_ms) -> None:
    """A twentieth of a second without a call is quiet; under calls that never cease, less and less is."""

    async def run() -> float:
        calls = CallsBeforeClosing()

        async def come() -> None:
            while every_ms is not None:
                intercept(calls)
                await asyncio.sleep(every_ms / 1000)

        coming = asyncio.create_task(come())
        since_s = asyncio.get_running_loop().time()
        await calls.quiet()
        coming.cancel()
        return (asyncio.get_running_loop().time() - since_s) * 1000

    least, most = quiet_after_ms
    assert least <= run_in_fake_time(run()) <= most


def test_an_answer_is_no_quiet_moment() -> None:
    """Who has just got one is about to call again: the moment counts from the end of a call too."""

    async def run() -> float:
        calls = CallsBeforeClosing()

        async def answer() -> None:
            await calls.intercept_service(serve, CALL)
            await asyncio.sleep(0.03)

        answering = asyncio.create_task(answer())
        since_s = asyncio.get_running_loop().time()
        await calls.quiet()
        assert answering.done()
        return (asyncio.get_running_loop().time() - since_s) * 1000

    assert 65 <= run_in_fake_time(run()) <= 110


def test_calls_are_held_until_they_are_let_go() -> None:
    """Before `hold` and after `release` a call is passed on at once; between, when it is released."""

    async def run() -> None:
        calls = CallsBeforeClosing()
        assert await intercept(calls) == "served"
        calls.hold()
        held = intercept(calls)
        done, _ = await asyncio.wait({held}, timeout=3600)
        assert not done
        calls.release()
        assert await held == "served"
        assert await intercept(calls) == "served"

    run_in_fake_time(run())
