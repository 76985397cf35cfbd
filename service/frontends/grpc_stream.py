"""One stream of frames: each is answered once, in order, within its own budget; a bounded number is in flight.

Frames are read as long as there is room, so that their budgets run and newer ones are known. Some of them are in
service at a time, which leaves the engine to others; the rest wait here. It knows no message and judges no frame: the
engine does, also those whose budget ran out while they waited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from service.core.request import OnMiss, RequestOptions
from service.errors import DeadlineExceeded, PhiserveError, StaleFrame

NS_PER_S = 1_000_000_000

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one stream.

    `frames_max`: frames read and not yet answered; beyond it the stream is not read, and its sender waits.
    `in_service_max`: those of them that are with the engine.
    """

    frames_max: int
    in_service_max: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it came. `options`: what is asked of its answer, or why that is no request."""

    frame_id: int
    image: bytes
    options: RequestOptions | PhiserveError


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Answer]):
    """A frame's answer, or why there is none; ready `held_ns` before those of earlier frames were sent."""

    frame_id: int
    result: Answer | Exception
    held_ns: int


@dataclass(frozen=True, slots=True)
class _Ready(Generic[Answer]):
    frame_id: int
    result: Answer | Exception
    at_ns: int


Infer: TypeAlias = Callable[[bytes, RequestOptions, int], Awaitable[Answer]]
"""Answers an image, with its options and the nanosecond it was received in, or raises why not."""


class FrameStream(Generic[Answer]):
    """Runs one stream from its first frame to its last."""

    def __init__(
        self,
        infer: Infer[Answer],
        limits: StreamLimits,
        *,
        now_ns: Callable[[], int],
        budget_ns_default: int,
        ending: asyncio.Event,
    ) -> None:
        """Once `ending` is set nothing more is read, and the stream ends when what was read is answered."""
        self._infer = infer
        self._now_ns = now_ns
        self._budget_ns_default = budget_ns_default
        self._ending = ending
        self._room = asyncio.Semaphore(limits.frames_max)
        self._service = asyncio.Semaphore(limits.in_service_max)
        self._arrived = 0

    async def run(
        self,
        read: Callable[[], Coroutine[Any, Any, Frame | None]],
        write: Callable[[Outcome[Answer]], Awaitable[None]],
    ) -> bool:
        """Answer every frame that `read` gives until it gives None; False if `ending` came first.

        Cancelling this cancels every frame that is in flight.

        Raises:
            whatever `read` and `write` raise; nothing is in flight then.
        """
        order: asyncio.Queue[asyncio.Task[_Ready[Answer]] | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read_all(read, order, group))
                turn_ns = 0
                while (settling := await order.get()) is not None:
                    # Not awaited itself: cancelling this would end that frame first and give its place to another.
                    await asyncio.wait((settling,))
                    ready = settling.result()
                    await write(Outcome(ready.frame_id, ready.result, max(0, turn_ns - ready.at_ns)))
                    turn_ns = self._now_ns()
                    self._room.release()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return reading.result()

    async def _read_all(
        self,
        read: Callable[[], Coroutine[Any, Any, Frame | None]],
        order: asyncio.Queue[asyncio.Task[_Ready[Answer]] | None],
        group: asyncio.TaskGroup,
    ) -> bool:
        """Put each frame to work, in order, and None behind the last; whether the sender said it was the last."""
        ending = asyncio.create_task(self._ending.wait())
        try:
            while True:
                await self._room.acquire()
                reading = asyncio.create_task(read())
                try:
                    await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    reading.cancel()  # what is done is not touched by it
                if not reading.done():
                    return False
                frame = reading.result()
                if frame is None:
                    return True
                self._arrived += 1
                order.put_nowait(group.create_task(self._settle(frame, self._arrived, self._now_ns())))
        finally:
            ending.cancel()
            order.put_nowait(None)

    async def _settle(self, frame: Frame, position: int, received_ns: int) -> _Ready[Answer]:
        result: Answer | Exception
        if isinstance(frame.options, PhiserveError):
            result = frame.options
        else:
            try:
                result = await self._serve(frame.image, frame.options, position, received_ns)
            except Exception as error:  # noqa: BLE001 - a frame's end, and not that of the stream
                result = error
        return _Ready(frame.frame_id, result, self._now_ns())

    async def _serve(self, image: bytes, options: RequestOptions, position: int, received_ns: int) -> Answer:
        has_place = await self._wait_for_place(options, received_ns)
        try:
            return await self._infer(image, options, received_ns)
        except DeadlineExceeded as error:
            if has_place and position == self._arrived:
                raise
            reason = "newer frames were waiting" if has_place else "too many frames of this stream were before it"
            raise StaleFrame(
                f"{error.detail} ({reason})", smallest_feasible_budget_ns=error.smallest_feasible_budget_ns
            ) from error
        finally:
            if has_place:
                self._service.release()

    async def _wait_for_place(self, options: RequestOptions, received_ns: int) -> bool:
        """False once the budget has run out: such a frame needs none, since the engine refuses it at the door."""
        left_s: float | None = None
        if options.policy.on_miss is OnMiss.REJECT:
            expires_ns = received_ns + (options.budget_ns or self._budget_ns_default)
            left_s = (expires_ns - self._now_ns()) / NS_PER_S
        try:
            async with asyncio.timeout(left_s):
                return await self._service.acquire()
        except TimeoutError:
            return False
