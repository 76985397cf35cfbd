"""Calls from other threads to an event loop, handed over without holding the interpreter lock while it is woken.

uvloop's `call_soon_threadsafe` writes to the loop's file descriptor with the lock held. Where cores are few the kernel
lets the woken loop run in place of the thread that woke it, which then sleeps with the lock in its hands, and the loop
waits for it: a tenth of the time of a loaded server on two cores. `os` lets go of the lock for the same write.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any


class LoopMail:
    """One event loop's letter box. Made on the loop's own thread, by `of`; `post` is for any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_told = False
        self._wake, opened = _wake_up_call(loop, self._deliver)
        # The loop may be closed by whoever runs it, without a word to us.
        weakref.finalize(loop, _close, opened)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopMail:
        """The letter box of `loop`, which must be running on this thread."""
        mail = _boxes.get(loop)
        if mail is None:
            mail = _boxes[loop] = cls(loop)
        return mail

    def post(self, call: Callable[..., object], *args: object) -> None:
        """Have the loop call `call(*args)` soon, in the order of posting.

        Raises:
            RuntimeError: the loop is closed.
        """
        self.put(call, *args)
        self.wake()

    def put(self, call: Callable[..., object], *args: object) -> None:
        """As `post`, but leave it to `wake` that the loop notices.

        Raises:
            RuntimeError: the loop is closed.
        """
        loop = self._loop()
        if loop is None or loop.is_closed():
            raise RuntimeError("the event loop is closed")
        self._calls.append((call, args))

    def wake(self) -> None:
        """Have the loop notice what was put."""
        # Told already, but not yet come: one wake-up is enough. Two threads may both tell it, which does no harm.
        if not self._is_told:
            self._is_told = True
            self._wake()

    def _deliver(self) -> None:
        # First, so that whatever is posted from here on tells the loop anew.
        self._is_told = False
        for _ in range(len(self._calls)):
            call, args = self._calls.popleft()
            try:
                call(*args)
            except Exception as error:  # noqa: BLE001  as the loop treats its own callbacks: told, and the others are called
                loop = self._loop()
                assert loop is not None, "it is calling this"
                loop.call_exception_handler({"message": f"exception in {call!r}", "exception": error})


_boxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMail] = weakref.WeakKeyDictionary()


def _wake_up_call(
    loop: asyncio.AbstractEventLoop, deliver: Callable[[], None]
) -> tuple[Callable[[], None], tuple[int, ...]]:
    """What wakes `loop` to call `deliver`, and the file descriptors it takes."""
    if hasattr(os, "eventfd"):
        counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        heard = told = counter
        opened: tuple[int, ...] = (counter,)
    else:
        heard, told = opened = os.pipe()
        os.set_blocking(heard, False)

    def hear() -> None:
        os.read(heard, 4096)
        deliver()

    def wake() -> None:
        os.write(told, _ONE)

    loop.add_reader(heard, hear)
    return wake, opened


_ONE = (1).to_bytes(8, sys.byteorder)
"""What an event counter is told; a pipe takes any bytes."""


def _close(opened: tuple[int, ...]) -> None:
    for descriptor in opened:
        os.close(descriptor)
