"""One worker: a thread that takes one plan at a time and turns its pictures into the best classes.

Crop and resize, then run, all on this thread, into a buffer that is made once. Beside a GPU, where cores are idle and
batches are large, other threads help with cropping and resizing. Whatever goes wrong is handed
to `done`; the thread itself never dies of it. Decides nothing and touches no event loop.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from model_store.manifest import ModelVariant
from service.core.clock import Clock
from service.core.ports import DecodedImage
from service.core.request import Plan, RunResult
from service.runtime.page_lock import page_lock
from service.runtime.preprocess import preprocess
from service.runtime.rgb_image import Pixels, RgbImage
from service.runtime.session import Session, SessionKey

logger = logging.getLogger(__name__)

Done = Callable[[RunResult | BaseException], None]

_LITTLE_ENDIAN = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Run:
    """A plan with the pixels it is for, in plan order, and where its result goes."""

    plan: Plan
    images: Sequence[DecodedImage]
    top_k: int
    done: Done


class Worker:
    """See the module. Idle from construction on; `close`, then `join`, ends it."""

    def __init__(
        self,
        index: int,
        sessions: Mapping[SessionKey, Session],
        batch_size_max: int,
        clock: Clock,
        helpers: Executor | None = None,
        *,
        resolution_max: int = 0,
    ) -> None:
        """`sessions` may be shared with other workers; `batch_size_max` and `resolution_max` size the buffer.

        With `helpers`, which may be shared too, the pictures of a batch are cropped and resized side by side.
        """
        side = max(resolution_max, *(session.variant.resolution for session in sessions.values()))
        # One buffer serves every variant, since one plan runs at a time: the largest, seen in the variant's shape.
        self._buffer = np.zeros(batch_size_max * side * side * 3, np.uint8)
        if any(session.provider.fixed_batches for session in sessions.values()):
            page_lock(self._buffer)
        self._map = map if helpers is None else helpers.map
        self._sessions = sessions
        self._batch_size_max = batch_size_max
        self._clock = clock
        self._inbox: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._busy = False
        self._closed = False
        # A daemon, so that a run which outlasts the drain bound cannot keep the process alive.
        self._thread = threading.Thread(target=self._loop, name=f"worker-{index}", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether a run may be started."""
        return not self._busy and not self._closed

    def start_run(self, run: Run) -> None:
        """Begin `run` and return at once. The worker must be idle, and is idle again when `done` is called."""
        assert not self._closed, "a closed worker was given a run"
        assert not self._busy, f"a busy worker was given a run of {run.plan.variant}"
        self._busy = True
        self._inbox.put(run)

    def close(self) -> None:
        """Take no further run; the thread ends after the one it is on."""
        self._closed = True
        self._inbox.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it is still running after `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (run := self._inbox.get()) is not None:
            self._perform(run)
            del run  # or the last run's pixels would live as long as the worker is idle

    def _perform(self, run: Run) -> None:
        outcome: RunResult | BaseException
        try:
            outcome = self._run(run)
        except BaseException as error:  # noqa: BLE001  the engine settles the requests; a thread has no caller
            outcome = error
        self._busy = False  # before `done`, which may start the next run
        try:
            run.done(outcome)
        except Exception:
            # The event loop is gone, as at the end of a drain that ran out of time.
            logger.exception("the result of a run of %s could not be delivered", run.plan.variant)

    def _run(self, run: Run) -> RunResult:
        started_ns = self._clock.now_ns()
        session = self._sessions[run.plan.variant, run.plan.threads]
        batch = self._batch(session, len(run.images))
        # Rows beyond the images, if any, keep what is in them: nobody looks at what becomes of it.
        for _ in self._map(_fill, run.images, batch, itertools.repeat(session.variant)):
            pass
        preprocessed_ns = self._clock.now_ns()
        probabilities, top = session.classify(batch, run.top_k, len(run.images))
        rows = tuple([row.tobytes() for row in probabilities.astype(_LITTLE_ENDIAN, copy=False)])
        return RunResult(top, preprocessed_ns - started_ns, self._clock.now_ns() - preprocessed_ns, rows)

    def _batch(self, session: Session, size: int) -> Pixels:
        if not 1 <= size <= self._batch_size_max:
            raise ValueError(f"a batch of {size} was planned, the worker's buffer takes 1 to {self._batch_size_max}")
        shape = (session.rows(size), session.variant.resolution, session.variant.resolution, 3)
        return self._buffer[: math.prod(shape)].reshape(shape)


def _fill(image: DecodedImage, row: Pixels, variant: ModelVariant) -> None:
    assert isinstance(image, RgbImage), f"a worker runs pictures of its own decoder, got {type(image)}"
    preprocess(image, variant, row)
