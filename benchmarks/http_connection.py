"""A small HTTP/1.1 client for loading a server on the same machine: kept-alive connections, little work per request.

It shares the cores with the server it measures, so it does no more than it must: a request is bytes made
beforehand, an answer is its status and its raw body with the time of its last byte. Connects to loopback only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

_HEAD_BYTES_MAX = 64 * 1024


class ConnectionFailed(Exception):
    """The server closed the connection, or sent what this client does not read."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status and raw body; `received_ns` is when its last byte came, on the clock of `time.monotonic_ns`."""

    status: int
    body: bytes
    received_ns: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect: always on this machine."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """As in a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def loopback_address(url: str) -> Address:
    """The address of an `http://` URL on this machine.

    Raises:
        ValueError: another scheme, no port, or a host that is not a loopback address: this client is a load, and
            belongs on no machine but its own.
    """
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or parts.port is None or not local:
        raise ValueError(f"load is only sent to this machine: use a URL such as http://127.0.0.1:8000, not {url!r}")
    return Address(host, parts.port)


def post_bytes(address: Address, target: str, body: bytes, media_type: str) -> bytes:
    """A whole POST request."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {address.authority}\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def get_bytes(address: Address, target: str) -> bytes:
    """A whole GET request."""
    return f"GET {target} HTTP/1.1\r\nHost: {address.authority}\r\n\r\n".encode("ascii")


class HttpConnection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._head_end = -1
        self._body_bytes = 0
        self._closes = False
        self.usable = False
        """Whether another exchange may begin."""

    @classmethod
    async def open(cls, address: Address) -> HttpConnection:
        """Connect.

        Raises:
            OSError: nobody listens there.
        """
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, address.host, address.port)
        return connection

    async def exchange(self, request: bytes) -> HttpAnswer:
        """Send a whole request and wait for its whole answer. Cancelling this closes the connection.

        Raises:
            ConnectionFailed: see the class.
        """
        assert self.usable, "an exchange is under way, or the connection is closed"
        assert self._transport is not None
        self.usable = False
        self._received.clear()
        self._head_end = -1
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """End the connection now; the server sees its caller leave."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for the first exchange."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told."""
        self.usable = False
        self._fail(f"the server closed the connection ({exc or 'no error'})")

    def data_received(self, data: bytes) -> None:
        """Collect; when the answer is whole, hand it over with the time."""
        self._received += data
        if self._head_end < 0 and not self._read_head():
            return
        whole = self._head_end + self._body_bytes
        if len(self._received) < whole or self._answer is None or self._answer.done():
            return
        status = int(self._received[9:12])
        body = bytes(self._received[self._head_end : whole])
        self._answer.set_result(HttpAnswer(status, body, time.monotonic_ns()))
        if self._closes:
            self.close()
        else:
            self.usable = True

    def _read_head(self) -> bool:
        """Whether the head is complete; it must name the body's length."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > _HEAD_BYTES_MAX:
                self._give_up("the head of the answer has no end")
            return False
        head = bytes(self._received[:end]).lower()
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        length = fields.get(b"content-length", b"").strip()
        if not head.startswith(b"http/1.1 ") or not length.isdigit():
            self._give_up("the answer is not HTTP/1.1 with a Content-Length")
            return False
        self._head_end, self._body_bytes = end + 4, int(length)
        self._closes = fields.get(b"connection", b"").strip() == b"close"
        return True

    def _give_up(self, reason: str) -> None:
        self._fail(reason)
        self.close()

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionFailed(reason))


class ConnectionPool:
    """Connections to one address, kept alive and used again, the most recent first; at most `size_max` at a time."""

    def __init__(self, address: Address, size_max: int) -> None:
        """Opens none yet."""
        self.address = address
        self.size_max = size_max
        self.in_use = 0
        self._free: list[HttpConnection] = []

    @property
    def is_full(self) -> bool:
        """Whether one more exchange would break the bound."""
        return self.in_use >= self.size_max

    async def open(self, count: int) -> None:
        """Have `count` connections ready, so that requests of a run need not wait for a handshake."""
        for _ in range(count - len(self._free)):
            self._free.append(await HttpConnection.open(self.address))

    async def exchange(self, request: bytes, timeout_s: float) -> HttpAnswer:
        """One exchange on a free or new connection; the pool must not be full.

        Raises:
            TimeoutError: no whole answer within `timeout_s`; the connection is closed.
            ConnectionFailed: the server ended it.
            OSError: nobody listens.
        """
        assert not self.is_full, f"{self.in_use} exchanges are under way, which is the bound"
        self.in_use += 1
        try:
            async with asyncio.timeout(timeout_s):
                connection = self._take() or await HttpConnection.open(self.address)
                answer = await connection.exchange(request)
        finally:
            self.in_use -= 1
        if connection.usable:
            self._free.append(connection)
        return answer

    def _take(self) -> HttpConnection | None:
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
        return None

    def close(self) -> None:
        """Close the connections that are free."""
        while self._free:
            self._free.pop().close()
