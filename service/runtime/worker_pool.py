"""All workers: `core.ports.WorkerPool` over threads, their warm-up and their end.

A worker is a core: a plan of two threads runs on one worker while the scheduler keeps another one free for it.
Keeps no queue; the scheduler has one.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from service.core.clock import Clock, MonotonicClock
from service.core.ports import DecodedImage
from service.core.request import Plan, RunResult
from service.runtime.session import Session, SessionKey
from service.runtime.synthetic_picture import synthetic_picture
from service.runtime.worker import Done, Run, Worker

Progress = Callable[[int, int, str], None]
"""Called with (done, total, label) as a long start-up step proceeds."""


class WorkerPool:
    """Workers 0..count-1 over shared sessions."""

    def __init__(
        self,
        count: int,
        sessions: Mapping[SessionKey, Session],
        batch_size_max: int,
        *,
        clock: Clock | None = None,
        helpers: int = 0,
        resolution_max: int = 0,
    ) -> None:
        """Start `count` workers, each with room for `batch_size_max` pictures of the largest variant.

        `sessions` may change later, up to variants of `resolution_max`, but not those that are running. `helpers` are
        threads that crop and resize for all workers; without, each does it alone.

        Raises:
            ValueError: no workers, no sessions or no room.
        """
        if count < 1 or batch_size_max < 1 or not sessions:
            raise ValueError(
                f"a pool needs workers, room and sessions; got {count} workers, batch_size_max {batch_size_max} and "
                f"{len(sessions)} sessions"
            )
        self.clock = clock or MonotonicClock()
        self.sessions = sessions
        self.batch_size_max = batch_size_max
        self._helpers = ThreadPoolExecutor(helpers, "resize") if helpers else None
        side = max(resolution_max, *(session.variant.resolution for session in sessions.values()))
        self._workers = [
            Worker(index, sessions, batch_size_max, self.clock, self._helpers, resolution_max=side)
            for index in range(count)
        ]

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def start_run(self, worker: int, plan: Plan, images: Sequence[DecodedImage], top_k: int, done: Done) -> None:
        """See `core.ports.WorkerPool.start_run`."""
        self._workers[worker].start_run(Run(plan, images, top_k, done))

    def warm(
        self, batch_sizes: Mapping[SessionKey, Sequence[int]], progress: Progress = lambda _done, _total, _label: None
    ) -> None:
        """Run every session once at each batch size that will be planned, so that no request pays for a first time.

        The first run at a size allocates, and on a GPU searches for the fastest kernels. Workers take turns, since
        each has a buffer to touch. Every worker must be idle.

        Raises:
            Exception: whatever the run raised.
        """
        planned = [(key, size) for key, sizes in batch_sizes.items() for size in sizes]
        # What a GPU's provider prepares for a batch size it keeps for the thread that ran it.
        if any(self.sessions[key].provider.fixed_batches for key in batch_sizes):
            planned = [turn for turn in planned for _ in range(self.count)]
        picture = synthetic_picture(512, 384)
        results: queue.SimpleQueue[RunResult | BaseException] = queue.SimpleQueue()
        # Every worker gets at least one turn, and every (session, batch size) too.
        for turn in range(max(len(planned), self.count)):
            (variant, threads), size = planned[turn % len(planned)]
            progress(turn, max(len(planned), self.count), f"{variant}, {threads} threads, batch {size}")
            plan = Plan(variant, threads, tuple(range(size)), 0)
            self.start_run(turn % self.count, plan, [picture] * size, 1, results.put)
            result = results.get()
            if isinstance(result, BaseException):
                raise result
        progress(max(len(planned), self.count), max(len(planned), self.count), "warm")

    def close(self, timeout_ns: int) -> bool:
        """End all workers after the runs they are on; False if one still runs after `timeout_ns`."""
        for worker in self._workers:
            worker.close()
        # Not the pool's clock, which tests replace: joining waits in real time.
        ends_s = time.monotonic() + timeout_ns / 1e9
        ended = [worker.join(max(0.0, ends_s - time.monotonic())) for worker in self._workers]
        if self._helpers is not None:
            self._helpers.shutdown(wait=False)
        return all(ended)
