"""Reloads: one at a time, shared by who asks meanwhile, and refused without a trace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from model_store.catalogue import StoreError
from service.core.engine import Engine
from service.core.menu import Menu
from service.core.request import RequestOptions
from service.errors import NotReady, StoreRefused
from service.reloading import Reloader
from service.store_loading import LoadedStore
from tests.fakes.menus import choice
from tests.fakes.runtime import FakeWorkers, build_engine, generation


@dataclass
class Closable(FakeWorkers):
    closed: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def start_run(self, *arguments) -> None:
        super().start_run(*arguments)
        self.started.set()

    def close(self, _timeout_ns: int) -> bool:
        self.closed = True
        return True


@dataclass
class FakeLoader:
    """Loads what `next` says: a version, None, or an error; `begin` is called on the loading thread, with the pace."""

    next: object = None
    begin: Callable[[Callable[[str, int, int], None]], None] = lambda _pace: None
    calls: int = 0
    threads: set[str] = field(default_factory=set)

    def load_beside(self, current: LoadedStore, progress: Callable[[str, int, int], None]) -> LoadedStore | None:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        self.begin(progress)
        if isinstance(self.next, BaseException):
            raise self.next
        return self.next


@dataclass
class Heard:
    loaded: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    taken_over: asyncio.Event = field(default_factory=asyncio.Event)

    def store_loaded(self, version: str, top1) -> None:
        self.loaded.append((version, tuple(top1)))
        if len(self.loaded) > 1:
            self.taken_over.set()

    def reload_ended(self, outcome: str) -> None:
        self.ended.append(outcome)


def version(name: str, *variants: str) -> LoadedStore:
    workers = Closable()
    menu = Menu([choice(variant, 70.0 + index, {1: 1}) for index, variant in enumerate(variants)])
    return LoadedStore(generation(menu, workers, name), dict.fromkeys(variants), workers)


class Scene:
    """A ready engine on the version "first", and what can be loaded beside it."""

    def __init__(self) -> None:
        self.first = version("first", "small")
        self.workers = self.first.workers
        self.engine: Engine = build_engine(menu=self.first.generation.menu, workers=self.workers)
        self.loader, self.heard = FakeLoader(), Heard()
        self.reloader = Reloader(self.engine, self.loader, self.first, self.heard, core_share=1)

    async def ask(self) -> str:
        answer = await self.engine.infer(b"A", RequestOptions(), received_ns=self.engine.now_ns())
        return answer.variant.name


def play(scenario) -> None:
    asyncio.run(scenario(Scene()))


def test_another_version_takes_over() -> None:
    """The answer says what serves now, the instrument hears it, and the workers of the version before are ended."""

    async def scenario(scene: Scene) -> None:
        assert await scene.ask() == "small"
        scene.loader.next = version("second", "new", "newer")
        reloaded = await scene.reloader.reload()
        assert (reloaded.version, reloaded.changed, reloaded.variants) == ("second", True, ("newer", "new"))
        assert reloaded.took_ns >= 0
        assert await scene.ask() == "newer"
        assert scene.workers.closed
        assert scene.heard.loaded == [("first", ("small",)), ("second", ("new", "newer"))]
        assert scene.heard.ended == ["loaded"]
        assert scene.loader.threads == {"reload"}, "the event loop has requests to serve"

    play(scenario)


def test_a_version_before_is_ended_only_after_its_last_run() -> None:
    """A run under way is answered by what it began on; the reload is over when that is free."""

    async def scenario(scene: Scene) -> None:
        scene.workers.slowness = 50
        asked = asyncio.create_task(scene.ask())
        await scene.workers.started.wait()
        scene.loader.next = version("second", "new")
        reloading = asyncio.create_task(scene.reloader.reload())
        await scene.heard.taken_over.wait()
        assert not scene.workers.closed
        assert await asked == "small"
        assert (await reloading).version == "second"
        assert scene.workers.closed

    play(scenario)


def test_nothing_changes_when_the_store_did_not() -> None:
    """The answer says so, and what serves goes on."""

    async def scenario(scene: Scene) -> None:
        reloaded = await scene.reloader.reload()
        assert (reloaded.version, reloaded.changed) == ("first", False)
        assert await scene.ask() == "small"
        assert not scene.workers.closed
        assert scene.heard.ended == ["unchanged"]

    play(scenario)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("/store/x does not have the sha256"), "/store/x does not have the sha256"),
        (RuntimeError("secret"), "the server's log has the cause"),
    ],
)
def test_what_cannot_be_served_is_refused_and_what_serves_goes_on(error, said, caplog) -> None:
    """With the reason in the answer, the log and the metric; the next one, mended, takes over."""

    async def scenario(scene: Scene) -> None:
        scene.loader.next = error
        with pytest.raises(StoreRefused) as caught:
            await scene.reloader.reload()
        assert said in caught.value.detail
        assert "secret" not in caught.value.detail
        assert str(error) in caplog.text
        assert "the store was not reloaded, what was served still is" in caplog.text
        assert await scene.ask() == "small"
        assert (scene.heard.ended, len(scene.heard.loaded)) == (["refused"], 1)
        scene.loader.next = version("second", "new")
        assert (await scene.reloader.reload()).changed

    play(scenario)


def test_who_asks_while_one_is_under_way_gets_the_one_after_it() -> None:
    """What was changed since may not be seen by that which reads already; all who wait share one more."""

    async def scenario(scene: Scene) -> None:
        began, go_on = threading.Event(), threading.Event()

        def begin(_pace) -> None:
            began.set()
            go_on.wait(30)

        scene.loader.begin = begin
        first = asyncio.create_task(scene.reloader.reload())
        await asyncio.to_thread(began.wait, 30)
        others = [asyncio.create_task(scene.reloader.reload()) for _ in range(5)]
        await asyncio.sleep(0)  # until they have asked: no time passes, fake or real
        others[0].cancel()
        go_on.set()
        await asyncio.gather(first, *others[1:])
        assert scene.loader.calls == 2

    play(scenario)


def test_a_server_that_drains_loads_nothing() -> None:
    """It says so; what was being loaded is given up at the next step, and the old version is the last."""

    async def scenario(scene: Scene) -> None:
        began = threading.Event()

        def begin(pace) -> None:
            began.set()
            while True:
                pace("loading", 0, 1)

        scene.loader.begin = begin
        reloading = asyncio.create_task(scene.reloader.reload())
        await asyncio.to_thread(began.wait, 30)
        scene.engine.announce_drain()
        assert await asyncio.to_thread(scene.reloader.close, 30_000_000_000)
        with pytest.raises(NotReady, match="began to drain"):
            await reloading
        with pytest.raises(NotReady, match="draining"):
            await scene.reloader.reload()
        assert scene.heard.ended == []

    play(scenario)


def test_what_was_loaded_when_a_drain_began_is_let_go() -> None:
    """Requests that are left are served by what they came to; nothing takes over any more."""

    async def scenario(scene: Scene) -> None:
        scene.loader.next = version("second", "new")
        scene.loader.begin = lambda _pace: scene.engine.announce_drain()
        with pytest.raises(NotReady, match="draining"):
            await scene.reloader.reload()
        assert scene.loader.next.workers.closed
        assert (await scene.ask(), scene.heard.ended) == ("small", [])

    play(scenario)
