"""The mixed traffic of a soak: sizes, formats, REST and gRPC, broken pictures, and callers who leave.

An open loop of Poisson arrivals with a bound of calls under way. Counts how calls ended and keeps nothing of them.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from benchmarks.grpc_connection import classify_method
from benchmarks.http_connection import ConnectionFailed, ConnectionPool, HttpConnection, loopback_address, post_bytes
from benchmarks.load_generator import saturate
from benchmarks.pictures import MEDIA_TYPES, broken_pictures, photograph_of
from phiserve.v1 import classifier_pb2 as pb

MEGAPIXELS = (0.1, 0.25, 0.5, 1.0, 2.0, 6.0)
FORMATS = ("JPEG", "JPEG", "PNG", "WEBP")
"""Of each size; the larger PNGs are left out: they would be most of what is decoded."""

PNG_MEGAPIXELS_MAX = 0.5
BUDGETS_MS = (50.0, 250.0, 1000.0, 5000.0)
BROKEN, LEAVING, OVER_GRPC = 0.03, 0.03, 0.4
"""Shares of all calls: pictures that are none, callers who leave before their answer, calls over gRPC."""

IN_FLIGHT_MAX = 256
_WAIT_S = 30.0
_LEAVES_WITHIN_S = 0.02


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and its media type."""

    content: bytes
    media_type: str


def mixed_pictures(photographs: Sequence[bytes]) -> list[Picture]:
    """Every size in every format, the photographs in turn."""
    turn = itertools.cycle(photographs)
    return [
        Picture(photograph_of(next(turn), megapixels, name), MEDIA_TYPES[name])
        for megapixels in MEGAPIXELS
        for name in FORMATS
        if name != "PNG" or megapixels <= PNG_MEGAPIXELS_MAX
    ]


class Callers:
    """Calls to one server over both wires, each kind drawn from a seed."""

    def __init__(self, url: str, grpc_url: str, photographs: Sequence[bytes], seed: int = 0) -> None:
        """Nothing is sent yet."""
        self.endings: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._pictures = mixed_pictures(photographs)
        self._broken = broken_pictures(photographs[0])
        self._pool = ConnectionPool(loopback_address(url), IN_FLIGHT_MAX)
        self._channel = grpc.aio.insecure_channel(grpc_url.removeprefix("grpc://"))
        self._classify = classify_method(self._channel)

    async def capacity_per_s(self, duration_s: float) -> float:
        """Answers a second to whole pictures over REST at saturation, the server choosing within a second."""
        messages = [
            post_bytes(self._pool.address, "/classify?budget_ms=5000", picture.content, picture.media_type)
            for picture in self._pictures
        ]
        return await saturate(self._pool, messages, concurrency=8, warmup_s=2.0, duration_s=duration_s)

    async def send(self, per_s: float, duration_s: float) -> None:
        """Call `per_s` times a second for `duration_s`, and wait for what is under way then."""
        under_way: set[asyncio.Task[None]] = set()
        started_s = due_s = time.monotonic()
        while due_s < started_s + duration_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if len(under_way) < IN_FLIGHT_MAX:
                under_way.add(task := asyncio.create_task(self._call()))
                task.add_done_callback(under_way.discard)
            else:
                self.endings["not sent"] += 1
            due_s += self._random.expovariate(per_s)
        await asyncio.gather(*under_way)

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()
        await self._channel.close()

    async def _call(self) -> None:
        draw = self._random.random()
        budget_ms = self._random.choice(BUDGETS_MS)
        picture = self._random.choice(self._pictures)
        over_grpc = self._random.random() < OVER_GRPC
        wire = "gRPC" if over_grpc else "REST"
        if draw < BROKEN:
            picture = Picture(self._random.choice(self._broken), "image/jpeg")
            wire += ", broken"
        elif draw < BROKEN + LEAVING:
            wire += ", left"
        leaves = BROKEN <= draw < BROKEN + LEAVING
        ended = await (self._grpc if over_grpc else self._rest)(picture, budget_ms, leaves=leaves)
        self.endings[f"{wire}: {ended}"] += 1

    async def _rest(self, picture: Picture, budget_ms: float, *, leaves: bool) -> str:
        target = f"/classify?budget_ms={budget_ms:g}"
        message = post_bytes(self._pool.address, target, picture.content, picture.media_type)
        try:
            if leaves:
                return await self._leave_rest(message)
            return str((await self._pool.exchange(message, _WAIT_S)).status)
        except (TimeoutError, ConnectionFailed, OSError) as error:
            return type(error).__name__

    async def _leave_rest(self, message: bytes) -> str:
        """On a connection of its own, which half of the callers end in the middle of their body."""
        connection = await HttpConnection.open(self._pool.address)
        half = self._random.random() < 0.5
        exchange = asyncio.create_task(connection.exchange(message[: len(message) // 2] if half else message))
        done, _ = await asyncio.wait([exchange], timeout=self._random.uniform(0.0, _LEAVES_WITHIN_S))
        if done:
            connection.close()
            return str(exchange.result().status)
        exchange.cancel()
        await asyncio.wait([exchange])
        return "gone"

    async def _grpc(self, picture: Picture, budget_ms: float, *, leaves: bool) -> str:
        request = pb.ClassifyRequest(image=picture.content, budget_ms=budget_ms).SerializeToString()
        call = self._classify(request, timeout=_WAIT_S)
        try:
            if leaves:
                await asyncio.sleep(self._random.uniform(0.0, _LEAVES_WITHIN_S))
                if call.cancel():
                    return "gone"
            await call
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"
