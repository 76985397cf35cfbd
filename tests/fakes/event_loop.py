"""An asyncio event loop in which waiting takes no time: when nothing is ready, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Polls real I/O without blocking, and turns a wish to wait into a jump of the fake clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.now_s += timeout
        if not ready and timeout is None:
            raise RuntimeError("the loop would wait for ever: nothing is scheduled")
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def pass_by(self, seconds: float) -> None:
        """What a callback does that keeps the loop for so long."""
        self._jumping.now_s += seconds


class LoopClock:
    """Implements `service.core.clock.Clock` with the running loop's time."""

    def now_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * 1_000_000_000)


def run_in_fake_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end on a fresh `FakeTimeLoop`."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(coroutine)
