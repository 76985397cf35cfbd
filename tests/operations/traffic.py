"""Steady traffic over HTTP/1.1 and gRPC in an open loop, and what became of each request. It retries nothing itself.

Open loop: a request is sent when it is due, at random times of a seeded generator, whatever became of those before.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
import httpx

from phiserve.v1.classifier_pb2 import ClassifyRequest
from phiserve.v1.classifier_pb2_grpc import ClassifierStub
from tests.operations.envoy import SERVED_BY, Proxy

ANSWERED = "answered"
PATIENCE_S = 5.0
"""How long a caller waits for one answer."""
_PER_TRY = "x-envoy-upstream-rq-per-try-timeout-ms"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one request ended: `outcome` is `ANSWERED`, or a status, or what broke. `server` is the port behind it."""

    outcome: str
    server: int | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: its kind of caller, when it was sent and how long it took (seconds), and how it ended."""

    kind: str
    at_s: float
    took_s: float
    ended: Ended


Caller = Callable[[bytes, float], Awaitable[Ended]]
"""Sends one picture with a budget in milliseconds, and says how it ended."""


async def call_http(client: httpx.AsyncClient, image: bytes, budget_ms: float) -> Ended:
    try:
        response = await client.post("/classify", params={"budget_ms": budget_ms, "top_k": 1}, content=image)
    except httpx.TransportError as error:
        return Ended(type(error).__name__)
    server = int(response.headers[SERVED_BY]) if response.headers.get(SERVED_BY, "-").isdigit() else None
    if response.status_code != httpx.codes.OK:
        return Ended(f"HTTP {response.status_code}", server)
    return Ended(ANSWERED, server, response.json()["variant"]["name"])


async def call_grpc(stub: ClassifierStub, image: bytes, budget_ms: float, *, bounds_tries: bool) -> Ended:
    """`bounds_tries`: the caller tells the proxy how long one try may take, as deploy/envoy/envoy.yaml offers."""
    metadata = ((_PER_TRY, str(round(budget_ms) + 250)),) if bounds_tries else ()
    request = ClassifyRequest(image=image, budget_ms=budget_ms, top_k=1)
    call = stub.Classify(request, timeout=PATIENCE_S, metadata=metadata)
    try:
        answer = await call
        headers = dict(await call.initial_metadata())
    except grpc.aio.AioRpcError as error:
        return Ended(error.code().name)
    return Ended(ANSWERED, int(headers[SERVED_BY]), answer.variant.name)


class Traffic:
    """Callers of several kinds, `rate` requests a second of each, between `start` and `stop`."""

    def __init__(self, callers: Mapping[str, Caller], image: bytes, *, rate: float, budget_ms: float) -> None:
        self.budget_ms = budget_ms
        self.sent: list[Sent] = []
        self._callers, self._image, self._rate = callers, image, rate
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
        due_s = after_s + self._chance.expovariate(self._rate)
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
    """What became of all requests of one kind."""

    kind: str
    sent: int
    failed: Counter[str]
    late: int
    slowest_ms: int


def summaries(traffic: Traffic) -> list[Summary]:
    """By kind of caller. Late: answered after the budget and the quarter of a second that a try has beyond it."""
    patience_s = traffic.budget_ms / 1000 + 0.25
    found = []
    for kind in dict.fromkeys(sent.kind for sent in traffic.sent):
        mine = [sent for sent in traffic.sent if sent.kind == kind]
        failed = Counter(sent.ended.outcome for sent in mine if sent.ended.outcome != ANSWERED)
        late = sum(sent.took_s > patience_s for sent in mine if sent.ended.outcome == ANSWERED)
        found.append(Summary(kind, len(mine), failed, late, round(max(sent.took_s for sent in mine) * 1000)))
    return found


class Callers:
    """The three kinds of callers through one proxy; their connections end with the block."""

    HTTP, GRPC, GRPC_BOUNDED = "HTTP", "gRPC", "gRPC, tries bounded"

    def __init__(self, proxy: Proxy) -> None:
        self._http = httpx.AsyncClient(base_url=proxy.rest_url, timeout=PATIENCE_S)
        self._channel = grpc.aio.insecure_channel(proxy.grpc_address)
        stub = ClassifierStub(self._channel)
        self.by_kind: dict[str, Caller] = {
            self.HTTP: lambda image, budget_ms: call_http(self._http, image, budget_ms),
            self.GRPC: lambda image, budget_ms: call_grpc(stub, image, budget_ms, bounds_tries=False),
            self.GRPC_BOUNDED: lambda image, budget_ms: call_grpc(stub, image, budget_ms, bounds_tries=True),
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await self._channel.close()
