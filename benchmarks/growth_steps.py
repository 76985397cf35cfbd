"""One step of growth on a real server: so many callers, so large a picture, so long a queue. Judges nothing.

`closed_loop` keeps a number of callers busy; `offer` sends what falls due, however much that is, and has the server's
event loop probed meanwhile. `by_queue` sorts what came of it by how many requests were under way already.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvloop

from benchmarks.event_loop_probe import EventLoopProbe
from benchmarks.http_connection import Address, ConnectionFailed, ConnectionPool, HttpAnswer, loopback_address
from benchmarks.load_generator import NO_ANSWER, Outcome, replay
from benchmarks.scores import Percentiles
from benchmarks.traffic import NS_PER_MS, NS_PER_S, ScheduledRequest

WARM_UP_S = 0.5
CONNECTIONS_MAX = 1200
_CONNECTIONS_READY = 64
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """`at` callers or megapixels: answers a second, their latencies, and of all requests the share within budget."""

    at: float
    per_s: float
    p50_ms: float
    p99_ms: float
    in_time: float


@dataclass(frozen=True, slots=True)
class Queued:
    """Requests that were sent when at least `ahead` others were under way: how many were answered, and refused.

    `place_ms`: median latency of answers over the requests ahead, itself included: what one place in the queue costs.
    """

    ahead: int
    answered: int
    refused: int
    place_ms: float
    p99_ms: float
    refusal_p99_ms: float


class Load:
    """Requests to one server; `message` gives the bytes of one."""

    def __init__(self, url: str, message: Callable[[Address, ScheduledRequest], bytes]) -> None:
        """Nothing is sent yet."""
        self._address = loopback_address(url)
        self._message = message

    def closed_loop(self, at: float, *, callers: int, duration_s: float, budget_s: float, turns: int) -> Step:
        """`callers` callers, each with one request under way, who turn through `turns` photographs.

        Who is refused asks again after a budget's length: at once would be a load that no client should be.
        """
        return uvloop.run(self._closed_loop(at, callers, duration_s, budget_s, turns))

    async def _closed_loop(self, at: float, callers: int, duration_s: float, budget_s: float, turns: int) -> Step:
        pool = ConnectionPool(self._address, CONNECTIONS_MAX)
        budget_ns = round(budget_s * NS_PER_S)
        messages = [self._message(self._address, ScheduledRequest(0, budget_ns, turn)) for turn in range(turns)]
        await pool.open(callers)
        counts_from_ns = time.monotonic_ns() + round(WARM_UP_S * NS_PER_S)
        ends_ns = counts_from_ns + round(duration_s * NS_PER_S)
        ended: list[tuple[int, int]] = []

        async def caller(first: int) -> None:
            turn = first
            while (sent_ns := time.monotonic_ns()) < ends_ns:
                answer = await _exchange(pool, messages[turn % turns])
                if counts_from_ns <= answer.received_ns < ends_ns:
                    ended.append((answer.status, answer.received_ns - sent_ns))
                if answer.status != 200:
                    await asyncio.sleep(min(budget_s, max(0.0, (ends_ns - time.monotonic_ns()) / NS_PER_S)))
                turn += 1

        async with asyncio.TaskGroup() as group:
            for first in range(callers):
                group.create_task(caller(first))
        pool.close()
        return step(at, ended, duration_s, budget_s)

    def offer(self, requests: Sequence[ScheduledRequest]) -> tuple[list[Outcome], list[float]]:
        """An open loop; and meanwhile, how long each probe of the event loop took, in milliseconds."""

        async def send() -> list[Outcome]:
            pool = ConnectionPool(self._address, CONNECTIONS_MAX)
            await pool.open(_CONNECTIONS_READY)
            try:
                return await replay(pool, requests, lambda request: self._message(self._address, request))
            finally:
                pool.close()

        with EventLoopProbe(self._address) as probe:
            outcomes = uvloop.run(send())
        return outcomes, probe.took_ms


async def _exchange(pool: ConnectionPool, message: bytes) -> HttpAnswer:
    with contextlib.suppress(TimeoutError, ConnectionFailed, OSError):
        return await pool.exchange(message, _PATIENCE_S)
    return HttpAnswer(NO_ANSWER, b"", time.monotonic_ns())


def step(at: float, ended: Sequence[tuple[int, int]], duration_s: float, budget_s: float) -> Step:
    """What (status, latency) of the requests that ended within `duration_s` come to."""
    answered_ms = [latency_ns / NS_PER_MS for status, latency_ns in ended if status == 200]
    latencies = Percentiles(answered_ms)
    in_time = sum(latency_ms <= 1000 * budget_s for latency_ms in answered_ms)
    return Step(at, len(answered_ms) / duration_s, latencies.at(50), latencies.at(99), in_time / max(1, len(ended)))


def by_queue(outcomes: Sequence[Outcome], bounds: Sequence[int]) -> list[Queued]:
    """Rows for requests with `bounds[i]` to `bounds[i + 1] - 1` others under way, the last without an upper end."""
    ends = sorted(outcome.ended_ns for outcome in outcomes)
    rows: dict[int, list[tuple[int, Outcome]]] = {bound: [] for bound in bounds}
    for number, outcome in enumerate(sorted(outcomes, key=lambda outcome: outcome.sent_ns)):
        ahead = number - bisect.bisect_right(ends, outcome.sent_ns)
        rows[bounds[bisect.bisect_right(bounds, ahead) - 1]].append((ahead, outcome))
    return [_queued(bound, found) for bound, found in rows.items() if found]


def _queued(bound: int, found: Sequence[tuple[int, Outcome]]) -> Queued:
    answered = [(ahead, outcome.latency_from_sent_ns / NS_PER_MS) for ahead, outcome in found if outcome.status == 200]
    refused = [outcome.latency_from_sent_ns / NS_PER_MS for _, outcome in found if outcome.status != 200]
    return Queued(
        bound,
        len(answered),
        len(refused),
        place_ms=Percentiles(latency_ms / (ahead + 1) for ahead, latency_ms in answered).at(50),
        p99_ms=Percentiles(latency_ms for _, latency_ms in answered).at(99),
        refusal_p99_ms=Percentiles(refused).at(99),
    )
