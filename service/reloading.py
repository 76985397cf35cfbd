"""Another version of the store takes over while the server serves: loaded beside, swapped between runs, or refused.

One reload at a time; whoever asks while one waits to begin shares it. What goes wrong before the swap leaves everything
as it was. Decides nothing about requests, and knows neither signals nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from model_store.catalogue import StoreError
from service.core.engine import Engine, Readiness
from service.core.generation import Reloaded
from service.errors import NotReady, StoreRefused
from service.runtime.session import SessionError
from service.side_thread import AbandonedError, Pace, SideThreads
from service.store_loading import LoadedStore, Progress, UnservableError

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000


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
        self._threads = SideThreads("reload")
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
        idle = self._threads.join(ends_s)
        ended = [loaded.close(max(0, round((ends_s - time.monotonic()) * NS_PER_S))) for loaded in self._open]
        return all(ended) and idle

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
        try:
            loaded = await self._threads.run(lambda: self._load_beside(before))
        except AbandonedError:
            raise NotReady("the server began to drain, so the store was not reloaded") from None
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
            await self._threads.run(before.close)
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
            await self._threads.run(loaded.close)
            raise

    def _load_beside(self, before: LoadedStore) -> LoadedStore | None:
        pace = Pace(self._stopped, self._core_share)
        return self._loader.load_beside(before, lambda _stage, _done, _total: pace())


def _top1(loaded: LoadedStore) -> dict[str, float | None]:
    """The accuracy of each variant that requests can be routed to, in percent, where it is known."""
    served = loaded.generation.served
    return {name: served[name].manifest.variant.top1 for name in loaded.entries}
