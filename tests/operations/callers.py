"""The kinds of callers: HTTP/1.1 and gRPC through a proxy, one try each, and how each of their requests ended.

What an answer means is read as phiserve's own client reads it: a refusal for load is one that the server itself wrote,
and whatever a proxy or a library made up because nothing came is a loss.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
import httpx

from phiserve import grpc_wire, http_wire
from phiserve.errors import DeadlineExceeded, Overloaded, PhiserveError, ServerError
from phiserve.v1.classifier_pb2 import ClassifyRequest
from phiserve.v1.classifier_pb2_grpc import ClassifierStub
from tests.operations.envoy import SERVED_BY, Proxy

ANSWERED = "answered"
PATIENCE_S = 5.0
"""How long a caller waits for one answer."""
_PER_TRY = "x-envoy-upstream-rq-per-try-timeout-ms"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one request ended: `outcome` is `ANSWERED`, or a status, or what broke. `server` is the port behind it.

    `refused`: a server said that the budget cannot or could not be met, or that it has no room.
    """

    outcome: str
    server: int | None = None
    variant: str | None = None
    refused: bool = False

    @property
    def lost(self) -> bool:
        """Neither answered nor refused: what no operation may cost."""
        return self.outcome != ANSWERED and not self.refused


Caller = Callable[[bytes, float], Awaitable[Ended]]
"""Sends one picture with a budget in milliseconds, and says how it ended."""


async def call_http(client: httpx.AsyncClient, image: bytes, budget_ms: float) -> Ended:
    try:
        response = await client.post("/classify", params={"budget_ms": budget_ms, "top_k": 1}, content=image)
    except httpx.TransportError as error:
        return Ended(type(error).__name__)
    server = int(response.headers[SERVED_BY]) if response.headers.get(SERVED_BY, "-").isdigit() else None
    try:
        answer = http_wire.classification(response.status_code, response.headers, response.content)
    except ServerError as error:
        return Ended(f"HTTP {response.status_code}", server, refused=_refused(error))
    return Ended(ANSWERED, server, answer.variant.name)


async def call_grpc(stub: ClassifierStub, image: bytes, budget_ms: float, *, bounds_tries: bool) -> Ended:
    """`bounds_tries`: the caller tells the proxy how long one try may take, as deploy/envoy/envoy.yaml offers."""
    metadata = ((_PER_TRY, str(round(budget_ms) + 250)),) if bounds_tries else ()
    request = ClassifyRequest(image=image, budget_ms=budget_ms, top_k=1)
    call = stub.Classify(request, timeout=PATIENCE_S, metadata=metadata)
    try:
        answer = await call
        headers = dict(await call.initial_metadata())
    except grpc.aio.AioRpcError as error:
        code, trailing = error.code().name, error.trailing_metadata() or ()
        return Ended(code, refused=_refused(grpc_wire.call_error(code, error.details() or "", trailing)))
    return Ended(ANSWERED, int(headers[SERVED_BY]), answer.variant.name)


def _refused(error: PhiserveError) -> bool:
    return isinstance(error, DeadlineExceeded | Overloaded)


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
