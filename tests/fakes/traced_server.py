"""Both ports of `phiserve serve` over the real core with fake runs, its spans sent to a receiver of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import httpx

from phiserve.v1 import classifier_pb2_grpc
from service.core.clock import MonotonicClock
from service.core.instrument import Instruments
from service.core.menu import Menu
from service.core.tally import Tally
from service.frontends.inference import open_inference_pb2_grpc
from service.fronts import build_fronts
from service.http_server import loop_factory
from service.serving import take_ports
from service.settings import Settings
from service.telemetry.observers import build_observers
from tests.fakes import reloads
from tests.fakes.otlp_receiver import Receiver, otlp_receiver
from tests.fakes.runtime import FakeDecoder, FakeWorkers, build_engine

WAIT_S = 20


@dataclass
class Clients:
    """Of a server that is up."""

    http: httpx.AsyncClient
    grpc_address: str
    classifier: classifier_pb2_grpc.ClassifierStub
    oip: open_inference_pb2_grpc.GRPCInferenceServiceStub
    receiver: Receiver


@dataclass
class TracedServer:
    """How the server is to be; `run` serves for as long as a scenario takes, and gives what the receiver then has."""

    ratio: float = 1.0
    access_log_share: float | None = None
    menu: Menu | None = None
    workers: FakeWorkers = field(default_factory=FakeWorkers)
    endpoint: str | None = None
    """Where spans go instead of the receiver."""
    flush_s: float = WAIT_S
    flushed: bool | None = None

    def run(self, scenario: Callable[[Clients], Awaitable[None]]) -> Receiver:
        with otlp_receiver() as receiver:
            clock = MonotonicClock()
            observers = build_observers(
                version="1.2.3",
                clock=clock,
                tracing_endpoint=self.endpoint or receiver.url,
                tracing_ratio=self.ratio,
                access_log_share=self.access_log_share,
            )
            tally = Tally(clock)

            async def run() -> None:
                settings = Settings(port=0, grpc_port=0)
                engine = build_engine(
                    menu=self.menu,
                    workers=self.workers,
                    decoder=FakeDecoder(),
                    instrument=Instruments(*observers.instruments, tally),
                    clock=clock,
                )
                with take_ports(settings) as ports:
                    fronts = build_fronts(settings, engine, observers, tally, ports, reload=reloads.never)
                    await fronts.start()
                    assert fronts.grpc is not None
                    try:
                        await _with_clients(scenario, fronts.http.url, fronts.grpc.address, receiver)
                    finally:
                        await fronts.stop(WAIT_S)

            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(run())
            self.flushed = observers.close(self.flush_s)
        return receiver


async def _with_clients(
    scenario: Callable[[Clients], Awaitable[None]], url: str, address: str, receiver: Receiver
) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, verify=False) as http,
        grpc.aio.insecure_channel(address, options) as channel,
    ):
        classifier = classifier_pb2_grpc.ClassifierStub(channel)
        oip = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        await scenario(Clients(http, address, classifier, oip, receiver))
