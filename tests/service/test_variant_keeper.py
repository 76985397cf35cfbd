"""Variants come and go under the real engine in fake time: promises hold, and so does the limit, at every moment."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest

from model_store.footprint import Footprint
from service.core.generation import VariantStatus
from service.core.request import Classification, OnMiss, RequestOptions, RoutingPolicy
from service.core.residency import Residency
from service.errors import DeadlineExceeded, InferenceFailed, InvalidArgument, Overloaded, PhiserveError, UnknownVariant
from service.limited_loading import LimitedStore
from service.store_loading import LoadedStore
from service.variant_keeper import DemandRecorder, VariantKeeper
from tests.fakes.event_loop import run_in_fake_time
from tests.fakes.menus import MS, cpu_menu
from tests.fakes.runtime import FakeWorkers, build_engine

MIB = 1024**2
ROOM = 160 * MIB
FOOTPRINTS = {
    "small": Footprint(20 * MIB, 30 * MIB, 100 * MS),
    "medium": Footprint(50 * MIB, 80 * MIB, 200 * MS),
    "large": Footprint(90 * MIB, 130 * MIB, 400 * MS),
}
"""Beside small there is room for one of the others."""


@dataclass
class FakeThreads:
    """Work is done at once, and takes the loop's time."""

    takes_s: float = 0.0

    async def run(self, work: Callable[[], object]) -> object:
        self.takes_s = 0.0
        result = work()
        await asyncio.sleep(self.takes_s)
        return result

    def join(self, _ends_s: float) -> bool:
        return True


@dataclass
class FakeSessions:
    """Takes what was measured, times `slowness`; checks that what is held fits, at every moment."""

    threads: FakeThreads
    open_now: set[str]
    slowness: float = 1.0
    broken: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)
    others_bytes: int = 0

    def held_bytes(self) -> int:
        return self.others_bytes + sum(FOOTPRINTS[name].resident_bytes for name in self.open_now)

    def open(self, name: str, _sizes: Sequence[int], rest: Callable[[], None]) -> None:
        held = sum(FOOTPRINTS[other].resident_bytes for other in self.open_now)
        assert name not in self.open_now
        assert held + FOOTPRINTS[name].loading_bytes <= ROOM, f"{name} beside {self.open_now} is too much"
        rest()
        self.threads.takes_s = FOOTPRINTS[name].load_ns * self.slowness / 1e9
        if name in self.broken:
            raise RuntimeError("secret")
        self.open_now.add(name)
        self.opened.append(name)

    def close(self, names: Collection[str]) -> None:
        assert set(names) <= self.open_now
        self.threads.takes_s = 0.01
        self.open_now -= set(names)


@dataclass
class CheckingWorkers(FakeWorkers):
    """No run is of a variant that is not open, from its start to its end."""

    sessions: FakeSessions | None = None

    def start_run(self, worker, plan, images, top_k, done) -> None:
        def finish(result) -> None:
            assert plan.variant in self.sessions.open_now, f"{plan.variant} was closed under its run"
            done(result)

        assert plan.variant in self.sessions.open_now
        super().start_run(worker, plan, images, top_k, finish)


@dataclass
class Heard:
    events: list[tuple[str, ...]] = field(default_factory=list)
    wanted_requests: Counter[str] = field(default_factory=Counter)

    def memory_limited(self, limit_bytes: int, resident_bytes: dict[str, int]) -> None:
        self.events.append(("limited", str(limit_bytes // MIB), *sorted(resident_bytes)))

    def variant_loaded(self, variant: str, reason: str, took_ns: int) -> None:
        self.events.append((reason, variant))
        assert (took_ns > 0) is (reason != "start")

    def variant_unloaded(self, variant: str) -> None:
        self.events.append(("unloaded", variant))

    def load_failed(self, variant: str) -> None:
        self.events.append(("failed", variant))

    def wanted(self, variant: str, requests: float) -> None:
        self.wanted_requests[variant] += requests


class Scene:
    """An engine over three variants of which small and large are loaded, and the keeper."""

    def __init__(self, worker_count: int = 2) -> None:
        full = cpu_menu()
        residency = Residency(full.choices, FOOTPRINTS, ROOM, budget_ns_default=1000 * MS)
        assert set(residency.at_start()) == {"small", "large"}
        residency.began_with(residency.at_start(), 0)
        threads = FakeThreads()
        self.sessions = FakeSessions(threads, set(residency.loaded))
        self.workers = CheckingWorkers(sessions=self.sessions)
        recorder = DemandRecorder()
        self.engine = build_engine(
            menu=residency.menu(residency.loaded, FOOTPRINTS),
            store=full,
            workers=self.workers,
            worker_count=worker_count,
            instrument=recorder,
            admitted_per_client_max=64,
        )
        self.heard = Heard()
        loaded = LoadedStore(self.engine.generation, {}, self.workers)
        store = LimitedStore(loaded, residency, self.sessions, dict.fromkeys(FOOTPRINTS, (1,)))
        self.keeper = VariantKeeper(self.engine, store, self.heard, core_share=1, threads=threads)
        self.engine.load_on_demand(self.keeper)
        recorder.listener = self.keeper.asked

    async def ask(self, budget_ms: float, **policy: object) -> Classification:
        asked = RequestOptions(round(budget_ms * MS), 5, RoutingPolicy(**policy))
        return await self.engine.infer(b"A", asked, received_ns=self.engine.now_ns())

    async def outcome(self, budget_ms: float, **policy: object) -> str:
        """The variant that answered in time, or the kind of error."""
        try:
            answer = await self.ask(budget_ms, **policy)
        except PhiserveError as error:
            return type(error).__name__
        assert answer.budget_met or policy.get("on_miss") is OnMiss.LATE
        return answer.variant.name

    def status(self, name: str) -> VariantStatus:
        return next(row for row in self.engine.variants() if row.variant.name == name)


def play(scenario: Callable[[Scene], Awaitable[None]], **parts: int) -> None:
    async def run() -> None:
        await scenario(Scene(**parts))

    run_in_fake_time(run())


def test_a_request_waits_for_the_variant_it_names() -> None:
    """With time for the load it is answered by it, and the menu says what is loaded; it makes room for that."""

    async def scenario(scene: Scene) -> None:
        assert (scene.status("medium").loaded, scene.status("large").loaded) == (False, True)
        answer = await scene.ask(1000, variant="medium")
        assert (answer.variant.name, answer.budget_met) == ("medium", True)
        assert answer.timings.total_ns >= FOOTPRINTS["medium"].load_ns
        assert (scene.status("medium").loaded, scene.status("large").loaded) == (True, False)
        assert scene.heard.events == [
            ("limited", "160", "large", "medium", "small"),
            ("start", "large"),
            ("start", "small"),
            ("unloaded", "large"),
            ("named", "medium"),
        ]
        assert await scene.outcome(1000) == "medium", "on the menu it is for everybody"

    play(scenario)


def test_too_small_a_budget_is_refused_with_one_that_works() -> None:
    """Nothing is loaded for a request that could not wait for it, and the budget it is told of is kept."""

    async def scenario(scene: Scene) -> None:
        with pytest.raises(DeadlineExceeded, match="has to be loaded first") as refused:
            await scene.ask(100, variant="medium")
        assert scene.sessions.opened == []
        feasible_ms = refused.value.smallest_feasible_budget_ns / MS
        assert 200 < feasible_ms < 1000
        assert await scene.outcome(feasible_ms - 2, variant="medium") == "DeadlineExceeded"
        assert await scene.outcome(feasible_ms, variant="medium") == "medium"

    play(scenario)


def test_callers_wait_for_one_load_together() -> None:
    """A variant that many name at once is loaded once."""

    async def scenario(scene: Scene) -> None:
        answers = await asyncio.gather(*(scene.outcome(2000, variant="medium") for _ in range(9)))
        assert Counter(answers) == {"medium": 9}
        assert scene.sessions.opened == ["medium"]

    play(scenario)


def test_an_accuracy_that_nothing_loaded_has_is_loaded_for() -> None:
    """A floor above all that is loaded waits for a variant above it; one above all there are is refused as ever."""

    async def scenario(scene: Scene) -> None:
        assert await scene.outcome(3000, variant="medium") == "medium"
        assert await scene.outcome(9000, min_accuracy=79.0) == "large"
        assert await scene.outcome(9000, min_accuracy=85.0) == InvalidArgument.__name__
        assert await scene.outcome(9000, variant="unheard-of") == UnknownVariant.__name__

    play(scenario)


def test_a_load_that_takes_too_long_ends_in_time_for_the_caller() -> None:
    """A caller is told at its deadline; the variant is loaded all the same, and later promises know better."""

    async def scenario(scene: Scene) -> None:
        scene.sessions.slowness = 20
        began_ns = scene.engine.now_ns()
        with pytest.raises(DeadlineExceeded, match="ran out while a variant that may answer was loaded"):
            await scene.ask(600, variant="medium")
        assert scene.engine.now_ns() - began_ns == pytest.approx(600 * MS, rel=0.01)
        assert await scene.outcome(9000) == "small", "it is not on the menu while it is being loaded"
        late = await scene.ask(1, variant="medium", on_miss=OnMiss.LATE)
        assert (late.variant.name, late.budget_met) == ("medium", False)
        with pytest.raises(DeadlineExceeded) as refused:
            await scene.ask(100, variant="large")
        assert refused.value.smallest_feasible_budget_ns > 20 * FOOTPRINTS["large"].load_ns

    play(scenario)


def test_what_is_promised_is_not_unloaded() -> None:
    """While requests wait for large, whoever names medium is told to come back; then it is loaded."""

    async def scenario(scene: Scene) -> None:
        waiting = [asyncio.create_task(scene.outcome(5000, variant="large")) for _ in range(8)]
        await asyncio.sleep(0.005)
        with pytest.raises(Overloaded, match="no room for it until requests that wait are served"):
            await scene.ask(5000, variant="medium")
        assert set(await asyncio.gather(*waiting)) == {"large"}
        assert await scene.outcome(5000, variant="medium") == "medium"

    play(scenario)


@pytest.mark.parametrize("slowness", [0.5, 1.5])
def test_a_machine_that_is_not_as_profiled_promises_no_more(slowness) -> None:
    """Requests that wait for a variant which stays are in nobody's way, however fast runs have been of late."""

    async def scenario(scene: Scene) -> None:
        profiled_ms = {"small": 10, "medium": 20, "large": 50}
        scene.workers.takes_ns = lambda plan: slowness * profiled_ms[plan.variant] * MS
        for _ in range(60):
            await scene.outcome(1000, variant="small")
        waiting = [asyncio.create_task(scene.outcome(2000, variant="small")) for _ in range(8)]
        await asyncio.sleep(0.005)
        assert await scene.outcome(5000, variant="medium") == "medium"
        assert set(await asyncio.gather(*waiting)) == {"small"}

    play(scenario)


def test_what_else_the_server_holds_leaves_less_room() -> None:
    """Where that has grown, a variant is not loaded that would not fit any more; it is when that is over."""

    async def scenario(scene: Scene) -> None:
        scene.sessions.others_bytes = 70 * MIB
        assert await scene.outcome(5000, variant="medium") == "Overloaded"
        assert await scene.outcome(1000) in FOOTPRINTS
        scene.sessions.others_bytes = 50 * MIB
        assert await scene.outcome(5000, variant="medium") == "medium"
        assert await scene.outcome(5000, variant="large") == "Overloaded", "130 MiB do not fit beside small"
        scene.sessions.others_bytes = 0
        assert await scene.outcome(5000, variant="large") == "large"

    play(scenario)


def test_a_variant_that_cannot_be_loaded_is_not_tried_again() -> None:
    """The caller gets no internals; afterwards the variant is as one that never fits; the others serve on."""

    async def scenario(scene: Scene) -> None:
        scene.sessions.broken = {"medium"}
        with pytest.raises(InferenceFailed, match="the server's log has the cause") as failed:
            await scene.ask(5000, variant="medium")
        assert "secret" not in failed.value.detail
        assert await scene.outcome(5000, variant="medium") == UnknownVariant.__name__
        assert ("failed", "medium") in scene.heard.events
        assert await scene.outcome(1000) == "small"

    play(scenario)


def test_a_caller_who_leaves_does_not_end_a_load_for_others() -> None:
    """Cancelling one of two that wait leaves the other its answer."""

    async def scenario(scene: Scene) -> None:
        first, second = (asyncio.create_task(scene.outcome(5000, variant="medium")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        assert await second == "medium"
        assert first.cancelled()

    play(scenario)


def test_demand_brings_what_it_would_be_served_best_by() -> None:
    """Budgets with time for medium alone have it loaded in large's place, with no request waiting for it."""

    async def scenario(scene: Scene) -> None:
        answers = []
        for _ in range(1400):
            answers.append(await scene.outcome(40))
            await asyncio.sleep(0.05)
        assert set(answers[:10]) == {"small"}
        assert set(answers[-10:]) == {"medium"}
        assert scene.heard.events[-2:] == [("unloaded", "large"), ("worth", "medium")]
        assert scene.heard.wanted_requests["medium"] > 10
        assert len(scene.sessions.opened) == 1

    play(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_mixed_traffic_keeps_every_promise_and_does_not_thrash(seed) -> None:
    """The limit holds at every load, no run loses its session, all are answered or told why not, and loads are few."""
    requests, per_s = 1000, 5

    async def scenario(scene: Scene) -> None:
        rng = random.Random(seed)
        outcomes: Counter[tuple[str, str]] = Counter()
        tasks = []

        async def one(kind: str, budget_ms: float, policy: dict[str, object]) -> None:
            outcomes[kind, await scene.outcome(budget_ms, **policy)] += 1

        for _ in range(requests):
            kind = rng.choices(("plain", "pin", "floor"), (0.9, 0.07, 0.03))[0]
            policy: dict[str, object] = {"plain": {}, "pin": {"variant": rng.choice(sorted(FOOTPRINTS))}}.get(
                kind, {"min_accuracy": rng.choice([75.5, 79.0])}
            )
            tasks.append(asyncio.create_task(one(kind, rng.choice([15, 60, 300, 4000]), policy)))
            await asyncio.sleep(rng.expovariate(per_s))
        await asyncio.gather(*tasks)
        assert sum(outcomes.values()) == requests
        answered = sum(count for (kind, end), count in outcomes.items() if kind == "plain" and end in FOOTPRINTS)
        assert answered >= 0.98 * sum(count for (kind, _), count in outcomes.items() if kind == "plain")
        assert {end for _, end in outcomes} <= {*FOOTPRINTS, "DeadlineExceeded", "Overloaded"}
        loading_s = sum(FOOTPRINTS[name].load_ns for name in scene.sessions.opened) / 1e9
        assert len(scene.sessions.opened) > 1
        assert loading_s < requests / per_s / 20

    play(scenario)
