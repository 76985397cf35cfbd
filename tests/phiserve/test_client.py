"""Both clients over a real server: what is asked arrives, what is answered comes back, many images keep their order."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from phiserve import (
    AsyncClient,
    Classification,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    InvalidImage,
    NotReady,
    Overloaded,
    RetryPolicy,
    Timings,
    UnknownVariant,
    Variant,
)
from service import errors
from service.core.engine import Readiness
from service.core.request import OnMiss
from tests.fakes.engine import HELD, ScriptedEngine, classification
from tests.fakes.grpc_classifier import grpc_classifier
from tests.fakes.menus import MS

ONCE = RetryPolicy(attempts_max=1)


def test_an_answer_is_typed(engine, url, connect) -> None:
    """Predictions, variant, budget and timings as frozen values, named as on the wire."""
    engine.answers[b"cat"] = classification(top_k=2, degraded_from="large", budget_met=False)
    found = connect(url).classify(b"cat")
    assert isinstance(found, Classification)
    assert found.best.label == "class 281"
    assert [prediction.index for prediction in found.predictions] == [281, 282]
    assert found.variant == Variant("small", "fp32", found.variant.resolution, 75.5, trained=True)
    microseconds = {stage: round(milliseconds, 3) for stage, milliseconds in asdict(found.timings_ms).items()}
    assert Timings(**microseconds) == Timings(decode=1.235, queue=0.25, preprocess=2.0, inference=5.0, total=9.0)
    assert (found.budget_ms, found.budget_met, found.batch_size) == (40.0, False, 3)
    assert found.degraded_from == "large"


def test_a_client_says_where_it_is_connected(url) -> None:
    """What a debugger or a log shows of a client is how it was made."""
    with Client(url) as client:
        assert repr(client) == f"Client({url!r})"


def test_every_option_arrives(engine, url, connect) -> None:
    """What the caller asks is what the engine gets; what is not asked is the server's default."""
    client = connect(url)
    client.classify(
        b"cat",
        budget_ms=25,
        top_k=7,
        variant="b3",
        min_accuracy=80.5,
        target_ms=12.5,
        priority=9,
        on_miss="late",
    )
    client.classify(b"cat")
    asked, plain = (call.options for call in engine.calls)
    assert (asked.budget_ns, asked.top_k) == (25 * MS, 7)
    policy = asked.policy
    assert (policy.variant, policy.min_accuracy, policy.target_ns) == ("b3", 80.5, 12_500_000)
    assert (policy.priority, policy.on_miss) == (9, OnMiss.LATE)
    assert (plain.budget_ns, plain.top_k, plain.policy.is_plain) == (None, 5, True)


@pytest.mark.parametrize(
    ("raised", "expected", "member"),
    [
        (errors.InvalidImage("cut off"), InvalidImage, ("detail", "cut off")),
        (errors.UnknownVariant("no b9"), UnknownVariant, ("detail", "no b9")),
        (errors.NotReady("draining"), NotReady, ("detail", "draining")),
        (errors.Overloaded("full", retry_after_ns=250 * MS), Overloaded, ("retry_after_s", 0.25)),
        (
            errors.DeadlineExceeded("tight", smallest_feasible_budget_ns=12 * MS),
            DeadlineExceeded,
            ("smallest_feasible_budget_ms", 12.0),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_are_typed(engine, url, connect, *, raised, expected, member) -> None:
    """Each error of the server is a class of the client's with what would have worked as a number."""
    engine.failures[b"cat"] = raised
    with pytest.raises(expected) as found:
        connect(url, retry=ONCE).classify(b"cat")
    assert getattr(found.value, member[0]) == member[1]


def test_an_option_that_is_none_is_not_sent(engine, url, connect) -> None:
    """A budget that no clock can count with costs no round trip."""
    with pytest.raises(InvalidArgument, match="budget_ms"):
        connect(url).classify(b"cat", budget_ms=-5)
    assert engine.calls == []


def test_the_menu_is_listed(url, connect) -> None:
    """Every variant of the server, most accurate first."""
    assert [(row.name, row.top1, row.trained) for row in connect(url).variants()] == [
        ("large", 80.0, True),
        ("unknown", None, False),
    ]


def test_a_ready_server_is_not_waited_for(url, connect) -> None:
    """`wait_until_ready` returns at once."""
    connect(url).wait_until_ready(30)


def test_a_server_that_starts_is_not_ready_over_http(engine, http_url, connect) -> None:
    """It says so, and the client says it after the time to wait."""
    engine.readiness = Readiness.STARTING
    with pytest.raises(NotReady, match="starting"):
        connect(http_url).wait_until_ready(0.2)


def test_a_server_that_drains_is_not_ready_over_grpc(engine, connect) -> None:
    """The health service says so; a server that starts has no port yet."""
    with grpc_classifier(engine) as server:
        client = connect(server.url)
        client.wait_until_ready(30)
        server.drain()
        with pytest.raises(NotReady, match="NOT_SERVING"):
            client.wait_until_ready(0.2)


def test_many_keep_their_order_and_their_errors(engine, url, connect, tmp_path) -> None:
    """Each result stands where its image stood, errors in the place of answers, whoever was done first."""
    engine.failures[b"broken"] = errors.InvalidImage("cut off")
    for number in range(40):
        engine.answers[b"%d" % number] = classification(name=f"variant{number}")
    images = [b"%d" % number for number in range(40)]
    images[7], images[23] = b"broken", tmp_path / "none.jpg"
    found = list(connect(url).classify_many(images, concurrency=5))
    assert len(found) == 40
    assert isinstance(found[7], InvalidImage)
    assert isinstance(found[23], FileNotFoundError)
    names = [result.variant.name for number, result in enumerate(found) if number not in (7, 23)]
    assert names == [f"variant{number}" for number in range(40) if number not in (7, 23)]


@dataclass
class GatedEngine(ScriptedEngine):
    """Counts who comes in, and lets nobody out before the gate is open."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)

    async def answer(self, admitted):
        self.entered.release()
        await asyncio.to_thread(self.gate.wait, 30)
        return await super().answer(admitted)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_concurrency_is_bounded_and_used(serve, kind) -> None:
    """With a concurrency of 3 exactly 3 images are in work at first, and no more than 6 have been read."""
    engine, read = GatedEngine(), []

    def images():
        for number in range(12):
            read.append(number)
            yield b"%d" % number

    def first(url: str) -> Classification:
        if kind is Client:
            with Client(url) as client:
                return next(iter(client.classify_many(images(), concurrency=3)))
        return asyncio.run(first_of_async(url, images()))

    with serve(engine) as url, ThreadPoolExecutor(1) as pool:
        future = pool.submit(first, url)
        for _ in range(3):
            assert engine.entered.acquire(timeout=30)
        assert not engine.entered.acquire(timeout=0.1)
        engine.gate.set()
        assert isinstance(future.result(30), Classification)
    assert 3 <= len(read) <= 6


async def first_of_async(url: str, images) -> Classification:
    async with AsyncClient(url) as client:
        results = client.classify_many(images, concurrency=3)
        try:
            return await anext(results)
        finally:
            await results.aclose()


def test_many_images_may_come_asynchronously(url) -> None:
    """An asynchronous iterator, such as a camera or a queue, is read as it yields."""

    async def camera():
        for number in range(5):
            yield b"%d" % number

    async def run() -> list[object]:
        async with AsyncClient(url) as client:
            return [result async for result in client.classify_many(camera(), concurrency=2)]

    assert [type(result) for result in asyncio.run(run())] == [Classification] * 5


def test_leaving_early_cancels_what_is_in_work(engine, url) -> None:
    """An asyncio caller that stops reading frees the server of what it had begun."""

    async def run() -> None:
        async with AsyncClient(url) as client:
            results = client.classify_many([b"cat", HELD], concurrency=2)
            assert isinstance(await anext(results), Classification)
            await asyncio.to_thread(engine.held.wait, 30)
            await results.aclose()

    asyncio.run(run())
    assert engine.cancelled.wait(30)


def test_cancelling_a_task_cancels_its_call(engine, url) -> None:
    """The server is told, and the client goes on with other calls."""

    async def run() -> Classification:
        async with AsyncClient(url) as client:
            call = asyncio.create_task(client.classify(HELD))
            await asyncio.to_thread(engine.held.wait, 30)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(engine.cancelled.wait, 30)
            return await client.classify(b"cat")

    assert asyncio.run(run()).best.index == 281
    assert engine.cancelled.is_set()


def test_one_image_is_not_many(url, connect) -> None:
    """A path or bytes in the place of a list is a mistake that would be read letter by letter."""
    for one in ("photo.jpg", b"bytes", Path("photo.jpg")):
        with pytest.raises(TypeError, match="list"):
            connect(url).classify_many(one)


@pytest.mark.parametrize("concurrency", [0, 257])
def test_a_concurrency_that_is_none_is_refused(url, connect, concurrency) -> None:
    """At the call, before anything is read."""
    with pytest.raises(ValueError, match="from 1 to 256"):
        connect(url).classify_many([], concurrency=concurrency)


def test_what_is_no_image_ends_the_iteration(url, connect) -> None:
    """A list with a number in it is a bug of the caller, not an image that failed."""
    with pytest.raises(TypeError, match="int is no image"):
        list(connect(url).classify_many([b"cat", 7]))


def test_threads_share_a_client(url) -> None:
    """Many threads on one client are all answered."""
    with Client(url) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.classify(b"cat").batch_size, range(64)))
    assert found == [3] * 64
