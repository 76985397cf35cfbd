"""Profiles come from the real workers, under load, and can be planned with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.latency_profile import StageCost
from service.core.clock import MonotonicClock
from service.core.request import RunResult
from service.runtime import calibration
from service.runtime.calibration import calibrate, quantile
from service.runtime.image_header import read_header
from service.runtime.providers import Provider
from service.runtime.session import open_sessions, runtime_name
from service.runtime.worker_pool import WorkerPool

MS = 1_000_000


class FakeClock:
    def __init__(self) -> None:
        self.time_ns = 0

    def now_ns(self) -> int:
        return self.time_ns


class FakePool:
    """Workers in fake time: a run ends when as many are under way as fit, and takes what `cost_ns` says."""

    batch_size_max = 8

    def __init__(self, count: int, clock: FakeClock, sessions: dict, cost_ns) -> None:
        self.count = count
        self.sessions = sessions
        self.clock = clock
        self.cost_ns = cost_ns
        self.waiting: list = []
        self.seen: list[tuple[str, int, int, tuple[int, ...]]] = []
        self.failure: BaseException | None = None

    def start_run(self, worker, plan, images, top_k, done) -> None:
        assert len(images) == len(plan.request_ids)
        self.waiting.append((worker, plan, done))
        if len(self.waiting) < self.count // plan.threads:
            return
        together, self.waiting = self.waiting, []
        self.seen.append((plan.variant, plan.threads, len(images), tuple(worker for worker, _, _ in together)))
        started_ns = self.clock.time_ns
        costs = [self.cost_ns(plan, len(images), lane) for lane in range(len(together))]
        for cost, (_, _, end) in sorted(zip(costs, together, strict=True), key=lambda pair: pair[0]):
            self.clock.time_ns = started_ns + cost
            end(self.failure or RunResult((), 1, 1))


@pytest.fixture
def entries(make_entry):
    return {"small": make_entry("small", 16), "large": make_entry("large", 24)}


@pytest.fixture
def sessions(entries):
    return open_sessions(entries.values(), (1, 2), Provider.CPU, batch_size_max=8)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Decode timing has its own test; the rest need not wait for a large picture to be made."""
    monkeypatch.setattr(calibration, "_DECODE_SIZES", ((40, 30), (80, 60)))


def points(profile, variant, threads) -> list[tuple[int, int]]:
    (latency,) = (one for one in profile.latencies if (one.variant, one.threads) == (variant, threads))
    return [(point.batch_size, point.latency_ns) for point in latency.points]


def test_a_high_quantile_under_full_load_is_the_figure(entries, sessions):
    """All workers run side by side, and the slower ones of them make the figure."""
    clock = FakeClock()
    pool = FakePool(2, clock, sessions, lambda plan, size, lane: (10 + 2 * lane) * size * MS // plan.threads)
    profile = calibrate(pool, entries, batch_sizes=(1, 2), thread_widths=(1, 2), clock=clock)
    # One thread: two lanes of 10 and 12 ms, of which 12 is the 90 % quantile. Two threads: one lane.
    assert points(profile, "small", 1) == [(1, 12 * MS), (2, 24 * MS)]
    assert points(profile, "large", 2) == [(1, 5 * MS), (2, 10 * MS)]
    assert ("small", 1, 1, (0, 1)) in pool.seen
    assert ("small", 2, 1, (0,)) in pool.seen


@pytest.mark.parametrize(
    ("workers", "threads", "lanes"), [(4, 1, (0, 1, 2, 3)), (4, 2, (0, 2)), (3, 2, (0,)), (4, 4, (0,))]
)
def test_as_many_runs_as_fit_go_side_by_side(workers, threads, lanes, make_entry):
    """A width of t threads is timed with floor(workers / t) runs at once, on workers that do not overlap."""
    clock = FakeClock()
    entries = {"small": make_entry("small", 16)}
    sessions = open_sessions(entries.values(), (threads,), Provider.CPU, batch_size_max=8)
    pool = FakePool(workers, clock, sessions, lambda *_: MS)
    calibrate(pool, entries, batch_sizes=(1,), thread_widths=(threads,), clock=clock)
    assert {seen[3] for seen in pool.seen} == {lanes}


def test_a_larger_batch_is_never_predicted_to_be_faster(entries, sessions):
    """Where noise makes a batch of two faster than one of one, it gets the latency of one."""
    clock = FakeClock()
    pool = FakePool(2, clock, sessions, lambda plan, size, lane: {1: 9, 2: 8, 4: 12}[size] * MS)
    profile = calibrate(pool, entries, batch_sizes=(1, 2, 4), thread_widths=(1,), clock=clock)
    assert points(profile, "small", 1) == [(1, 9 * MS), (2, 9 * MS), (4, 12 * MS)]


def test_batches_that_would_take_too_long_are_not_timed(entries, sessions):
    """A huge network stops at the batch size that nobody would wait for."""
    clock = FakeClock()
    pool = FakePool(2, clock, sessions, lambda plan, size, lane: size * 700 * MS)
    profile = calibrate(pool, entries, batch_sizes=(1, 2, 4, 8), thread_widths=(1,), clock=clock)
    assert [size for size, _ in points(profile, "large", 1)] == [1, 2]


def test_first_runs_do_not_count(entries, sessions):
    """The first round at a batch size allocates and searches; neither the figure nor the batch sizes depend on it."""
    clock = FakeClock()
    rounds: dict[tuple, int] = {}

    def cost(plan, size, lane):
        key = (plan.variant, plan.threads, size, lane)
        rounds[key] = rounds.get(key, 0) + 1
        return 9000 * MS if rounds[key] == 1 else 5 * size * MS

    pool = FakePool(2, clock, sessions, cost)
    profile = calibrate(pool, entries, batch_sizes=(1, 2), thread_widths=(1,), clock=clock)
    assert points(profile, "small", 1) == [(1, 5 * MS), (2, 10 * MS)]


def test_a_disturbance_does_not_spoil_a_point(entries, sessions):
    """Points take turns, so something that slows the machine for a while hits a few runs of each, not all of one."""
    clock = FakeClock()

    def cost(plan, size, lane):
        disturbed = 500 * MS < clock.time_ns < 600 * MS
        return (50 if disturbed else 5) * MS

    pool = FakePool(2, clock, sessions, cost)
    profile = calibrate(pool, entries, batch_sizes=(1, 2), thread_widths=(1, 2), clock=clock)
    assert {latency_ns for latency in profile.latencies for latency_ns in [latency.latency_ns(1)]} == {5 * MS}


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5])
def test_other_work_on_the_machine_is_noticed(share, entries, sessions, monkeypatch, caplog):
    """If the runs had a core for much less than their time, a warning says that the profile is too strict."""
    clock = FakeClock()
    monkeypatch.setattr(calibration.time, "process_time_ns", lambda: int(2 * share * clock.time_ns))
    pool = FakePool(2, clock, sessions, lambda *_: 5 * MS)
    calibrate(pool, entries, batch_sizes=(1,), thread_widths=(1, 2), clock=clock)
    assert ("other work took 50 % of the cores" in caplog.text) is (share == 0.5)
    assert bool(caplog.records) is (share == 0.5)


def test_a_failing_run_ends_the_calibration_with_its_error(entries, sessions):
    """A variant that cannot run is not given a latency."""
    pool = FakePool(2, FakeClock(), sessions, lambda *_: MS)
    pool.failure = FloatingPointError("small gave NaN")
    with pytest.raises(FloatingPointError):
        calibrate(pool, entries, batch_sizes=(1,), thread_widths=(1,), clock=pool.clock)


def test_the_real_workers_give_a_whole_profile(entries, sessions, monkeypatch):
    """With real sessions every point is there, positive and rising, with the stages around it and what it is of."""
    monkeypatch.setattr(calibration, "POINT_NS", 1)
    pool = WorkerPool(2, sessions, 8)
    steps: list[tuple[int, int]] = []
    try:
        profile = calibrate(
            pool, entries, batch_sizes=(1, 2, 8), thread_widths=(1, 2), clock=MonotonicClock(),
            progress=lambda done, total, _label: steps.append((done, total)),
        )  # fmt: skip
    finally:
        assert pool.close(20_000_000_000)
    assert {(one.variant, one.threads, one.batch_size_limit) for one in profile.latencies} == {
        ("small", 1, 8), ("small", 2, 8), ("large", 1, 8), ("large", 2, 8),
    }  # fmt: skip
    assert profile.workers == 2
    assert profile.runtime == runtime_name(Provider.CPU)
    assert profile.model_sha256["small"] == entries["small"].manifest.files["model.onnx"].sha256
    assert profile.overhead_ns > calibration.ANSWER_NS
    assert profile.decode.cost_ns(100_000) > 0
    assert steps == sorted(steps)
    assert steps[-1] == (13, 13)


def test_the_picture_is_as_large_as_the_decoder_hands_on(entries, sessions):
    """Resizing is timed on a picture half again as large as the largest variant needs."""
    sizes = set()
    clock = FakeClock()
    pool = FakePool(2, clock, sessions, lambda *_: MS)
    start_run = pool.start_run

    def watch(worker, plan, images, top_k, done):
        sizes.update((image.width, image.height) for image in images)
        start_run(worker, plan, images, top_k, done)

    pool.start_run = watch
    calibrate(pool, entries, batch_sizes=(1,), thread_widths=(1,), clock=clock)
    assert sizes == {(56, 42)}  # 24 pixels / 0.875 = 28, times 1.5


def test_decode_cost_is_a_line_through_a_small_and_a_large_picture(entries, sessions, monkeypatch):
    """A decoder that takes 2 ms and 5 ms a megapixel is described by just these two figures."""
    clock = FakeClock()

    def decode(data, shorter_side_px, pixels_max):
        assert shorter_side_px == 28
        clock.time_ns += 2 * MS + 5 * read_header(data, pixels_max).pixels

    monkeypatch.setattr(calibration, "decode_rgb", decode)
    pool = FakePool(2, clock, sessions, lambda *_: MS)
    profile = calibrate(pool, entries, batch_sizes=(1,), thread_widths=(1,), clock=clock)
    assert profile.decode == StageCost(2 * MS, 5 * MS)


@pytest.mark.parametrize(("batch_sizes", "thread_widths"), [
    ((), (1,)), ((2, 4), (1,)), ((1, 4, 2), (1,)), ((1, 16), (1,)), ((1,), ()), ((1,), (3,)), ((1,), (0,)),
])  # fmt: skip
def test_points_that_the_pool_cannot_run_are_refused(batch_sizes, thread_widths, entries, sessions):
    """Batch sizes rise from 1 to the pool's bound and a width has a worker for each thread."""
    pool = FakePool(2, FakeClock(), sessions, lambda *_: MS)
    with pytest.raises(ValueError, match="must"):
        calibrate(pool, entries, batch_sizes=batch_sizes, thread_widths=thread_widths, clock=pool.clock)


@given(st.lists(st.integers(0, 1000), min_size=1))
def test_the_quantile_covers_nine_of_ten(values):
    """At least 90 % of the values are within the quantile, and it is the smallest of them that covers so many."""
    figure = quantile(values)
    assert figure in values
    assert sum(value <= figure for value in values) >= 0.9 * len(values)
    assert sum(value < figure for value in values) < 0.9 * len(values)
