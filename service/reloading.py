"""Another version of the store takes over while the server serves: loaded beside, swapped between runs, or refused.

One reload at a time; whoever asks while one waits to begin shares it. What goes wrong before the swap leaves everything
as it was. Decides nothing about requests, and knows neither signals nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from model_store.catalogue import StoreError
from service.core.engine import Engine, Readiness
from service.core.generation import Reloaded
from service.errors import NotReady, StoreRefused
from service.runtime.session import SessionError
from service.store_loading import LoadedStore, Progress, UnservableError

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000

REST_S_MAX = 10.0
"""Rest for no longer after one piece of work, so that a graph which takes seconds to load does not take minutes."""

Result = TypeVar("Result")


class Loader(Protocol):
    """What loads a version beside another one; see `store_loading.StoreLoader`."""

    def load_beside(self, current: LoadedStore, progress: Progress) -> LoadedStore | None:
        """None if the store holds what `current` was loaded from."""
        ...


class ReloadInstrument(Protocol):
    """Observes reloads, on the event loop's thread; `telemetry/metrics.py` implements it."""

    def store_loaded(self, version: str, top1: Mapping[str, float | None]) -> None:
        """This version of the store, with these variants and their accuracies in percent, serves from now on."""
        ...

    def reload_ended(self, outcome: str) -> None:
        """It ended: "loaded", "unchanged" or "refused"."""
        ...


class _Abandoned(BaseException):
    """The server drains: nobody needs what is being loaded."""


class Reloader:
    """Holds the version that is served. All methods but `close` are for the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        loader: Loader,
        loaded: LoadedStore,
        instrument: ReloadInstrument,
        *,
        core_share: float,
    ) -> None:
        """`loaded` is what `engine` serves with; loading beside it takes `core_share` of one core, 1 for all of it."""
        self._engine = engine
        self._loader = loader
        self._loaded = loaded
        self._open = [loaded]
        self._instrument = instrument
        self._core_share = core_share
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Reloaded] | None = None
        instrument.store_loaded(loaded.generation.version, _top1(loaded))

    async def reload(self) -> Reloaded:
        """Serve what the store holds now. Cancelling a caller does not end the reload, which others may wait for.

        Raises:
            StoreRefused: it cannot be served, and why; what was served still is.
            NotReady: the server is starting or draining.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn())
        return await asyncio.shield(self._next)

    def close(self, timeout_ns: int) -> bool:
        """End a reload under way, and all workers; False if something still runs after `timeout_ns`."""
        self._stopped.set()
        ends_s = time.monotonic() + timeout_ns / NS_PER_S
        for thread in self._threads:
            thread.join(max(0.0, ends_s - time.monotonic()))
        ended = [loaded.close(max(0, round((ends_s - time.monotonic()) * NS_PER_S))) for loaded in self._open]
        return all(ended) and not any(thread.is_alive() for thread in self._threads)

    async def _in_turn(self) -> Reloaded:
        async with self._turn:
            self._next = None  # who asks from here on may know of something that this one does not see any more
            began_ns = self._engine.now_ns()
            try:
                reloaded = await self._reload(began_ns)
            except StoreRefused as error:
                self._refused(error)
                raise
        self._instrument.reload_ended("loaded" if reloaded.changed else "unchanged")
        return reloaded

    def _refused(self, error: StoreRefused) -> None:
        logger.error("the store was not reloaded, what was served still is: %s", error.detail)
        self._instrument.reload_ended("refused")

    async def _reload(self, began_ns: int) -> Reloaded:
        before = self._loaded
        self._check_ready()
        pace = _Pace(self._stopped, self._core_share)
        try:
            loaded = await self._in_thread(lambda: self._loader.load_beside(before, pace))
        except NotReady:
            raise
        except (StoreError, SessionError, UnservableError) as error:
            raise StoreRefused(str(error)) from error
        except Exception as error:
            logger.exception("loading the store failed")
            raise StoreRefused("loading it failed; the server's log has the cause") from error
        if loaded is not None:
            await self._check_ready_or_close(loaded)
            retired = self._engine.adopt(loaded.generation)
            self._loaded = loaded
            self._open.append(loaded)
            self._instrument.store_loaded(loaded.generation.version, _top1(loaded))
            await retired
            await self._in_thread(before.close)
            self._open.remove(before)
        now = self._loaded.generation
        names = tuple(status.variant.name for status in now.statuses() if status.routable)
        took_ns = self._engine.now_ns() - began_ns
        logger.info(
            "the store holds version %s, %s: %s",
            now.version,
            "which is served already" if loaded is None else f"which took over after {took_ns / NS_PER_S:.1f} s",
            ", ".join(names),
        )
        return Reloaded(now.version, loaded is not None, names, took_ns)

    def _check_ready(self) -> None:
        if self._engine.readiness is not Readiness.READY:
            raise NotReady(f"the server is {self._engine.readiness}; a store is reloaded only while it is ready")

    async def _check_ready_or_close(self, loaded: LoadedStore) -> None:
        """What was loaded is not wanted by a server that began to drain meanwhile."""
        try:
            self._check_ready()
        except NotReady:
            await self._in_thread(loaded.close)
            raise

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """The result of `work` on a thread of its own: a daemon, so that it cannot keep the process alive."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result] = loop.create_future()

        def settle(result: Result | None, error: BaseException | None) -> None:
            if not ended.done():
                ended.set_exception(error) if error is not None else ended.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result: Result | None = None
            error: BaseException | None = None
            try:
                result = work()
            except _Abandoned:
                error = NotReady("the server began to drain, so the store was not reloaded")
            except BaseException as raised:  # noqa: BLE001  handed to whoever waits
                error = raised
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                logger.info("the server ended during a reload")  # and its loop with it

        thread = threading.Thread(target=run, name="reload", daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()
        return await ended


def _top1(loaded: LoadedStore) -> dict[str, float | None]:
    """The accuracy of each variant that requests can be routed to, in percent, where it is known."""
    known = {choice.variant.name: choice.variant.top1 for choice in loaded.generation.menu.choices}
    return {name: known.get(name) for name in loaded.entries}


class _Pace:
    """A `Progress` that rests after each piece of work, since whoever is served needs the cores."""

    def __init__(self, stopped: threading.Event, core_share: float) -> None:
        self._stopped = stopped
        self._rest = 1 / core_share - 1  # for so many times as long as each piece of work took
        self._began_s = time.monotonic()

    def __call__(self, _stage: str, _done: int, _total: int) -> None:
        worked_s = time.monotonic() - self._began_s
        if self._stopped.wait(min(worked_s * self._rest, REST_S_MAX)):
            raise _Abandoned
        self._began_s = time.monotonic()
