"""Who calls over gRPC, as the key that fairness goes by: the same for one host over every wire."""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc

from service.frontends.callers import FORWARDED_FOR, Callers

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def client_of(context: Context, callers: Callers) -> str:
    """The address of whoever calls, seen through the proxies that `callers` trusts."""
    if not callers.trusted:
        return host_of(context.peer())
    metadata = context.invocation_metadata() or ()
    forwarded = [value for key, value in metadata if key == FORWARDED_FOR and isinstance(value, str)]
    return callers.of(host_of(context.peer()), forwarded)


def host_of(peer: str) -> str:
    """The address in gRPC's "ipv4:192.0.2.7:4321" or "ipv6:%5B::1%5D:4321"; anything else, such as a path, as it is."""
    kind, _, address = peer.partition(":")
    return unquote(address).rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else peer
