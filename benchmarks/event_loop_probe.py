"""How long the server's event loop lets something short wait: `GET /livez` every few milliseconds.

What is sent needs neither a decode nor a run, so its time is the loop's. A process of its own asks, and runs
before others where the system allows, since it would otherwise measure how long it waits itself. Loopback only.
"""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Self

from benchmarks.http_connection import Address
from benchmarks.traffic import NS_PER_MS

EVERY_S = 0.01
_AHEAD = 10
_TIMEOUT_S = 30


class EventLoopProbe:
    """Asks while the block lasts, once at least; `took_ms` has what each answer took afterwards."""

    def __init__(self, address: Address) -> None:
        """Nothing is sent yet."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_ask, args=(theirs, address), daemon=True)
        self.took_ms: list[float] = []

    def __enter__(self) -> Self:
        self._process.start()
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self.took_ms = self._pipe.recv()
        self._process.join(_TIMEOUT_S)
        self._pipe.close()


def _ask(pipe: Connection, address: Address) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -_AHEAD)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
    took_ms: list[float] = []
    pipe.send("ready")
    while True:
        at_ns = time.monotonic_ns()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        took_ms.append((time.monotonic_ns() - at_ns) / NS_PER_MS)
        if pipe.poll(EVERY_S):
            break
    connection.close()
    pipe.send(took_ms)
