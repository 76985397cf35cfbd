"""Streams of frames in fake time: one outcome a frame, in order, in time, and never too many in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.request import OnMiss, RequestOptions, RoutingPolicy
from service.errors import DeadlineExceeded, InvalidArgument, PhiserveError, StaleFrame
from service.frontends.grpc_stream import Frame, FrameStream, Outcome, StreamLimits
from tests.fakes.event_loop import LoopClock, run_in_fake_time
from tests.fakes.menus import MS

DEFAULT_MS = 100


def frame_of(frame_id: int, takes_ms: int, budget_ms: int | None = None, *, late: bool = False) -> Frame:
    """A frame whose image says how long its answer takes."""
    policy = RoutingPolicy(on_miss=OnMiss.LATE if late else OnMiss.REJECT)
    budget_ns = None if budget_ms is None else budget_ms * MS
    return Frame(frame_id, str(takes_ms).encode(), RequestOptions(budget_ns, policy=policy))


@dataclass
class Model:
    """An engine that knows how long each image takes, a sender with a pace, and a receiver."""

    limits: StreamLimits
    clock: LoopClock = field(default_factory=LoopClock)
    read: int = 0
    written: list[Outcome[str]] = field(default_factory=list)
    written_ns: list[int] = field(default_factory=list)
    received_ns: list[int] = field(default_factory=list)
    in_service: int = 0
    cancelled: int = 0
    asked_ns: dict[bytes, list[int]] = field(default_factory=dict)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    reads_in_vain: int = 0

    async def infer(self, image: bytes, options: RequestOptions, received_ns: int) -> str:
        """As the engine: late at the door is refused at once, and late in service at the deadline."""
        takes_ns = int(image) * MS
        left_ns = received_ns + (options.budget_ns or DEFAULT_MS * MS) - self.clock.now_ns()
        if options.policy.on_miss is OnMiss.REJECT and left_ns <= 0:
            raise DeadlineExceeded("refused at the door", smallest_feasible_budget_ns=takes_ns)
        self.in_service += 1
        assert self.in_service <= self.limits.in_service_max, "too many in service"
        try:
            if options.policy.on_miss is OnMiss.REJECT and takes_ns > left_ns:
                await asyncio.sleep(left_ns / 1e9)  # fake time
                raise DeadlineExceeded("shed in the queue", smallest_feasible_budget_ns=takes_ns)
            await asyncio.sleep(takes_ns / 1e9)  # fake time
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_service -= 1
        return f"answer to {image.decode()}"

    async def write(self, outcome: Outcome[str]) -> None:
        self.written.append(outcome)
        self.written_ns.append(self.clock.now_ns())

    def stream(self) -> FrameStream[str]:
        return FrameStream(
            self.infer,
            self.limits,
            now_ns=self.clock.now_ns,
            budget_ns_default=DEFAULT_MS * MS,
            ending=self.ending,
        )

    async def run(self, frames: Sequence[Frame], gaps_ms: Sequence[int] = ()) -> bool:
        """All `frames`, each after its gap, and then the end of the stream."""
        waiting = iter(frames)
        gaps = iter(gaps_ms)

        async def read() -> Frame | None:
            await asyncio.sleep(next(gaps, 0) / 1e3)  # fake time
            frame = next(waiting, None)
            if frame is not None:
                self.read += 1
                self.received_ns.append(self.clock.now_ns())
                assert self.read - len(self.written) <= self.limits.frames_max, "too many in flight"
            return frame

        return await self.stream().run(read, self.write)


def played(frames: Sequence[Frame], gaps_ms: Sequence[int] = (), limits: StreamLimits | None = None) -> Model:
    async def scenario() -> Model:
        model = Model(limits or StreamLimits(4, 2))
        assert await model.run(frames, gaps_ms), "it ran to its end"
        return model

    return run_in_fake_time(scenario())


kinds = st.tuples(st.integers(0, 120), st.none() | st.integers(1, 150), st.booleans())
limits = st.integers(1, 3).flatmap(lambda inner: st.builds(StreamLimits, st.integers(inner, 6), st.just(inner)))


@given(kinds=st.lists(kinds, max_size=20), gaps_ms=st.lists(st.integers(0, 60), max_size=20), bounds=limits)
def test_every_frame_has_one_outcome_in_order_and_in_time(kinds, gaps_ms, bounds) -> None:
    """Whatever frames come at whatever pace: none is lost or doubled, order holds, and no bound is exceeded.

    A frame that may not be late is settled by its deadline, or by when those before it were, whichever is later.
    """
    frames = [frame_of(index, takes, budget, late=late) for index, (takes, budget, late) in enumerate(kinds)]
    model = played(frames, gaps_ms, bounds)
    assert [outcome.frame_id for outcome in model.written] == list(range(len(frames)))
    turn_ns = 0
    for (takes_ms, budget_ms, late), outcome, received_ns, at_ns in zip(
        kinds, model.written, model.received_ns, model.written_ns, strict=True
    ):
        answered = not isinstance(outcome.result, Exception)
        ready_ns = at_ns - outcome.held_ns
        deadline_ns = received_ns + (budget_ms or DEFAULT_MS) * MS
        assert at_ns == max(ready_ns, turn_ns), "nothing waits but for its answer and its turn"
        if late:
            assert answered
        else:
            assert isinstance(outcome.result, str | DeadlineExceeded)
            assert received_ns <= ready_ns <= deadline_ns + 1000, "at its deadline at the latest"
            assert not answered or takes_ms <= (budget_ms or DEFAULT_MS)
        turn_ns = at_ns


def test_answers_wait_for_those_before_them_and_say_how_long() -> None:
    """A quick frame behind a slow one is sent right after it, with the time it was held."""
    model = played([frame_of(1, 50), frame_of(2, 20)])
    assert [(outcome.frame_id, outcome.held_ns) for outcome in model.written] == [(1, 0), (2, 30 * MS)]


def test_the_sender_waits_when_too_many_frames_are_unanswered() -> None:
    """The frame beyond the bound is read when the first is answered, and its budget counts from then."""
    model = played([frame_of(index, 30) for index in range(5)], limits=StreamLimits(4, 4))
    assert [received_ns - model.received_ns[0] for received_ns in model.received_ns] == [0, 0, 0, 0, 30 * MS]


def test_a_frame_whose_budget_runs_out_while_it_waits_is_stale_at_once() -> None:
    """It is refused by the engine at its deadline, not when a place is free, with the budget that would have worked."""
    model = played([frame_of(1, 90), frame_of(2, 10, 20)], limits=StreamLimits(4, 1))
    answered, stale = model.written
    assert answered.result == "answer to 90"
    assert isinstance(stale.result, StaleFrame)
    assert stale.result.smallest_feasible_budget_ns == 10 * MS
    assert "refused at the door" in stale.result.detail
    assert stale.held_ns == 70 * MS


def test_a_frame_that_cannot_be_met_is_stale_only_if_newer_ones_wait() -> None:
    """The last frame's refusal says that its budget was too small, and not that it was overtaken."""
    alone = played([frame_of(1, 50, 20)])
    overtaken = played([frame_of(1, 50, 20), frame_of(2, 5)])
    assert [type(outcome.result) for outcome in alone.written] == [DeadlineExceeded]
    assert [type(outcome.result) for outcome in overtaken.written] == [StaleFrame, str]


def test_a_late_frame_waits_as_long_as_it_takes() -> None:
    """With on_miss=late there is no deadline in the stream either."""
    model = played([frame_of(1, 90), frame_of(2, 10, 20, late=True)], limits=StreamLimits(4, 1))
    assert [outcome.result for outcome in model.written] == ["answer to 90", "answer to 10"]
    assert [at_ns - model.received_ns[0] for at_ns in model.written_ns] == [90 * MS, 100 * MS]


def test_a_frame_that_is_no_request_fails_alone() -> None:
    """Its place in the order stays, and the stream goes on."""
    broken = Frame(2, b"", InvalidArgument("no picture"))
    model = played([frame_of(1, 30), broken, frame_of(3, 10)])
    assert [type(outcome.result) for outcome in model.written] == [str, InvalidArgument, str]


def test_an_error_outside_the_tree_is_an_outcome_too() -> None:
    """A bug in one frame ends neither the stream nor the others."""
    model = played([frame_of(1, 10), Frame(2, b"not a number", RequestOptions()), frame_of(3, 10)])
    assert [isinstance(outcome.result, ValueError) for outcome in model.written] == [False, True, False]
    assert not isinstance(model.written[1].result, PhiserveError)


@pytest.mark.parametrize("read_before", [0, 2])
def test_an_ending_answers_what_was_read_and_reads_no_more(read_before) -> None:
    """Nothing that was read is lost; the stream says that it did not come to its end."""

    async def scenario() -> Model:
        model = Model(StreamLimits(4, 2))
        frames = [frame_of(index, 50) for index in range(read_before)]
        asyncio.get_running_loop().call_later(0.02, model.ending.set)
        assert not await model.run([*frames, frame_of(99, 1)], [0] * read_before + [3_600_000])
        return model

    model = run_in_fake_time(scenario())
    assert [outcome.frame_id for outcome in model.written] == list(range(read_before))
    assert model.in_service == 0


def test_cancelling_the_stream_cancels_every_frame_in_flight() -> None:
    """Who leaves is not worked for."""

    async def scenario() -> Model:
        model = Model(StreamLimits(4, 2))
        running = asyncio.create_task(model.run([frame_of(index, 50) for index in range(6)]))
        await asyncio.sleep(0.01)  # fake time
        assert model.in_service == 2
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return model

    model = run_in_fake_time(scenario())
    assert (model.in_service, model.cancelled, model.written) == (0, 2, [])


@pytest.mark.parametrize("where", ["read", "write"])
def test_a_connection_that_breaks_ends_everything(where) -> None:
    """What reading or writing raises is raised as it is, with nothing left in flight."""

    async def scenario() -> Model:
        model = Model(StreamLimits(4, 2))
        frames = iter([frame_of(1, 10), frame_of(2, 90)])

        async def read() -> Frame | None:
            frame = next(frames, None)
            if frame is None and where == "read":
                raise ConnectionResetError("gone")
            return frame

        async def write(outcome: Outcome[str]) -> None:
            raise ConnectionResetError("gone")

        with pytest.raises(ConnectionResetError, match="gone"):
            await model.stream().run(read, write)
        return model

    assert run_in_fake_time(scenario()).in_service == 0
