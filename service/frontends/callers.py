"""Who calls, where proxies stand in between: the key that fairness goes by. It trusts nobody who was not named.

A proxy appends whom it was called by to `X-Forwarded-For`. What stands left of the last untrusted address may have
been made up by the caller. For HTTP uvicorn reads the header by the same rules; this is for gRPC.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED_FOR = "x-forwarded-for"


@dataclass(frozen=True, slots=True)
class Callers:
    """Tells callers apart; `trusted` are the networks of the proxies in front."""

    trusted: tuple[Network, ...] = ()

    def of(self, peer: str, forwarded_for: Iterable[str]) -> str:
        """Who calls: `peer`, the other end of the connection, or whom a trusted one says that it calls for.

        `forwarded_for`: the values of the header, in their order. Read from the right: the first address that is not
        trusted, or the leftmost if all are.
        """
        if not self._trusts(peer):
            return peer
        hops = [hop for value in forwarded_for for hop in map(_host, value.split(",")) if hop]
        return next((hop for hop in reversed(hops) if not self._trusts(hop)), hops[0] if hops else peer)

    def _trusts(self, host: str) -> bool:
        if not self.trusted:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.trusted)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas.

    Raises:
        ValueError: one is neither; the message names it.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _host(hop: str) -> str:
    """Without the port and the brackets that some proxies add."""
    hop = hop.strip()
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
