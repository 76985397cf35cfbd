"""Steady traffic in an open loop, how much of it there may be, and what became of each request. Retries nothing itself.

Open loop: a request is sent when it is due, at random times of a seeded generator, whatever became of those before.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.operations.callers import ANSWERED, Caller, Ended

_MEASURED_BUDGET_MS = 4000.0
_MEASURED_REQUESTS = 30


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: its kind of caller, when it was sent and how long it took (seconds), and how it ended."""

    kind: str
    at_s: float
    took_s: float
    ended: Ended


class Traffic:
    """Callers of several kinds, `rate` requests a second of each, between `start` and `stop`."""

    def __init__(self, callers: Mapping[str, Caller], image: bytes, *, rate: float, budget_ms: float) -> None:
        self.rate, self.budget_ms = rate, budget_ms
        self.sent: list[Sent] = []
        self._callers, self._image = callers, image
        self._chance = random.Random(20)
        self._loop = asyncio.get_running_loop()
        self._due: dict[str, asyncio.TimerHandle] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    def start(self) -> None:
        for kind in self._callers:
            self._schedule(kind, self._loop.time())

    async def stop(self) -> None:
        """Send nothing more, and wait for what is open."""
        for timer in self._due.values():
            timer.cancel()
        self._due.clear()
        await asyncio.gather(*self._calls)

    async def until_served_by(self, servers: Mapping[str, int]) -> None:
        """Wait until a request that is sent from now on was answered by this server, for each kind of caller."""
        await self._until(lambda kind, sent: kind == sent.kind and sent.ended.server == servers[kind])

    async def until_sent(self, count: int) -> None:
        """Wait for as many more requests of each kind to end."""
        for _ in range(count):
            await self._until(lambda kind, sent: kind == sent.kind)

    async def _until(self, wanted: Callable[[str, Sent], bool]) -> None:
        since_s, seen, missing = self._loop.time(), len(self.sent), set(self._callers)
        async with asyncio.timeout(60), self._changed:
            while missing:
                await self._changed.wait()
                fresh = [sent for sent in self.sent[seen:] if sent.at_s >= since_s]
                missing = {kind for kind in missing if not any(wanted(kind, sent) for sent in fresh)}

    def _schedule(self, kind: str, after_s: float) -> None:
        due_s = after_s + self._chance.expovariate(self.rate)
        self._due[kind] = self._loop.call_at(due_s, self._send, kind, due_s)

    def _send(self, kind: str, due_s: float) -> None:
        self._schedule(kind, due_s)
        call = self._loop.create_task(self._call(kind))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, kind: str) -> None:
        at_s = self._loop.time()
        ended = await self._callers[kind](self._image, self.budget_ms)
        self.sent.append(Sent(kind, at_s, self._loop.time() - at_s, ended))
        async with self._changed:
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of all requests of one kind: `lost` by what broke, `refused` by status."""

    kind: str
    sent: int
    lost: Counter[str]
    refused: Counter[str]
    late: int
    slowest_ms: int


def summaries(traffic: Traffic) -> list[Summary]:
    """By kind of caller. Late: answered after the budget and the quarter of a second that a try has beyond it."""
    patience_s = traffic.budget_ms / 1000 + 0.25
    found = []
    for kind in dict.fromkeys(sent.kind for sent in traffic.sent):
        mine = [sent for sent in traffic.sent if sent.kind == kind]
        lost = Counter(sent.ended.outcome for sent in mine if sent.ended.lost)
        refused = Counter(sent.ended.outcome for sent in mine if sent.ended.refused)
        late = sum(sent.took_s > patience_s for sent in mine if sent.ended.outcome == ANSWERED)
        found.append(Summary(kind, len(mine), lost, refused, late, round(max(sent.took_s for sent in mine) * 1000)))
    return found


async def capacity_per_s(caller: Caller, image: bytes, servers: int) -> float:
    """Answers a second that the fleet gives now, with what its callers, the proxy and others leave it of the machine.

    Two callers for each server ask without a pause, and with a budget that none of them runs out of.
    """

    async def ask() -> int:
        ended = [await caller(image, _MEASURED_BUDGET_MS) for _ in range(_MEASURED_REQUESTS)]
        return sum(one.outcome == ANSWERED for one in ended)

    began_s = time.monotonic()
    answered = await asyncio.gather(*(ask() for _ in range(2 * servers)))
    return sum(answered) / (time.monotonic() - began_s)
