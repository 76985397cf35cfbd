"""grpc.aio, as this server runs it: the port is taken early, opened late, and closed within a bound.

Owns the port, health and reflection. It knows no method of the services it is given, and signals are left to `app.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.exchange import ExchangeObserver
from service.frontends.grpc_attendants import EndingAttendants
from service.frontends.grpc_closing import CallsBeforeClosing
from service.frontends.grpc_envelope import GrpcEnvelope
from service.http_server import ListenError
from service.tls import TlsFiles

MS_PER_S = 1000

# What a message has beside its image: options, names, framing.
_MESSAGE_ENVELOPE_BYTES = 64 * 1024
# Clients may ask whether the server still lives as often as this; gRPC's own 5 minutes is longer than many proxies
# keep a silent connection. Those that ask more often are told to calm down, and their connection is closed.
_PING_INTERVAL_MIN_MS = 10_000
# How long a peer may take to say that it lives.
_PING_TIMEOUT_MS = 20_000
# `stop` has its own bound, and gRPC's must not come before it.
_NO_BOUND_S = 1e6


@dataclass(frozen=True, slots=True)
class GrpcService:
    """One service of the server: its full name, how it is added, and how its streams are told to end.

    Its methods may raise `PhiserveError`, see `GrpcEnvelope`. `end_streams` is called once, when the server stops:
    streams that go on by themselves would otherwise last until they are cut.
    """

    name: str
    add_to: Callable[[grpc.aio.Server], None]
    end_streams: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """Bounds of the server.

    `body_bytes_max`: the images of one message. `concurrent_rpcs_max`: calls in progress, a stream being one; beyond
    it gRPC itself answers RESOURCE_EXHAUSTED. `keepalive_s`: how long a connection may be silent before the peer is
    asked whether it lives. `connection_age_s`: how old a connection may be before its peer is told to open another;
    its calls are not cut.
    """

    body_bytes_max: int
    concurrent_rpcs_max: int
    keepalive_s: float
    connection_age_s: float = 600.0


class GrpcServer:
    """The given services on one port. `start`, then `drain`, then `stop`."""

    def __init__(
        self,
        services: Sequence[GrpcService],
        listener: socket.socket,
        limits: GrpcLimits,
        *,
        tls: TlsFiles | None = None,
        bind_request_id: Callable[[str], object] = lambda _: None,
        observer: ExchangeObserver | None = None,
    ) -> None:
        """`listener` comes from `http_server.bind`: it keeps the port until gRPC, which makes its own, opens it.

        To be made on the event loop that serves. `tls` must have been checked.
        """
        self._services = services
        self._listener = listener
        self._tls = tls
        self._host, self.port = listener.getsockname()[:2]
        names = [service.name for service in services]
        self._attendants = EndingAttendants(names)
        self._calls = CallsBeforeClosing()
        envelope = GrpcEnvelope(names, bind_request_id, observer, server=(self._host, self.port))
        self._server = grpc.aio.server(
            interceptors=(self._calls, self._attendants, envelope),
            options=_options(limits),
            maximum_concurrent_rpcs=limits.concurrent_rpcs_max,
        )
        for service in services:
            service.add_to(self._server)
        self._health = health.aio.HealthServicer()
        self._watched = ["", *names]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._stopping: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Host and port, as gRPC clients take them."""
        return f"{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    @property
    def url(self) -> str:
        """The same as phiserve's own clients take it."""
        return f"{'grpcs' if self._tls else 'grpc'}://{self.address}"

    async def start(self) -> None:
        """Open the port, with every service said to be serving: the engine must be ready.

        Raises:
            ListenError: another process opened the same port since it was taken.
        """
        try:
            if self._tls is None:
                self._server.add_insecure_port(self.address)
            else:
                self._server.add_secure_port(self.address, _credentials(self._tls))
        except RuntimeError as error:
            raise ListenError(
                f"cannot listen on {self.address} (another process opened the port); "
                "choose another with --grpc-port or --host"
            ) from error
        finally:
            self._listener.close()
        for name in self._watched:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def drain(self) -> None:
        """Serve on, but tell health checks that nothing should be sent here any more."""
        await self._health.enter_graceful_shutdown()

    def turn_away(self) -> None:
        """Close the port to new calls, and tell clients so (GOAWAY): they go elsewhere, calls in progress go on.

        Calls that come until then, which is within about a second, reach the services when the port is closed.
        """
        if self._stopping is not None:
            return
        self._stopping = asyncio.create_task(self._close())
        for service in self._services:
            service.end_streams()
        self._attendants.end()

    async def stop(self, timeout_s: float) -> bool:
        """End everything; True if all calls ended by themselves within `timeout_s`.

        Those that did not are cut, and their callers get UNAVAILABLE. May be called again, with less time.
        """
        self.turn_away()
        assert self._stopping is not None, "turn_away has made it"
        await asyncio.wait({self._stopping}, timeout=timeout_s)
        by_themselves = self._stopping.done()
        if not by_themselves:
            await self._server.stop(None)
            await asyncio.wait({self._stopping})
        self._stopping.result()
        return by_themselves

    async def _close(self) -> None:
        self._calls.hold()
        await self._calls.quiet()
        # It closes the port before it waits: `release` comes after that.
        asyncio.get_running_loop().call_soon(self._calls.release)
        await self._server.stop(_NO_BOUND_S)


def _options(limits: GrpcLimits) -> list[tuple[str, int]]:
    return [
        # Two servers that share a port by accident would each get half of the calls; one gets an error instead.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.body_bytes_max + _MESSAGE_ENVELOPE_BYTES),
        ("grpc.keepalive_time_ms", round(limits.keepalive_s * MS_PER_S)),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.max_connection_age_ms", round(limits.connection_age_s * MS_PER_S)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MIN_MS),
    ]


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    authorities = None if tls.client_ca is None else tls.client_ca.read_bytes()
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())],
        root_certificates=authorities,
        require_client_auth=authorities is not None,
    )
