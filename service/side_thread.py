"""Work beside the event loop: on a thread that cannot keep the process alive, and in pieces with rests between.

Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

REST_S_MAX = 10.0
"""Rest for no longer after one piece of work, so that a graph which takes seconds to load does not take minutes."""

Result = TypeVar("Result")


class AbandonedError(Exception):
    """The server drains: nobody needs what the work was for."""


class SideThreads:
    """Threads for one piece of work each, with one name."""

    def __init__(self, name: str) -> None:
        """None runs yet."""
        self._name = name
        self._threads: list[threading.Thread] = []

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, or what it raised. Who is cancelled here does not end the work."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result] = loop.create_future()

        def settle(result: Result | None, error: BaseException | None) -> None:
            if not ended.done():
                ended.set_exception(error) if error is not None else ended.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result: Result | None = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001  handed to whoever waits
                error = raised
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                logger.info("the server ended during a %s", self._name)  # and its loop with it

        thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()
        return await ended

    def join(self, ends_s: float) -> bool:
        """Wait for all until `ends_s` by `time.monotonic`; False if one still runs then."""
        for thread in self._threads:
            thread.join(max(0.0, ends_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


class Pace:
    """Rests after each piece of work, since whoever is served needs the cores."""

    def __init__(self, stopped: threading.Event, core_share: float, hurry: threading.Event | None = None) -> None:
        """`core_share`: of a core, what the work takes on average, up to 1.

        `stopped` ends the work with an `AbandonedError`; while `hurry` is set there is no rest.
        """
        self._stopped = stopped
        self._rest = 1 / core_share - 1  # for so many times as long as each piece of work took
        self._hurry = hurry or stopped
        self._began_s = time.monotonic()

    def __call__(self) -> None:
        """A piece of work is over.

        Raises:
            AbandonedError: nobody needs the next one.
        """
        worked_s = time.monotonic() - self._began_s
        self._hurry.wait(min(worked_s * self._rest, REST_S_MAX))
        if self._stopped.is_set():
            raise AbandonedError
        self._began_s = time.monotonic()
