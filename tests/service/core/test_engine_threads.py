"""The engine with runs that end on threads of their own, where the next one is decided: real time, nothing computed."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from service.core.clock import MonotonicClock
from service.core.engine import Engine
from service.core.request import Plan, RequestOptions, RunResult
from service.errors import InferenceFailed
from tests.fakes.menus import gpu_menu
from tests.fakes.runtime import FakePixels, RecordingInstrument, build_engine, probabilities_of

WORKERS, REQUESTS = 3, 600


class ThreadedWorkers:
    """Runs take no time and end on the worker's own thread. The image b"poison" makes its run raise."""

    def __init__(self) -> None:
        self.plans: list[tuple[int, Plan]] = []
        self.starting_threads: set[int] = set()
        self.inboxes = [queue.SimpleQueue() for _ in range(WORKERS)]
        self.threads = [threading.Thread(target=self._work, args=(inbox,)) for inbox in self.inboxes]
        for thread in self.threads:
            thread.start()

    def start_run(self, worker: int, plan: Plan, images: list[FakePixels], top_k: int, done: Callable) -> None:
        self.plans.append((worker, plan))
        self.starting_threads.add(threading.get_ident())
        self.inboxes[worker].put((plan, [image.content for image in images], done))

    def close(self) -> None:
        for inbox in self.inboxes:
            inbox.put(None)
        for thread in self.threads:
            thread.join()

    @staticmethod
    def _work(inbox: queue.SimpleQueue) -> None:
        while (item := inbox.get()) is not None:
            plan, contents, done = item
            if b"poison" in contents:
                done(RuntimeError("the run failed"))
            else:
                top = tuple(((content[0], 1.0),) for content in contents)
                done(RunResult(top, 0, plan.latency_ns, tuple(probabilities_of(content) for content in contents)))


@contextmanager
def running(instrument: RecordingInstrument | None = None) -> Iterator[tuple[Engine, ThreadedWorkers]]:
    workers = ThreadedWorkers()
    try:
        yield (
            build_engine(
                menu=gpu_menu(),
                workers=workers,
                worker_count=WORKERS,
                clock=MonotonicClock(),
                instrument=instrument,
                queue_size_max=REQUESTS,
                admitted_max=REQUESTS,
                admitted_per_client_max=REQUESTS,
            ),
            workers,
        )
    finally:
        workers.close()


def ask(engine: Engine, image: bytes) -> asyncio.Task:
    options = RequestOptions(budget_ns=60_000_000_000, top_k=1)
    return asyncio.create_task(engine.infer(image, options, received_ns=engine.now_ns()))


def test_every_request_gets_its_own_answer_whichever_thread_decides() -> None:
    """Hundreds at once, some leaving early: each that stays gets its own image's class, and the engine drains empty."""
    instrument = RecordingInstrument()

    async def scenario(engine: Engine, workers: ThreadedWorkers) -> None:
        chance = random.Random(7)
        images = [bytes([chance.randrange(200)]) for _ in range(REQUESTS)]
        calls = [ask(engine, image) for image in images]
        for call in chance.sample(calls, REQUESTS // 5):
            await asyncio.sleep(0)
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for image, answer in zip(images, answers, strict=True):
            assert isinstance(answer, asyncio.CancelledError) or answer.predictions[0].index == image[0]
        left = sum(isinstance(answer, asyncio.CancelledError) for answer in answers)
        assert left > 0
        assert instrument.names().count("settled") == REQUESTS - left
        assert workers.starting_threads > {threading.get_ident()}, "workers take their next run themselves"
        assert await engine.drain(5_000_000_000)

    with running(instrument) as (engine, workers):
        asyncio.run(scenario(engine, workers))


def test_a_run_that_raises_fails_its_own_requests_and_the_worker_goes_on() -> None:
    """A failure on a worker's thread reaches its callers only; whatever waits behind it is answered."""

    async def scenario(engine: Engine) -> None:
        calls = [ask(engine, b"poison" if index % 40 == 7 else b"A") for index in range(200)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, InferenceFailed)]
        assert failed
        assert all(answer.predictions[0].index == ord("A") for answer in answers if answer not in failed)
        assert (await ask(engine, b"Z")).predictions[0].index == ord("Z")

    with running() as (engine, _):
        asyncio.run(scenario(engine))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_is_told_to_have_started_before_it_is_told_to_be_over(seed) -> None:
    """Instruments hear of each run in order, although runs are decided and end on many threads."""

    class Order(RecordingInstrument):
        def run_started(self, plan: Plan, started_ns: int) -> None:
            self.events.append(("started", plan.request_ids))

        def run_finished(self, plan: Plan, result: RunResult) -> None:
            self.events.append(("finished", plan.request_ids))

    order = Order()

    async def scenario(engine: Engine) -> None:
        chance = random.Random(seed)
        calls = []
        for _ in range(200):
            calls.append(ask(engine, b"A"))
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.gather(*calls)

    with running(order) as (engine, _):
        asyncio.run(scenario(engine))
    open_runs: set[object] = set()
    for event, ids in order.events:
        if event == "started":
            open_runs.add(ids)
        elif event == "finished":
            open_runs.remove(ids)
    assert not open_runs
