"""One image at a time over REST and over gRPC, by phiserve's own client and by the least that a client can do.

All four take turns, image by image, so that whatever else the machine does meets each alike. A call's overhead is what
it takes beyond what the server says its budget counted: both ends' libraries, the loopback between them, and the
server's reading and writing. Calls go to loopback only.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc

from benchmarks.grpc_connection import classify_method
from benchmarks.http_connection import HttpConnection, loopback_address, post_bytes
from phiserve import AsyncClient
from phiserve.v1 import classifier_pb2 as pb

NS_PER_MS = 1_000_000
BUDGET_MS = 5000
TOP_K = 5
_NOT_MEASURED = 3
"""Calls of each kind before the first that counts: connections are opened, code is warm."""

Call = Callable[[], Awaitable[float]]
"""Sends one image; gives what the server's budget counted, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Took:
    """Medians of one kind in one round, in milliseconds."""

    call_ms: float
    overhead_ms: float


Round = dict[str, Took]
KINDS = ("REST, phiserve's client", "gRPC, phiserve's client", "REST, bytes", "gRPC, bytes")


async def measure(
    url: str, grpc_url: str, variant: str, images: Sequence[bytes], *, rounds: int, calls: int
) -> list[Round]:
    """`rounds` of `calls` calls of each kind, with `variant` pinned."""
    async with AsyncExitStack() as stack:
        kinds: dict[str, Iterator[Call]] = {}
        for name, address in zip(KINDS[:2], (url, grpc_url), strict=True):
            client = await stack.enter_async_context(AsyncClient(address))
            kinds[name] = _client_calls(client, variant, images)
        connection = await HttpConnection.open(loopback_address(url))
        stack.callback(connection.close)
        kinds[KINDS[2]] = _rest_calls(connection, url, variant, images)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(grpc_url.removeprefix("grpc://")))
        kinds[KINDS[3]] = _grpc_calls(channel, variant, images)
        await _round(kinds, _NOT_MEASURED)
        return [await _round(kinds, calls) for _ in range(rounds)]


async def _round(kinds: dict[str, Iterator[Call]], calls: int) -> Round:
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(calls):
        for name, prepared in kinds.items():
            call = next(prepared)
            began_ns = time.monotonic_ns()
            server_ms = await call()
            call_ms = (time.monotonic_ns() - began_ns) / NS_PER_MS
            took[name].append((call_ms, call_ms - server_ms))
    return {
        name: Took(statistics.median(call for call, _ in both), statistics.median(over for _, over in both))
        for name, both in took.items()
    }


def _client_calls(client: AsyncClient, variant: str, images: Sequence[bytes]) -> Iterator[Call]:
    async def call(image: bytes) -> float:
        answer = await client.classify(image, variant=variant, budget_ms=BUDGET_MS, top_k=TOP_K)
        return answer.timings_ms.total

    for image in itertools.cycle(images):
        yield functools.partial(call, image)


def _rest_calls(connection: HttpConnection, url: str, variant: str, images: Sequence[bytes]) -> Iterator[Call]:
    target = f"/classify?variant={variant}&budget_ms={BUDGET_MS}&top_k={TOP_K}"
    requests = [post_bytes(loopback_address(url), target, image, "image/jpeg") for image in images]

    async def call(request: bytes) -> float:
        answer = await connection.exchange(request)
        if answer.status != 200:
            raise ValueError(f"the server answered {answer.status}: {answer.body[:500]!r}")
        return float(json.loads(answer.body)["timings_ms"]["total"])

    for request in itertools.cycle(requests):
        yield functools.partial(call, request)


def _grpc_calls(channel: grpc.aio.Channel, variant: str, images: Sequence[bytes]) -> Iterator[Call]:
    method = classify_method(channel)
    requests = [
        pb.ClassifyRequest(image=image, variant=variant, budget_ms=BUDGET_MS, top_k=TOP_K).SerializeToString()
        for image in images
    ]

    async def call(request: bytes) -> float:
        return pb.ClassifyResponse.FromString(await method(request)).timings.total_ms

    for request in itertools.cycle(requests):
        yield functools.partial(call, request)
