"""Keeps loaded what is worth its memory while the server serves: loads and unloads variants beside the event loop.

`core/residency.py` decides what, `limited_loading.py` does it; here is when, and what requests that wait are told. One
variant at a time. A load that a request waits for has a core to itself, any other a share of one. All but `close` is
for the event loop's thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from service.core.demand import Demand, best_for
from service.core.engine import Engine, Readiness
from service.core.instrument import Instrument
from service.core.menu import Menu
from service.core.request import QueuedRequest, RoutingPolicy
from service.core.residency import Swap
from service.errors import InferenceFailed, NotReady, Overloaded
from service.limited_loading import LimitedStore
from service.side_thread import AbandonedError, Pace, SideThreads

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000

REVIEW_NS = 5_000_000_000
"""How often, at most, it is asked whether another set of variants would be worth more."""


class ResidencyInstrument(Protocol):
    """Observes what is loaded, on the event loop's thread; `telemetry/metrics.py` implements it."""

    def memory_limited(self, limit_bytes: int, resident_bytes: dict[str, int]) -> None:
        """Variants may take this much in all, and each of them what was measured of it."""
        ...

    def variant_loaded(self, variant: str, reason: str, took_ns: int) -> None:
        """It serves from now on; `reason`: "start", "named" by a request, or "worth" more than others."""
        ...

    def variant_unloaded(self, variant: str) -> None:
        """It does not any more."""
        ...

    def load_failed(self, variant: str) -> None:
        """It could not be loaded, and is not tried again."""
        ...

    def wanted(self, variant: str, requests: float) -> None:
        """So many requests would have been worth most with `variant`, which was not loaded."""
        ...


@dataclass
class DemandRecorder(Instrument):
    """Tells `listener`, once there is one, of every request that is queued: its policy, time left, and when."""

    listener: Callable[[RoutingPolicy, int, int], None] | None = field(default=None)

    def request_queued(self, request: QueuedRequest, queued_ns: int) -> None:
        """See `Instrument`."""
        if self.listener is not None:
            self.listener(request.policy, request.deadline_ns - queued_ns, queued_ns)


class VariantKeeper:
    """See the module; `core.ports.Absentees` to the engine."""

    def __init__(
        self,
        engine: Engine,
        store: LimitedStore,
        instrument: ResidencyInstrument,
        *,
        core_share: float,
        threads: SideThreads | None = None,
    ) -> None:
        """`engine` serves with `store`, as it was loaded; a load nobody waits for takes `core_share` of a core."""
        self._engine = engine
        self._store = store
        self._residency = store.residency
        self._instrument = instrument
        self._core_share = core_share
        self._demand = Demand()
        self._review_at_ns = engine.now_ns() + REVIEW_NS
        self._turn = asyncio.Lock()
        self._due: dict[str, asyncio.Task[None]] = {}
        self._reviews: set[asyncio.Task[None]] = set()
        self._threads = threads or SideThreads("variants")
        self._stopped, self._hurry = threading.Event(), threading.Event()
        instrument.memory_limited(self._residency.room_bytes, self._residency.resident_bytes_by_variant())
        for name in sorted(self._residency.loaded):
            instrument.variant_loaded(name, "start", 0)

    # For the engine -------------------------------------------------------------------------------------

    def wait_ns(self, policy: RoutingPolicy, left_ns: int, now_ns: int) -> int | None:
        """See `core.ports.Absentees`."""
        name = self._residency.named(policy)
        if name is None:
            return None
        if not self._turn.locked():  # what a load passes through is no other's
            self._look_at_memory()
        run_ns = int(self._residency.run_ns(name) * self._slowness) + self._engine.generation.profile.overhead_ns
        if left_ns > run_ns:
            self.asked(policy, left_ns, now_ns)
        ready_ns = self._residency.ready_at_ns(name, tuple(self._due), now_ns, self._held())
        if ready_ns is None:
            raise self._no_room(name)
        return ready_ns - now_ns + run_ns

    async def bring_in(self, policy: RoutingPolicy) -> None:
        """See `core.ports.Absentees`."""
        name = self._residency.named(policy)
        if name is None:
            self._engine.generation.menu.allowed(policy)
            return
        task = self._due.get(name)
        if task is None:
            task = self._due[name] = asyncio.create_task(self._bring(name))
            task.add_done_callback(lambda ended: self._brought(name, ended))
        await asyncio.shield(task)

    def asked(self, policy: RoutingPolicy, left_ns: int, now_ns: int) -> None:
        """A request came with `left_ns` for its run: what it would have been worth counts at the next review."""
        if self._demand.skips(now_ns):
            return
        wish = self._demand.note(left_ns, policy, self._engine.price_per_core_ns(), now_ns)
        best = best_for(self._residency.choices, wish, self._slowness)
        if best is not None and best not in self._residency.loaded:
            self._instrument.wanted(best, wish.weight)
        if now_ns >= self._review_at_ns and not self._turn.locked():
            self._review_at_ns = now_ns + REVIEW_NS
            task = asyncio.create_task(self._review())
            self._reviews.add(task)
            task.add_done_callback(self._reviews.discard)

    def close(self, timeout_ns: int) -> bool:
        """End a load under way; False if it still runs after `timeout_ns`. From any thread, after the event loop."""
        self._stopped.set()
        self._hurry.set()
        return self._threads.join(time.monotonic() + timeout_ns / NS_PER_S)

    # One after the other --------------------------------------------------------------------------------

    async def _bring(self, name: str) -> None:
        """Load what a request has named, as soon as there is room."""
        began_ns = self._engine.now_ns()
        self._hurry.set()
        async with self._turn:
            if name in self._residency.loaded:
                return
            swap = await self._when_there_is_room(name)
            try:
                await self._perform(swap, "named", began_ns)
            except AbandonedError:
                raise NotReady("the server began to drain before this variant was loaded; try another one") from None

    def _brought(self, name: str, ended: asyncio.Task[None]) -> None:
        del self._due[name]
        if not self._due:
            self._hurry.clear()
        if not ended.cancelled() and (error := ended.exception()) is not None:
            logger.debug("%s was not loaded: %s", name, error)  # each who waited was told

    async def _when_there_is_room(self, name: str) -> Swap:
        """What was loaded a moment ago stays for a while, and what is promised until that is served."""
        self._look_at_memory()
        while True:
            now_ns, held = self._engine.now_ns(), self._held()
            swap = self._residency.swap_for(name, self._demand.wishes(now_ns), now_ns, held, self._slowness)
            if swap is not None and self._menu(self._residency.loaded.difference(swap.unload)) is not None:
                return swap
            room_ns = self._residency.room_at_ns(name, now_ns, held)
            if room_ns is None or room_ns <= now_ns:
                raise self._no_room(name)
            await asyncio.sleep((room_ns - now_ns) / NS_PER_S)

    async def _review(self) -> None:
        """Ask whether other variants would have been worth more, and have them loaded if so."""
        async with self._turn:
            if self._engine.readiness is not Readiness.READY:
                return
            self._look_at_memory()
            now_ns, held, slowness = self._engine.now_ns(), self._held(), self._slowness
            wishes = self._demand.wishes(now_ns)
            swap = await self._threads.run(lambda: self._residency.review(wishes, now_ns, held, slowness))
            if swap is None:
                return
            try:
                await self._perform(swap, "worth", self._engine.now_ns())
            except (AbandonedError, Overloaded, InferenceFailed) as error:
                logger.debug("%s was not loaded: %s", swap.load, error)

    def _look_at_memory(self) -> None:
        """What was reckoned for all but variants is a figure of the start: more than that leaves less room for them."""
        variants = self._residency.resident_bytes(self._residency.loaded)
        self._residency.others_hold(self._store.sessions.held_bytes() - variants - self._store.base_bytes)

    async def _perform(self, swap: Swap, reason: str, began_ns: int) -> None:
        await self._unload(swap)
        name, started_ns = swap.load, self._engine.now_ns()
        pace = Pace(self._stopped, self._core_share, self._hurry)
        sizes = self._store.batch_sizes[name]
        try:
            await self._threads.run(lambda: self._store.sessions.open(name, sizes, pace))
        except AbandonedError:
            raise
        except Exception as error:
            logger.exception("loading %s failed; it is not tried again", name)
            self._residency.give_up(name)
            self._instrument.load_failed(name)
            raise InferenceFailed(f"{name} could not be loaded; the server's log has the cause") from error
        now_ns = self._engine.now_ns()
        self._residency.was_loaded(name, now_ns, now_ns - started_ns if reason == "named" else None)
        self._serve_what_is_loaded()
        self._instrument.variant_loaded(name, reason, now_ns - began_ns)
        logger.info(
            "loaded %s, %s, in %.2f s%s",
            name,
            "which a request named" if reason == "named" else "which is worth more",
            (now_ns - began_ns) / NS_PER_S,
            f"; unloaded {', '.join(swap.unload)} for it" if swap.unload else "",
        )

    async def _unload(self, swap: Swap) -> None:
        """Off the menu at once, and freed when the last run of it is over."""
        if not swap.unload:
            return
        menu = self._menu(self._residency.loaded.difference(swap.unload))
        if menu is None:
            raise self._no_room(swap.load)
        for name in swap.unload:
            self._residency.was_unloaded(name)
        await self._serve_what_is_loaded()
        await self._threads.run(lambda: self._store.sessions.close(swap.unload))
        for name in swap.unload:
            self._instrument.variant_unloaded(name)

    def _serve_what_is_loaded(self) -> asyncio.Future[None]:
        generation = self._engine.generation
        menu = self._residency.menu(self._residency.loaded, generation.served)
        return self._engine.adopt(dataclasses.replace(generation, menu=menu))

    # What is promised -----------------------------------------------------------------------------------

    def _menu(self, variants: Collection[str]) -> Menu | None:
        """One of `variants`, if those who wait are served by it as they were promised."""
        generation = self._engine.generation
        menu = self._residency.menu(variants, generation.served)
        return menu if menu.keeps(self._promised(), generation.menu) else None

    def _held(self) -> frozenset[str]:
        """Those without which a promise would not be kept."""
        if not self._promised():
            return frozenset()
        loaded = self._residency.loaded
        return frozenset(
            name for name in loaded.difference(self._residency.always) if self._menu(loaded - {name}) is None
        )

    def _promised(self) -> set[RoutingPolicy]:
        """Policies that name a variant or an accuracy: to all others the variants that stay are promised."""
        return {p for p in self._engine.promised() if p.variant is not None or p.min_accuracy is not None}

    def _no_room(self, name: str) -> Overloaded:
        return Overloaded(
            f"{name} is not loaded, and there is no room for it until requests that wait are served; retry later",
            retry_after_ns=self._residency.load_ns(name),
        )

    @property
    def _slowness(self) -> float:
        """What runs take now, in what they were profiled at."""
        scales = sorted(choice.scale for choice in self._engine.generation.menu.choices)
        return scales[len(scales) // 2]
