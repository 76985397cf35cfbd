"""Another version of the store takes over in the engine: no request is lost, none gets what it may not get."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.engine import Engine, Readiness
from service.core.menu import Menu
from service.core.request import Classification, OnMiss, RequestOptions, RoutingPolicy
from service.errors import DeadlineExceeded, InvalidArgument, PhiserveError, UnknownVariant
from tests.fakes.event_loop import run_in_fake_time
from tests.fakes.menus import MS, choice, cpu_menu
from tests.fakes.runtime import FakeDecoder, FakeWorkers, RecordingInstrument, build_engine, generation


def pinned(name: str | None, budget_ms: int = 5000, on_miss: OnMiss = OnMiss.REJECT) -> RequestOptions:
    return RequestOptions(budget_ms * MS, 5, RoutingPolicy(variant=name, on_miss=on_miss))


async def infer(engine: Engine, asked: RequestOptions = RequestOptions()) -> Classification:  # noqa: B008 - frozen
    return await engine.infer(b"A", asked, received_ns=engine.now_ns())


def new_menu() -> Menu:
    return Menu([choice("small", 75.0, {1: 10}), choice("newer", 82.0, {1: 40})])


def test_the_next_request_is_served_by_what_took_over() -> None:
    """Menu, budgets and version are the new ones at once, and the server has been ready throughout."""

    async def scenario() -> None:
        engine, workers = build_engine(), FakeWorkers()
        assert (await infer(engine)).variant.name == "large"
        retired = engine.adopt(generation(new_menu(), workers, "second"))
        assert retired.done(), "nothing runs, so nothing is waited for"
        assert engine.readiness is Readiness.READY
        assert engine.store_version == "second"
        assert [row.variant.name for row in engine.variants()] == ["newer", "small"]
        assert engine.choose_when_idle(100 * MS) == "newer"
        assert (await infer(engine)).variant.name == "newer"
        assert [plan.variant for plan in workers.plans] == ["newer"]

    run_in_fake_time(scenario())


def test_a_run_ends_where_it_began() -> None:
    """Its answer comes from the version before, which is free when its last run is over and not sooner."""

    async def scenario() -> None:
        before, after = FakeWorkers(), FakeWorkers()
        engine = build_engine(workers=before, worker_count=2)
        running = [asyncio.create_task(infer(engine, pinned(name))) for name in ("large", "medium")]
        await asyncio.sleep(0.003)
        waiting = asyncio.create_task(infer(engine))
        await asyncio.sleep(0.002)
        retired = engine.adopt(generation(new_menu(), after, "second"))
        await asyncio.sleep(0.025)
        assert running[1].done()
        assert not retired.done()
        assert [(await answer).variant.name for answer in running] == ["large", "medium"]
        await retired
        assert (await waiting).variant.name == "newer"
        assert {plan.variant for plan in after.plans} == {"newer"}
        assert not before.busy

    run_in_fake_time(scenario())


def test_who_waits_for_what_is_gone_is_told_so() -> None:
    """A pin to a variant that is gone, or a floor that nothing reaches, ends with what there is; others are served."""

    async def scenario() -> None:
        instrument = RecordingInstrument()
        engine = build_engine(instrument=instrument)
        running = asyncio.create_task(infer(engine, pinned("large")))
        await asyncio.sleep(0.002)
        floor = RequestOptions(5000 * MS, 5, RoutingPolicy(min_accuracy=76.0))
        asked = [pinned("medium"), pinned("large", on_miss=OnMiss.LATE), floor, pinned("small"), pinned(None)]
        waiting = [asyncio.create_task(infer(engine, options)) for options in asked]
        await asyncio.sleep(0.002)
        began_ns = engine.now_ns()
        engine.adopt(generation(Menu([choice("small", 75.0, {1: 10})]), FakeWorkers(), "second"))
        for task in waiting[:2]:
            with pytest.raises(UnknownVariant, match=r"another version of the store took over .*; try one of small"):
                await task
        with pytest.raises(InvalidArgument, match=r"another version of the store took over .*the best has 75\.0"):
            await waiting[2]
        assert engine.now_ns() == began_ns
        assert (await running).variant.name == "large"
        assert [(await task).variant.name for task in waiting[3:]] == ["small", "small"]
        assert instrument.names().count("settled") == 3

    run_in_fake_time(scenario())


def test_who_is_decoded_meanwhile_is_told_as_well() -> None:
    """A request that passed the door before and reaches the queue after is judged by the menu that is there then."""

    async def scenario() -> None:
        engine = build_engine(decoder=FakeDecoder(decode_ms=20))
        gone, kept = (asyncio.create_task(infer(engine, pinned(name))) for name in ("medium", "small"))
        await asyncio.sleep(0.005)
        engine.adopt(generation(new_menu(), FakeWorkers(), "second"))
        with pytest.raises(UnknownVariant, match="another version of the store took over"):
            await gone
        assert (await kept).variant.name == "small"
        assert await engine.drain(1 * MS), "nothing is expected any more"

    run_in_fake_time(scenario())


def test_a_run_that_overshoots_across_a_change_is_refused_in_time() -> None:
    """Its refusal names a budget of the variant that ran, although that is on no menu any more."""

    async def scenario() -> None:
        engine = build_engine(workers=FakeWorkers(slowness=5))
        call = asyncio.create_task(infer(engine, pinned("large", 60)))
        await asyncio.sleep(0.005)
        engine.adopt(generation(new_menu(), FakeWorkers(), "second"))
        with pytest.raises(DeadlineExceeded) as caught:
            await call
        assert caught.value.smallest_feasible_budget_ns == 51 * MS

    run_in_fake_time(scenario())


def test_degraded_is_told_by_the_menu_that_answered() -> None:
    """What an idle server would have used is looked up where the run was planned, not where the request came in."""

    async def scenario() -> None:
        engine = build_engine()
        calls = [asyncio.create_task(infer(engine, pinned(None, 130))) for _ in range(8)]
        await asyncio.sleep(0.005)
        engine.adopt(generation(new_menu(), FakeWorkers(), "second"))
        answers = await asyncio.gather(*calls)
        assert {answer.degraded_from for answer in answers} <= {None, "large", "newer"}
        assert all(answer.degraded_from != "large" for answer in answers[1:])
        assert "newer" in {answer.degraded_from for answer in answers}

    run_in_fake_time(scenario())


MENUS = (cpu_menu, new_menu, lambda: Menu([choice("small", 75.0, {1: 30})]))
NAMES = (None, "small", "large", "newer")
STEP = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(NAMES), st.integers(20, 400)),
    st.tuples(st.just("adopt"), st.sampled_from(range(len(MENUS))), st.just(0)),
    st.tuples(st.just("wait"), st.just(None), st.integers(0, 60)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_no_request_is_lost_across_any_changes(steps) -> None:
    """Whatever comes when: each request ends once, with an answer of a variant that it may get or with a reason."""

    async def scenario() -> None:
        engine = build_engine(worker_count=2, workers=FakeWorkers())
        calls, retired = [], []
        for number, (what, which, amount) in enumerate(steps):
            if what == "ask":
                calls.append((which, asyncio.create_task(infer(engine, pinned(which, amount)))))
                await asyncio.sleep(0)
            elif what == "adopt":
                retired.append(engine.adopt(generation(MENUS[which](), FakeWorkers(), str(number))))
            else:
                await asyncio.sleep(amount / 1000)
        for name, call in calls:
            try:
                answer = await call
            except PhiserveError:
                continue
            assert name in (None, answer.variant.name)
            assert answer.budget_met
        assert await engine.drain(1000 * MS)
        assert all(future.done() for future in retired), "what runs nothing any more is free"

    run_in_fake_time(scenario())
