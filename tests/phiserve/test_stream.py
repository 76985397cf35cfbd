"""Frames over one stream: outcomes in order, each its own, and every way in which a stream can end."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable

import pytest

from phiserve import (
    Classification,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidImage,
    InvalidUrl,
    NotReady,
    PhiserveError,
    StaleFrame,
    TimedOut,
    UnexpectedAnswer,
)
from service import errors
from tests.fakes.engine import HELD, classification
from tests.fakes.grpc_classifier import HANG_UP, MISNUMBERED, STALE, grpc_classifier, no_classifier, scripted_streams
from tests.fakes.menus import MS
from tests.fakes.patience import RISING_S


def test_outcomes_come_in_the_order_of_the_frames(engine, grpc_url, connect) -> None:
    """Each frame has its own outcome, an error in the place of an answer, and the stream goes on after it."""
    engine.failures[b"broken"] = errors.InvalidImage("cut off")
    for number in range(60):
        engine.answers[b"%d" % number] = classification(name=f"variant{number}")
    frames = [b"%d" % number for number in range(60)]
    frames[5] = b"broken"
    outcomes = list(connect(grpc_url).stream(frames))
    assert len(outcomes) == 60
    assert isinstance(outcomes[5], InvalidImage)
    names = [outcome.variant.name for number, outcome in enumerate(outcomes) if number != 5]
    assert names == [f"variant{number}" for number in range(60) if number != 5]


def test_a_frame_that_newer_ones_overtook_is_told_apart(connect) -> None:
    """It is a missed budget with a name of its own, and says what budget would have done."""
    with scripted_streams() as server:
        first, overtaken, last = connect(server.url).stream([b"one", STALE, b"three"])
    assert isinstance(first, Classification)
    assert isinstance(last, Classification)
    assert isinstance(overtaken, StaleFrame)
    assert isinstance(overtaken, DeadlineExceeded)
    assert overtaken.smallest_feasible_budget_ms == 12.0


def test_each_frame_brings_the_whole_budget_and_every_option(engine, grpc_url, connect) -> None:
    """What is asked of the stream is asked of each of its frames."""
    list(connect(grpc_url).stream([b"one", b"two"], budget_ms=25, top_k=2, priority=3))
    assert [call.options.budget_ns for call in engine.calls] == [25 * MS] * 2
    assert [(call.options.top_k, call.options.policy.priority) for call in engine.calls] == [(2, 3)] * 2


def test_an_answer_comes_before_the_next_frame_is_there(engine, grpc_url, connect) -> None:
    """A camera that waits for the last frame's answer before it takes the next one gets it."""
    seen: list[int] = []

    def camera():
        for number in range(5):
            assert len(seen) == number or answered.wait(30)
            answered.clear()
            yield b"%d" % number

    answered = threading.Event()
    for outcome in connect(grpc_url).stream(ThreadedCamera(camera()), budget_ms=2000):
        seen.append(outcome.batch_size)
        answered.set()
    assert seen == [3] * 5


class ThreadedCamera:
    """Waits off the event loop, for asyncio; off the reader's thread it is anyway."""

    def __init__(self, frames) -> None:
        self._frames = frames

    def __iter__(self):
        return self._frames

    async def __aiter__(self):
        while (frame := await asyncio.to_thread(next, self._frames, None)) is not None:
            yield frame


@pytest.mark.parametrize("options", [{"budget_ms": 50}, {}], ids=str)
def test_a_silent_stream_ends(engine, connect, options) -> None:
    """An answer that does not come within budget and grace, or within patience, ends the stream on both sides."""

    def ended_by_the_second_frame(bearable_s: float) -> None:
        with grpc_classifier(engine) as server:
            client = connect(server.url, grace_s=bearable_s, patience_s=bearable_s)
            outcomes = client.stream([b"cat", HELD, b"never"], **options)
            assert isinstance(next(outcomes), Classification)
            engine.cancelled.clear()
            with pytest.raises(TimedOut):
                next(outcomes)
            assert engine.cancelled.wait(30)

    with_rising_grace(ended_by_the_second_frame)


def test_a_reader_that_takes_its_time_is_no_silence(engine, grpc_url, connect) -> None:
    """Longer than budget and grace between two reads, with answers waiting: they are still read."""

    def read_with_a_pause(grace_s: float) -> None:
        outcomes = connect(grpc_url, grace_s=grace_s).stream([b"one", b"two", b"three"], budget_ms=50)
        assert isinstance(next(outcomes), Classification)
        assert not threading.Event().wait(0.05 + 1.5 * grace_s)
        assert [type(outcome) for outcome in outcomes] == [Classification] * 2

    with_rising_grace(read_with_a_pause)


def test_a_camera_that_takes_its_time_is_no_silence(engine, grpc_url, connect) -> None:
    """Longer than budget and grace between two frames, with none on its way, ends nothing."""

    def send_with_a_pause(grace_s: float) -> None:
        def camera():
            yield b"one"
            assert not threading.Event().wait(0.05 + 1.5 * grace_s)
            yield b"two"

        outcomes = list(connect(grpc_url, grace_s=grace_s).stream(ThreadedCamera(camera()), budget_ms=50))
        assert [type(outcome) for outcome in outcomes] == [Classification] * 2

    with_rising_grace(send_with_a_pause)


def with_rising_grace(scene: Callable[[float], None]) -> None:
    """Play `scene` with more time in each further try: on a busy machine an answer that is there may be late, too."""
    for grace_s in RISING_S[:-1]:
        try:
            return scene(grace_s)
        except TimedOut:
            pass
    return scene(RISING_S[-1])


@pytest.mark.parametrize(
    ("frame", "error"),
    [(HANG_UP, ConnectionFailed), (MISNUMBERED, UnexpectedAnswer), (7, TypeError), ("none.jpg", FileNotFoundError)],
    ids=["ended by the server", "answered out of order", "no image", "no file"],
)
def test_a_stream_that_breaks_gives_what_came_before(connect, frame, error) -> None:
    """The outcomes of the frames before are read, then the reason is raised and the iterator has ended."""
    with scripted_streams() as server:
        outcomes = connect(server.url).stream([b"one", b"two", frame, b"four"])
        assert [type(next(outcomes)) for _ in range(2)] == [Classification] * 2
        with pytest.raises(error):
            next(outcomes)
        assert next(outcomes, None) is None


def test_a_server_that_drains_ends_its_streams_with_what_it_had(engine, connect) -> None:
    """Frames that it has read are answered; then the stream says that the server goes."""

    def camera():
        yield b"one"
        assert drained.wait(30)

    drained = threading.Event()
    with grpc_classifier(engine) as server:
        outcomes = connect(server.url).stream(ThreadedCamera(camera()))
        assert isinstance(next(outcomes), Classification)
        server.portal.call(server.server.turn_away)
        with pytest.raises((NotReady, ConnectionFailed)):
            next(outcomes)
        drained.set()


def test_leaving_early_cancels_what_is_on_its_way(engine, connect) -> None:
    """Closing the iterator frees the server, though frames without an end were still to come."""
    with grpc_classifier(engine) as server:
        outcomes = connect(server.url).stream(itertools.chain([b"cat"], itertools.repeat(HELD)))
        assert isinstance(next(outcomes), Classification)
        assert engine.held.wait(30)
        outcomes.close()
        assert engine.cancelled.wait(30)


def test_no_frames_are_no_outcomes(engine, grpc_url, connect) -> None:
    """An empty stream ends at once."""
    assert list(connect(grpc_url).stream([])) == []


def test_a_server_without_streams_is_an_error_of_the_tree(connect) -> None:
    """It says that it does not know the method, unless the frame on its way notices first that the stream is over."""
    with no_classifier() as server, pytest.raises((UnexpectedAnswer, ConnectionFailed), match=r"UNIMPLEMENTED|ended"):
        list(connect(server.url).stream([b"cat"]))


def test_nobody_listening_ends_the_stream(connect) -> None:
    """Nothing is sent again: frames are of the moment."""
    with no_classifier() as server:
        url = server.url
    with pytest.raises(PhiserveError):
        list(connect(url, grace_s=1).stream([b"cat"], budget_ms=100))


def test_http_has_no_streams(engine, http_url, connect) -> None:
    """The error says what has."""
    with pytest.raises(InvalidUrl, match=r"grpc://.*classify_many"):
        connect(http_url).stream([b"cat"])


def test_a_server_that_stops_reading_stops_the_camera(engine, connect) -> None:
    """Frames are taken as the network takes them, and not gathered in memory; leaving ends it."""
    taken, count = [], 200

    def camera():
        yield b"cat"
        yield HELD
        for number in range(count):
            taken.append(number)
            yield bytes(2**20)

    with grpc_classifier(engine) as server:
        outcomes = connect(server.url).stream(ThreadedCamera(camera()))
        assert isinstance(next(outcomes), Classification)
        assert engine.held.wait(30)
        assert not threading.Event().wait(0.5)
        assert len(taken) < count / 2
        outcomes.close()
        assert engine.cancelled.wait(30)
