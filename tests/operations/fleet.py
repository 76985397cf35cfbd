"""Several phiserves as real processes on fixed ports, each of which can be drained, killed and made to hang."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx

from tests.end_to_end.phiserve_process import ServerProcess, run_phiserve
from tests.operations.envoy import Address, free_ports

# One core each, since all of them share this machine with the proxy and the callers.
PROFILED = ("--workers", "1", "--batch-size-max", "1")
DRAIN_NOTICE_S = 3
"""Longer than the proxy takes to see that a server is not ready: an interval and a timeout of its health checks."""
ADMIN_TOKEN = "a-token-of-these-scenarios"
_BUILD_TIMEOUT_S = 120
_RELOAD_TIMEOUT_S = 120


def build_store(folder: Path, *variants: str) -> Path:
    """A store with these variants, measured on this machine, so that servers on it start within a second or two."""
    for command in (("store", "build", *variants), ("profile", *PROFILED)):
        ended = run_phiserve(*command, "--store", folder, timeout_s=_BUILD_TIMEOUT_S)
        assert ended.returncode == 0, ended.stderr
    return folder


class Fleet:
    """`count` servers on one store. A server is named by its place, 0 to count - 1."""

    def __init__(self, store: Path, count: int, flags: Sequence[str] = ()) -> None:
        ports = free_ports(2 * count)
        self.addresses = [Address(ports[2 * i], ports[2 * i + 1]) for i in range(count)]
        self._flags = ("--store", store, *PROFILED, "--decode-threads", "1", "--log-level", "warning", *flags)
        self._servers: dict[int, ServerProcess] = {}

    async def start(self, place: int) -> None:
        """Start this server; returns once it serves."""
        address = self.addresses[place]
        ports = ("--port", str(address.rest), "--grpc-port", str(address.grpc))
        server = self._servers[place] = ServerProcess(*self._flags, *ports)
        assert await asyncio.to_thread(lambda: server.url)

    async def drain(self, place: int) -> int:
        """SIGTERM, as an orchestrator sends it; the exit code once the process has ended."""
        server = self._servers.pop(place)
        server.stop(signal.SIGTERM)
        return await asyncio.to_thread(server.wait)

    async def reload(self, place: int) -> list[str]:
        """Have it read its store again; the variants it serves then."""
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with httpx.AsyncClient(timeout=_RELOAD_TIMEOUT_S) as client:
            response = await client.post(f"http://127.0.0.1:{self.addresses[place].rest}/admin/reload", headers=headers)
        assert response.status_code == 200, response.text
        variants: list[str] = response.json()["variants"]
        return variants

    async def kill(self, place: int) -> None:
        """SIGKILL: it ends without a word."""
        server = self._servers.pop(place)
        server.stop(signal.SIGKILL)
        await asyncio.to_thread(server.wait)

    def pause(self, place: int) -> None:
        """SIGSTOP: its kernel still takes connections and bytes, and nobody answers."""
        self._servers[place].stop(signal.SIGSTOP)

    def resume(self, place: int) -> None:
        """SIGCONT."""
        self._servers[place].stop(signal.SIGCONT)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


@contextlib.asynccontextmanager
async def fleet(store: Path, count: int, flags: Sequence[str] = ()) -> AsyncIterator[Fleet]:
    """A fleet that is up, for as long as the block lasts."""
    servers = Fleet(store, count, flags)
    try:
        await asyncio.gather(*(servers.start(place) for place in range(count)))
        yield servers
    finally:
        servers.close()
