"""Several workers over shared sessions: side by side, warm-up, end."""

from __future__ import annotations

import queue
import threading

import pytest

from service.core.request import Plan, RunResult
from service.runtime.providers import Provider
from service.runtime.session import open_sessions
from service.runtime.worker_pool import WorkerPool


@pytest.fixture
def sessions(make_entry):
    return open_sessions([make_entry("small", 16), make_entry("large", 24)], (1, 2), Provider.CPU, batch_size_max=4)


@pytest.fixture
def pool(sessions):
    pool = WorkerPool(2, sessions, 4)
    yield pool
    assert pool.close(20_000_000_000)


def test_workers_run_side_by_side(pool, plain):
    """Two plans given to two workers both run before either result is taken, each on its own thread."""
    both = threading.Barrier(2)
    results: queue.SimpleQueue = queue.SimpleQueue()

    def done(result):
        both.wait(20)
        results.put((threading.current_thread().name, result.top[0][0][0]))

    pool.start_run(0, Plan("small", 1, (0,), 0), [plain("red")], 1, done)
    pool.start_run(1, Plan("large", 1, (1,), 0), [plain("blue")], 1, done)
    assert {results.get(timeout=20) for _ in range(2)} == {("worker-0", 0), ("worker-1", 2)}


def test_a_worker_that_is_not_there_is_a_programming_error(pool, plain):
    """Worker ids are 0 to count - 1."""
    with pytest.raises(IndexError):
        pool.start_run(2, Plan("small", 1, (0,), 0), [plain("red")], 1, lambda _: None)


def test_warming_runs_every_session_and_every_worker(sessions):
    """Every (session, batch size) that is planned runs once, progress ends at the total, and all workers had a turn."""
    pool = WorkerPool(3, sessions, 4)
    steps: list[tuple[int, int, str]] = []
    pool.warm({("small", 1): (1, 4), ("large", 2): (2,)}, lambda *step: steps.append(step))
    assert [label for _, _, label in steps[:-1]] == [
        "small, 1 threads, batch 1",
        "small, 1 threads, batch 4",
        "large, 2 threads, batch 2",
    ]
    assert steps[-1][:2] == (3, 3)
    assert pool.close(20_000_000_000)


def test_warming_few_plans_still_touches_every_worker(sessions):
    """With fewer plans than workers the plans are repeated until every worker has run."""
    pool = WorkerPool(3, sessions, 4)
    steps: list[int] = []
    pool.warm({("small", 1): (1,)}, lambda done, _total, _label: steps.append(done))
    assert steps == [0, 1, 2, 3]
    assert pool.close(20_000_000_000)


def test_a_failing_warm_up_raises(pool):
    """A session that cannot run stops the start instead of failing the first request."""
    with pytest.raises(KeyError):
        pool.warm({("absent", 1): (1,)})


def test_close_waits_for_what_runs_and_says_when_it_gave_up(sessions, plain):
    """With a run held back the bound passes and close says so; once let go, it ends."""
    gate = threading.Event()
    results: queue.SimpleQueue = queue.SimpleQueue()
    pool = WorkerPool(2, sessions, 4)

    def hold(result):
        assert gate.wait(20)
        results.put(result)

    pool.start_run(1, Plan("small", 1, (0,), 0), [plain("red")], 1, hold)
    assert not pool.close(1_000_000)
    gate.set()
    assert isinstance(results.get(timeout=20), RunResult)
    assert pool.close(20_000_000_000)


@pytest.mark.parametrize(("count", "batch_size_max"), [(0, 1), (1, 0)])
def test_a_pool_of_nothing_is_refused(count, batch_size_max, sessions):
    """A pool needs at least one worker and room for one picture."""
    with pytest.raises(ValueError, match="a pool needs workers"):
        WorkerPool(count, sessions, batch_size_max)
    with pytest.raises(ValueError, match="0 sessions"):
        WorkerPool(1, {}, 1)
