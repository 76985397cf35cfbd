"""Work beside the event loop has its result, its error or its end, and takes no more of a core than it may."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from service.side_thread import REST_S_MAX, AbandonedError, Pace, SideThreads


@pytest.mark.parametrize(("core_share", "rest_s"), [(1, 0.0), (0.5, 2.0), (0.25, 6.0), (0.01, REST_S_MAX)])
def test_work_takes_its_share_of_a_core(monkeypatch, core_share, rest_s) -> None:
    """Two seconds of work are followed by the rest that makes them this share, within a bound; rests are no work."""
    now_s, rests_s = [0.0], []

    def rest(timeout_s: float) -> bool:
        rests_s.append(timeout_s)
        now_s[0] += timeout_s
        return False

    monkeypatch.setattr("service.side_thread.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    pace = Pace(SimpleNamespace(wait=rest, is_set=lambda: False), core_share)
    for _ in range(2):
        now_s[0] += 2.0
        pace()
    assert rests_s == [rest_s, rest_s]


def test_who_waits_ends_the_rests_and_a_drain_the_work() -> None:
    """In a hurry there is no rest; when nobody needs the work any more, the next piece is not begun."""
    stopped, hurry = threading.Event(), threading.Event()
    hurry.set()
    pace = Pace(stopped, 1e-9, hurry)
    pace()
    stopped.set()
    with pytest.raises(AbandonedError):
        pace()


def test_results_and_errors_come_back() -> None:
    """Whoever awaits gets what the work gave or raised, and the work had a thread of that name."""

    async def scenario() -> None:
        threads = SideThreads("beside")
        assert await threads.run(lambda: threading.current_thread().name) == "beside"
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        assert threads.join(time.monotonic() + 60)

    asyncio.run(scenario())
