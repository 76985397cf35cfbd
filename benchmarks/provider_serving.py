"""The real server under callers who each send again as soon as they have their answer, and what became of it.

A closed loop: it shows what so many callers get, and says nothing about overload. Writes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop

from benchmarks.http_connection import ConnectionPool, get_bytes, loopback_address, post_bytes
from benchmarks.scores import Percentiles
from benchmarks.server_metrics import Samples, account, read_samples
from benchmarks.server_process import ServerProcess
from benchmarks.traffic import NS_PER_MS, NS_PER_S

MIX_MS = (10, 20, 40, 80, 160, 320)
"""Budgets of the mix, each as often as the others."""

AMPLE_MS = (5000,)
STAGES = ("decode", "queue", "preprocess", "inference")
_WARMUP_S = 1.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """So many callers with these budgets, all for one variant if `pinned`."""

    concurrency: int
    budgets_ms: tuple[int, ...]
    pinned: str | None = None

    def target(self, turn: int) -> str:
        """Path and query of the request at `turn`."""
        budget_ms = self.budgets_ms[turn % len(self.budgets_ms)]
        return f"/classify?budget_ms={budget_ms}" + ("" if self.pinned is None else f"&variant={self.pinned}")


@dataclass(frozen=True, slots=True)
class Answer:
    """One exchange by the caller's clock. `variant` is empty and `stages_ms` too where it was refused."""

    budget_ms: int
    took_ns: int
    status: int
    variant: str
    stages_ms: tuple[float, ...]

    @property
    def in_time(self) -> bool:
        """Answered within its budget."""
        return self.status == 200 and self.took_ns <= self.budget_ms * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Served:
    """What a load got. `loop_share`: how much of one core the event loop took; `batch_mean`: images of a run."""

    load: Load
    seconds: float
    answers: tuple[Answer, ...]
    loop_share: float
    batch_mean: float

    @property
    def answered(self) -> tuple[Answer, ...]:
        """Those with status 200."""
        return tuple(answer for answer in self.answers if answer.status == 200)

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.answered) / self.seconds

    @property
    def in_time(self) -> float:
        """Share of all requests that were answered within their budget."""
        return sum(answer.in_time for answer in self.answers) / max(1, len(self.answers))

    def latency_ms(self, percent: float) -> float:
        """A percentile over the answered."""
        return Percentiles(answer.took_ns / NS_PER_MS for answer in self.answered).at(percent)

    def stage_ms(self, index: int) -> float:
        """Median of a stage, in the order of `STAGES`, over the answered."""
        return Percentiles(answer.stages_ms[index] for answer in self.answered).at(50)

    def variants(self) -> Counter[str]:
        """Which answered how often."""
        return Counter(answer.variant for answer in self.answered)


def run(server: ServerProcess, load: Load, photographs: Sequence[Path], seconds: float) -> Served:
    """Put `load` on `server` for `seconds` after a second that is not counted."""
    return uvloop.run(_run(server, load, photographs, seconds))


async def _run(server: ServerProcess, load: Load, photographs: Sequence[Path], seconds: float) -> Served:
    address = loopback_address(server.url)
    bodies = [path.read_bytes() for path in photographs]
    pool = ConnectionPool(address, load.concurrency + 1)
    count = len(load.budgets_ms) * len(bodies)
    messages = [
        post_bytes(address, load.target(turn), bodies[turn % len(bodies)], "image/jpeg") for turn in range(count)
    ]
    kept: list[tuple[int, Answer]] = []
    ends_ns = time.monotonic_ns() + round((_WARMUP_S + seconds) * NS_PER_S)

    async def caller(first: int) -> None:
        turn = first
        while (sent_ns := time.monotonic_ns()) < ends_ns:
            at = turn % count
            answer = await pool.exchange(messages[at], _TIMEOUT_S)
            budget_ms = load.budgets_ms[at % len(load.budgets_ms)]
            took_ns = answer.received_ns - sent_ns
            kept.append((answer.received_ns, _read(budget_ms, took_ns, answer.status, answer.body)))
            turn += 1

    async def samples() -> Samples:
        page = await pool.exchange(get_bytes(address, "/metrics"), _TIMEOUT_S)
        return read_samples(page.body.decode())

    await pool.open(load.concurrency)
    async with asyncio.TaskGroup() as tasks:
        for index in range(load.concurrency):
            # Callers begin at different places of the mix.
            tasks.create_task(caller(index * 7))
        await asyncio.sleep(_WARMUP_S)
        before, loop_before_ns, began_ns = await samples(), server.event_loop_ns(), time.monotonic_ns()
    after, loop_after_ns, ended_ns = await samples(), server.event_loop_ns(), time.monotonic_ns()
    pool.close()
    answers = tuple(answer for received_ns, answer in kept if received_ns > began_ns)
    loop_ns = (loop_after_ns or 0) - (loop_before_ns or 0)
    runs = account(before, after).runs
    good = sum(answer.status == 200 for answer in answers)
    span_ns = ended_ns - began_ns
    return Served(load, span_ns / NS_PER_S, answers, loop_ns / span_ns, good / runs if runs else 0.0)


def _read(budget_ms: int, took_ns: int, status: int, body: bytes) -> Answer:
    if status != 200:
        return Answer(budget_ms, took_ns, status, "", ())
    said = orjson.loads(body)
    stages_ms = tuple(float(said["timings_ms"][stage]) for stage in STAGES)
    return Answer(budget_ms, took_ns, status, str(said["variant"]["name"]), stages_ms)
