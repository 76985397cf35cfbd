"""uvicorn, as this server runs it: the port is taken early, opened late, and closed within a bound.

Owns the listener and the connections. It knows no route, and signals are left to `app.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Literal

import uvicorn
from starlette.types import ASGIApp

from service.frontends.http_at_once import AtOnce
from service.frontends.http_drain import HttpDrain
from service.tls import TlsFiles

if TYPE_CHECKING:
    from service.http_protocol import Reception

BACKLOG = 2048
FLUSH_S = 1.0
"""After the last answers, how long callers may take to read them before their connections are dropped."""


class ListenError(Exception):
    """The address cannot be listened on. The message names the flags that choose another."""


def bind(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """Take the port without opening it, so that one in use is an error before anything is loaded.

    `flag` is the setting that chooses another, for the error to name.

    Raises:
        ListenError: the address is in use, not ours, or no address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # Otherwise a restart would have to wait for the connections of the server before it to be forgotten.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error, flag) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError, flag: str = "--port") -> ListenError:
    return ListenError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with {flag} or --host")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop where there is one; None, which is asyncio's own, elsewhere."""
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def _protocol(
    now_ns: Callable[[], int] | None, at_once: AtOnce | None, trusted_proxies: Sequence[str]
) -> tuple[type[asyncio.Protocol] | Literal["auto"], Reception | None]:
    """The protocol and what its connections share; uvicorn's own, which share nothing, where httptools is missing."""
    if now_ns is None:
        return "auto", None
    try:
        from service.http_protocol import Reception, ReceptionProtocol  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return "auto", None
    shared = Reception(at_once, trusted_proxies)
    bound = {"reception": shared, "now_ns": staticmethod(now_ns)}
    return type("BoundReceptionProtocol", (ReceptionProtocol,), bound), shared


class HttpServer:
    """One application on one listener. `start`, then `drain`, then `stop`; `ended` is done if it fails between."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        tls: TlsFiles | None = None,
        *,
        keepalive_s: int = 75,
        trusted_proxies: Sequence[str] = (),
        now_ns: Callable[[], int] | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        """`listener` comes from `bind`; `tls` must have been checked.

        `keepalive_s`: how long a connection may be silent between two requests before it is closed. `trusted_proxies`:
        addresses and networks whose `X-Forwarded-For` says who calls. `now_ns`: the clock by which each exchange's
        scope says under `BEGAN_NS` when its first byte was read, and under `RECEIVED_NS` when all of its body had been.
        `at_once`: what is asked before `app`, where there is such a clock.
        """
        self._scheme = "http" if tls is None else "https"
        self._listener = listener
        self._drain = HttpDrain(app)
        protocol, self._reception = _protocol(now_ns, at_once, trusted_proxies)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                self._drain,
                http=protocol,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=keepalive_s,
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                ssl_certfile=None if tls is None else tls.cert,
                ssl_keyfile=None if tls is None else tls.key,
                ssl_ca_certs=None if tls is None or tls.client_ca is None else str(tls.client_ca),
                ssl_cert_reqs=ssl.CERT_NONE if tls is None or tls.client_ca is None else ssl.CERT_REQUIRED,
            )
        )
        self.ended: asyncio.Task[None]

    @property
    def url(self) -> str:
        """Where it listens, with the port it was given where 0 was asked for."""
        host, port = self._listener.getsockname()[:2]
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Open the port: when this returns, the first connection is accepted.

        Raises:
            ListenError: another process opened the same port since `bind`, which the kernel allows until one does.
        """
        self.ended = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]))
        listening = asyncio.create_task(self._uvicorn.listening.wait())
        await asyncio.wait({self.ended, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            host, port = self._listener.getsockname()[:2]
            try:
                await self.ended
            except OSError as error:
                raise _cannot_listen(host, port, error) from error

    def drain(self) -> None:
        """Serve on, but end each connection with its next answer."""
        self._drain.begin()
        if self._reception is not None:
            self._reception.close()

    async def stop(self, timeout_s: float) -> bool:
        """Close the port and end every connection; True if all ended by themselves within `timeout_s`.

        Requests that have not arrived whole by then are answered 503. May be called again, with less time.
        """
        self.drain()
        # uvicorn's own bound, for connections that are left although their requests are answered.
        self._uvicorn.config.timeout_graceful_shutdown = math.ceil(timeout_s + FLUSH_S)
        self._uvicorn.should_exit = True
        await asyncio.wait({self.ended}, timeout=timeout_s)
        by_themselves = self.ended.done()
        if not by_themselves:
            self._drain.cut()
            if self._reception is not None:
                self._reception.cut()
            await asyncio.wait({self.ended})  # not awaited itself, since cancelling this must not cancel that
        self.ended.result()
        return by_themselves


class _Uvicorn(uvicorn.Server):
    """Tells when it listens, and leaves signals alone: whoever runs it decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, and say so."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone."""
        yield
