"""Closed-loop callers over gRPC in a process of their own, as `wrk` is over HTTP: so many calls under way at a time.

The client is Python and shares the server's cores, so what it takes of them is told as well. Calls go to loopback only.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from benchmarks.grpc_connection import classify_method
from phiserve.v1 import classifier_pb2 as pb

NS_PER_S, NS_PER_MS = 1_000_000_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Called:
    """Answers a second, the median milliseconds of one, and the client's own core milliseconds for each."""

    per_s: float
    p50_ms: float
    own_ms: float


def call(
    grpc_url: str, variant: str, photographs: Sequence[bytes], *, budget_ms: float, concurrency: int, duration_s: float
) -> Called:
    """Keep `concurrency` calls under way for `duration_s`, each photograph in turn, `variant` pinned.

    Raises:
        grpc.aio.AioRpcError: a call failed: with a pinned variant and a patient budget none should.
    """
    requests = [
        pb.ClassifyRequest(image=image, variant=variant, budget_ms=budget_ms, top_k=5).SerializeToString()
        for image in photographs
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (grpc_url.removeprefix("grpc://"), requests, concurrency, duration_s))


def _run(address: str, requests: list[bytes], concurrency: int, duration_s: float) -> Called:
    return asyncio.run(_call(address, itertools.cycle(requests), concurrency, duration_s))


async def _call(address: str, requests: Iterator[bytes], concurrency: int, duration_s: float) -> Called:
    async with grpc.aio.insecure_channel(address) as channel:
        method = classify_method(channel)
        await method(next(requests))  # connected and warm
        took_ns: list[int] = []
        began_ns, own_ns = time.monotonic_ns(), time.process_time_ns()
        ends_ns = began_ns + round(duration_s * NS_PER_S)

        async def caller() -> None:
            while (sent_ns := time.monotonic_ns()) < ends_ns:
                await method(next(requests))
                took_ns.append(time.monotonic_ns() - sent_ns)

        await asyncio.gather(*(caller() for _ in range(concurrency)))
        seconds = (time.monotonic_ns() - began_ns) / NS_PER_S
        own_ms = (time.process_time_ns() - own_ns) / NS_PER_MS / len(took_ns)
    return Called(len(took_ns) / seconds, statistics.median(took_ns) / NS_PER_MS, own_ms)
