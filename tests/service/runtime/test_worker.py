"""A worker turns a plan into classes, reports everything, and outlives every error."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.core.clock import MonotonicClock
from service.core.request import Plan, RunResult
from service.runtime.bound_runs import BoundRuns
from service.runtime.providers import SessionOptions
from service.runtime.session import Session
from service.runtime.worker import Run, Worker
from tests.fakes.colour_models import colour_graph, variant_of


@pytest.fixture
def sessions() -> dict:
    return {
        ("tiny", 1): Session(colour_graph(16), variant_of("tiny", 16), SessionOptions(1, 4)),
        ("wide", 2): Session(colour_graph(24, 5), variant_of("wide", 24, class_count=5), SessionOptions(2, 4)),
    }


@pytest.fixture
def worker(sessions):
    worker = Worker(0, sessions, 4, MonotonicClock())
    yield worker
    worker.close()
    assert worker.join(20)


def run_on(worker: Worker, variant: str, threads: int, images, top_k: int = 1) -> RunResult | BaseException:
    results: queue.SimpleQueue = queue.SimpleQueue()
    plan = Plan(variant, threads, tuple(range(len(images))), 0)
    worker.start_run(Run(plan, images, top_k, results.put))
    return results.get(timeout=20)


def test_results_come_in_plan_order_with_timings(worker, plain):
    """Each picture gets its own best classes, in the order of the plan, and both stages took time."""
    result = run_on(worker, "tiny", 1, [plain("blue"), plain("red"), plain("lime"), plain("red")], top_k=2)
    assert [top[0][0] for top in result.top] == [2, 0, 1, 0]
    assert all(len(top) == 2 and top[0][1] > 0.9 > top[1][1] for top in result.top)
    assert result.preprocess_ns > 0
    assert result.inference_ns > 0


def test_the_probability_of_every_class_comes_back(worker, plain):
    """Each picture's row holds one float32 per class in class order, from which its best class follows."""
    result = run_on(worker, "tiny", 1, [plain("blue"), plain("red")])
    rows = [np.frombuffer(row, "<f4") for row in result.probabilities]
    assert [int(row.argmax()) for row in rows] == [top[0][0] for top in result.top] == [2, 0]
    assert [float(row.max()) for row in rows] == [top[0][1] for top in result.top]
    assert [len(row) for row in rows] == [variant_of("tiny", 16).class_count] * 2


@pytest.mark.parametrize("helpers", [None, ThreadPoolExecutor(3)])
def test_a_batch_that_is_filled_up_gives_its_images_alone(helpers, plain):
    """Run with rows that hold other pictures' pixels, each image gets its own classes, with or without helping threads.

    Between fixed buffers as on a GPU, but on the CPU.
    """
    session, four = (Session(colour_graph(16), variant_of("tiny", 16), SessionOptions(1, 4)) for _ in range(2))
    names = ["probabilities", "top_probabilities", "top_classes"]
    session._bound = BoundRuns({1: session._ort, 4: four._ort}, names, graphs=False, device="cpu")
    worker = Worker(0, {("tiny", 1): session}, 4, MonotonicClock(), helpers)
    for colours, classes in ((("blue",) * 4, [2] * 4), (("red", "lime"), [0, 1]), (("lime",), [1])):
        result = run_on(worker, "tiny", 1, [plain(colour) for colour in colours])
        assert isinstance(result, RunResult), result
        assert [top[0][0] for top in result.top] == classes
        assert len(result.probabilities) == len(colours)
    worker.close()
    assert worker.join(20)


def test_variants_and_widths_take_turns_on_one_buffer(worker, plain):
    """Runs of different resolutions and batch sizes after each other do not see each other's pixels."""
    for _ in range(3):
        assert [top[0][0] for top in run_on(worker, "wide", 2, [plain("blue")] * 4).top] == [2] * 4
        assert [top[0][0] for top in run_on(worker, "tiny", 1, [plain("red"), plain("lime")]).top] == [0, 1]


@pytest.mark.parametrize(("variant", "count", "error"), [("none", 1, KeyError), ("tiny", 5, ValueError)])
def test_an_error_is_handed_over_and_the_worker_lives_on(variant, count, error, worker, plain):
    """An unknown session or too large a batch is reported, and the next run is fine."""
    assert isinstance(run_on(worker, variant, 1, [plain("red")] * count), error)
    assert worker.is_idle
    assert run_on(worker, "tiny", 1, [plain("red")]).top[0][0][0] == 0


def test_pixels_of_a_stranger_are_refused(worker):
    """A worker takes pictures of its own decoder only; anything else is a programming error that is reported."""
    assert isinstance(run_on(worker, "tiny", 1, [object()]), AssertionError)


def test_a_done_that_raises_does_not_end_the_worker(worker, plain, caplog):
    """If the result cannot be delivered, as when the event loop is closed, that is logged and the worker lives on."""
    called = threading.Event()

    def deaf(_):
        called.set()
        raise RuntimeError("event loop is closed")

    worker.start_run(Run(Plan("tiny", 1, (0,), 0), [plain("red")], 1, deaf))
    assert called.wait(20)
    # The worker takes its next run only after the failed delivery, and logs that first.
    assert run_on(worker, "tiny", 1, [plain("lime")]).top[0][0][0] == 1
    assert "could not be delivered" in caplog.text


class GatedSessions(dict):
    """Sessions that a run can only get once the gate is open."""

    def __init__(self, sessions: dict) -> None:
        super().__init__(sessions)
        self.gate = threading.Event()

    def __getitem__(self, key):
        assert self.gate.wait(20)
        return super().__getitem__(key)


def test_a_busy_worker_refuses_a_second_plan(sessions, plain):
    """Starting a run on a worker that runs one is a programming error, and harms neither."""
    gated = GatedSessions(sessions)
    worker = Worker(0, gated, 4, MonotonicClock())
    results: queue.SimpleQueue = queue.SimpleQueue()
    run = Run(Plan("tiny", 1, (0,), 0), [plain("red")], 1, results.put)
    worker.start_run(run)
    assert not worker.is_idle
    with pytest.raises(AssertionError, match="busy"):
        worker.start_run(run)
    gated.gate.set()
    assert isinstance(results.get(timeout=20), RunResult)
    worker.close()
    assert worker.join(20)
    assert results.empty()


def test_a_worker_may_be_given_its_next_run_from_done(worker, plain):
    """The worker is idle when `done` is called, so the next run may start right there."""
    results: queue.SimpleQueue = queue.SimpleQueue()
    plan = Plan("tiny", 1, (0,), 0)

    def again(first):
        results.put(first)
        worker.start_run(Run(plan, [plain("lime")], 1, results.put))

    worker.start_run(Run(plan, [plain("red")], 1, again))
    assert [results.get(timeout=20).top[0][0][0] for _ in range(2)] == [0, 1]


def test_a_closed_worker_finishes_its_run_and_takes_no_other(sessions, plain):
    """Closing lets the current run end; `join` tells whether it has; a further run is refused."""
    gated = GatedSessions(sessions)
    worker = Worker(0, gated, 4, MonotonicClock())
    results: queue.SimpleQueue = queue.SimpleQueue()
    run = Run(Plan("tiny", 1, (0,), 0), [plain("red")], 1, results.put)
    worker.start_run(run)
    worker.close()
    assert not worker.join(0)
    gated.gate.set()
    assert worker.join(20)
    assert isinstance(results.get(timeout=20), RunResult)
    with pytest.raises(AssertionError, match="closed"):
        worker.start_run(run)


def test_an_idle_worker_holds_no_pixels(worker, plain):
    """Once the result is delivered the worker keeps no reference to the pictures."""
    picture = plain("red").pixels
    alive = weakref.ref(picture)
    from service.runtime.rgb_image import RgbImage  # noqa: PLC0415  kept out of the frame that must not hold pixels

    assert isinstance(run_on(worker, "tiny", 1, [RgbImage(picture)]), RunResult)
    # A second run is taken from the inbox only after the first one was let go.
    run_on(worker, "tiny", 1, [plain("lime")])
    del picture
    gc.collect()
    assert alive() is None
