"""Sends requests at their scheduled times, whatever the server does (an open loop), and keeps what came back.

A server that stalls gets the requests that fall due meanwhile nevertheless, and each one's latency counts from when
it was due: leaving either out would hide the stall, which is called coordinated omission. The one closed loop here,
`saturate`, is for measuring capacity. Judges nothing; `scores.py` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.http_connection import ConnectionFailed, ConnectionPool, HttpAnswer
from benchmarks.traffic import NS_PER_MS, NS_PER_S, ScheduledRequest

NO_ANSWER = 0
"""The status of a request whose connection broke, or that had no answer in time."""

NOT_SENT = -1
"""The status of a request that fell due when as many were under way as the generator allows."""

GRACE_S = 5.0
"""How long after its budget an answer is waited for; then its connection is closed."""

RequestBytes = Callable[[ScheduledRequest], bytes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Times in nanoseconds from the start of the run; `status` as HTTP or see above."""

    request: ScheduledRequest
    sent_ns: int
    ended_ns: int
    status: int
    body: bytes

    @property
    def latency_ns(self) -> int:
        """From when the request was due."""
        return self.ended_ns - self.request.at_ns

    @property
    def latency_from_sent_ns(self) -> int:
        """From when it was really sent."""
        return self.ended_ns - self.sent_ns

    @property
    def send_lag_ns(self) -> int:
        """How late the generator itself was."""
        return self.sent_ns - self.request.at_ns


async def replay(pool: ConnectionPool, requests: Sequence[ScheduledRequest], to_bytes: RequestBytes) -> list[Outcome]:
    """Send each request when it is due; returns when the last one has ended, in the order of `requests`.

    Bounded in requests under way by the pool, and in time by each request's budget and `GRACE_S`.
    """
    # Made before the clock starts: building a request copies its photograph.
    ready = [to_bytes(request) for request in requests]
    started_ns = time.monotonic_ns()
    tasks: list[asyncio.Task[Outcome]] = []
    for request, message in zip(requests, ready, strict=True):
        wait_ns = started_ns + request.at_ns - time.monotonic_ns()
        # Whole milliseconds, rounded up: loops count in those, and one that rounds down would send before the time.
        # Also when it is overdue, since answers must be read in between.
        await asyncio.sleep(max(0, -(-wait_ns // NS_PER_MS)) / 1000)
        tasks.append(asyncio.create_task(_send(pool, request, message, started_ns)))
    return [await task for task in tasks]


async def _send(pool: ConnectionPool, request: ScheduledRequest, message: bytes, started_ns: int) -> Outcome:
    sent_ns = time.monotonic_ns()
    if pool.is_full:
        return Outcome(request, sent_ns - started_ns, sent_ns - started_ns, NOT_SENT, b"")
    try:
        answer = await pool.exchange(message, request.budget_ns / NS_PER_S + GRACE_S)
    except (TimeoutError, ConnectionFailed, OSError):
        answer = HttpAnswer(NO_ANSWER, b"", time.monotonic_ns())
    return Outcome(request, sent_ns - started_ns, answer.received_ns - started_ns, answer.status, answer.body)


async def saturate(
    pool: ConnectionPool, messages: Sequence[bytes], *, concurrency: int, warmup_s: float, duration_s: float
) -> float:
    """Answers a second with `concurrency` callers who each send again as soon as they have their answer.

    Only answers that come after `warmup_s`, within `duration_s`, are counted.

    Raises:
        RuntimeError: an answer was not 200, so what was measured would not be capacity.
    """
    started_ns = time.monotonic_ns()
    counts_from_ns = started_ns + round(warmup_s * NS_PER_S)
    ends_ns = counts_from_ns + round(duration_s * NS_PER_S)
    counted = 0

    async def caller(first: int) -> None:
        nonlocal counted
        turn = first
        while time.monotonic_ns() < ends_ns:
            answer = await pool.exchange(messages[turn % len(messages)], duration_s + GRACE_S)
            if answer.status != 200:
                raise RuntimeError(f"the server answered {answer.status} at saturation: {answer.body[:300]!r}")
            counted += counts_from_ns <= answer.received_ns < ends_ns
            turn += 1

    async with asyncio.TaskGroup() as callers:
        for first in range(concurrency):
            callers.create_task(caller(first))
    return counted / duration_s
