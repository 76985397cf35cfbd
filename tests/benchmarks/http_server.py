"""A real HTTP server on loopback whose answers the test decides: what the load generator talks to in its tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Respond = Callable[[bytes], Awaitable[list[bytes]]]
"""Given a request's target: the pieces to write, one after the other; an empty piece closes the connection."""


def ok(body: bytes = b"{}", *, status: int = 200, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), extra, body)


class ScriptedServer:
    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self.connections = 0
        self.bodies: list[bytes] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
                self.bodies.append(await reader.readexactly(length))
                for piece in await self._respond(head.split(b" ")[1]):
                    if not piece:
                        return
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def end(self) -> None:
        """End every connection: one that outlives its loop is found by the collector, in the middle of another test."""
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def scripted(respond: Respond) -> AsyncIterator[tuple[str, ScriptedServer]]:
    """Its URL and itself, for as long as the block lasts."""
    server = ScriptedServer(respond)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", server
    finally:
        listening.close()
        await server.end()
