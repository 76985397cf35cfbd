"""The ports of one engine: taken early, opened last, and closed together without losing a request.

Runs the servers and reads signals. It builds no part and knows no route and no method.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from service.core.engine import Engine
from service.errors import PhiserveError
from service.grpc_server import GrpcServer
from service.http_server import HttpServer, bind
from service.settings import Settings
from service.tls import TlsFiles

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000

LAST_ANSWERS_S = 0.5
"""How long the answers to what was refused at the end may take to be written."""

Announce = Callable[[str, str | None], None]
"""Called with the URLs of the HTTP and the gRPC port once both are open; None without gRPC."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports that are taken and not open, and the TLS files for both; closed when left as a context."""

    http: socket.socket
    grpc: socket.socket | None
    tls: TlsFiles | None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        if self.grpc is not None:
            self.grpc.close()


def take_ports(settings: Settings) -> Ports:
    """Take the ports, so that one in use is an error before anything is loaded, and check the TLS files.

    Raises:
        ListenError: an address is in use, not ours, or no address.
        TlsError: the files are no certificate and its key.
    """
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        tls.check()
    http = bind(settings.host, settings.port)
    try:
        grpc = bind(settings.host, settings.grpc_port, flag="--grpc-port") if settings.grpc == "on" else None
    except Exception:
        http.close()
        raise
    return Ports(http, grpc, tls)


@dataclass(frozen=True, slots=True)
class Fronts:
    """Every server of the process, as one."""

    http: HttpServer
    grpc: GrpcServer | None

    async def start(self) -> None:
        """Open the ports.

        Raises:
            ListenError: another process opened one of them since it was taken.
        """
        if self.grpc is not None:
            await self.grpc.start()
        await self.http.start()

    async def drain(self) -> None:
        """Serve on, but send callers elsewhere: health says so, and HTTP connections end with their next answer."""
        self.http.drain()
        if self.grpc is not None:
            await self.grpc.drain()

    def turn_away(self) -> None:
        """Take no new calls over gRPC, which tells clients so without a lost call; HTTP answers each with 503."""
        if self.grpc is not None:
            self.grpc.turn_away()

    async def stop(self, timeout_s: float) -> bool:
        """Close the ports; True if what was in progress ended by itself. May be called again, with less time."""
        stops = [self.http.stop(timeout_s)] + ([] if self.grpc is None else [self.grpc.stop(timeout_s)])
        return all(await asyncio.gather(*stops))


async def serve(
    engine: Engine, fronts: Fronts, settings: Settings, announce: Announce, *, reload: Callable[[], Awaitable[object]]
) -> None:
    """Open `engine`, then the ports, until SIGTERM or SIGINT; then drain. SIGHUP calls `reload` meanwhile.

    Raises:
        ListenError: another process opened a port since it was taken.
    """
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    hangup = _Hangup(reload, signals)
    loop.add_signal_handler(signal.SIGHUP, hangup.received)
    # It is held back while the server starts, when there is nothing to reload yet and its default would end it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    engine.open()
    await fronts.start()
    announce(fronts.http.url, None if fronts.grpc is None else fronts.grpc.url)
    stopped = asyncio.create_task(signals.get())
    await asyncio.wait({fronts.http.ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if stopped.done():
        await _drain(engine, fronts, settings, signals, stopped.result())
    else:
        stopped.cancel()
        await fronts.http.ended  # it only ends by itself with an error


class _Hangup:
    """What SIGHUP means: read the store again, as daemons do; or, to a server in a terminal that was closed, end."""

    def __init__(self, reload: Callable[[], Awaitable[object]], signals: asyncio.Queue[signal.Signals]) -> None:
        self._reload = reload
        self._signals = signals
        self._in_terminal = _terminal_is_there()
        self._tasks: set[asyncio.Task[None]] = set()

    def received(self) -> None:
        """Handle one; what comes of it is logged by the one that reloads."""
        if self._in_terminal and not _terminal_is_there():
            self._signals.put_nowait(signal.SIGHUP)
            return
        logger.info("SIGHUP received, reading the store again")
        task = asyncio.create_task(self._read_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_again(self) -> None:
        try:
            await self._reload()
        except PhiserveError as error:
            logger.debug("SIGHUP came to nothing: %s", error.detail)


def _terminal_is_there() -> bool:
    """Whether standard error is a terminal that somebody can still look at."""
    try:
        os.tcgetpgrp(2)
    except OSError:
        return False
    return True


async def _drain(
    engine: Engine,
    fronts: Fronts,
    settings: Settings,
    signals: asyncio.Queue[signal.Signals],
    received: signal.Signals,
) -> None:
    """Not ready at once; after a notice, refuse and finish what is in service; then close the ports.

    Ctrl-C gives no notice, since whoever presses it looks at no load balancer. A second signal ends the stage it
    finds: the notice, the wait for what is in service, or the wait for what is still being sent.
    """
    logger.info("%s received, draining", received.name)
    engine.announce_drain()
    await fronts.drain()
    if received is signal.SIGTERM:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signals.get(), settings.drain_notice_s)
    fronts.turn_away()
    timeout_ns = round(settings.drain_timeout_s * NS_PER_S)
    ends_ns = engine.now_ns() + timeout_ns
    settled = await _until_signal(engine.drain(timeout_ns), signals)
    if not settled:
        await engine.drain(0)
    left_s = (ends_ns - engine.now_ns()) / NS_PER_S if settled else 0.0
    arrived = await _until_signal(fronts.stop(max(LAST_ANSWERS_S, left_s)), signals)
    if not arrived:
        await fronts.stop(LAST_ANSWERS_S)
    logger.info("drained" if settled and arrived else "drain ended early; what was left has been refused")


async def _until_signal(work: Coroutine[Any, Any, bool], signals: asyncio.Queue[signal.Signals]) -> bool:
    """The result of `work`; False if a signal came first."""
    working, signalled = asyncio.create_task(work), asyncio.create_task(signals.get())
    await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if working.done():
        return working.result()
    working.cancel()
    return False
