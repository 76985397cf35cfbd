"""The composition root: builds every part from `Settings`, in order, and takes them down in the reverse order.

Start: store verified, sessions loaded and warmed, machine profiled, engine opened, and only then the port. End:
not ready at once, still serving for a notice, then draining within a bound, then the port, workers and decoder.
What a request gets is never decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Generator
from dataclasses import dataclass
from importlib.metadata import version

from model_store.catalogue import StoreError
from model_store.latency_profile import MachineProfile
from service import serving
from service.core.batch_planner import BatchPlanner, PlannerSettings
from service.core.clock import MonotonicClock
from service.core.deadline_queue import DeadlineQueue
from service.core.door import EngineSettings
from service.core.engine import Engine
from service.core.generation import Generation
from service.core.instrument import Instruments
from service.core.load import LoadEstimator
from service.core.menu import Menu
from service.core.scheduler import Scheduler, SchedulerSettings
from service.core.tally import Tally
from service.frontends.admin_rest import TokenError, TokenFile
from service.fronts import build_fronts
from service.http_server import ListenError, loop_factory
from service.limited_loading import LimitedLoader, LimitedStore
from service.provider_choice import choose_provider
from service.reloading import Reloader
from service.runtime import jpeg, resize
from service.runtime.decode import PictureDecoder
from service.runtime.machine import available_cores
from service.runtime.session import SessionError, available_providers
from service.serving import Announce, Ports
from service.settings import Settings, access_log_share
from service.store_loading import LoadedStore, Machine, Progress, StoreLoader, UnservableError, plan_machine
from service.telemetry.observers import Observers, TracingError, build_observers
from service.tls import TlsError
from service.variant_keeper import DemandRecorder, VariantKeeper

logger = logging.getLogger(__name__)

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_SWITCH_INTERVAL_S = 100e-6
_LAST_SPANS_S = 3.0
"""How long a drained server tries to send what it still knows of its last requests."""
_LAST_RUNS_S = 1.0
"""How long it waits for runs that nobody waits for any more."""


_START_ERRORS = (StoreError, SessionError, UnservableError, ListenError, TlsError, TokenError, TracingError)
"""What keeps a server from starting by no fault of ours; their messages say what to do."""


class StartError(Exception):
    """The server cannot start. The message says why and what would have worked."""


@dataclass(frozen=True, slots=True)
class Server:
    """Everything that was built, ready to run."""

    settings: Settings
    engine: Engine
    loader: StoreLoader | LimitedLoader
    loaded: LoadedStore
    decoder: PictureDecoder
    observers: Observers
    tally: Tally
    limited: LimitedStore | None = None
    demand: DemandRecorder | None = None


def build_server(settings: Settings, progress: Progress) -> Server:
    """Load, warm and profile; what comes back only needs `run_server`.

    Raises:
        StartError: no store, a damaged store, nothing to serve, or a graph that cannot be loaded.
    """
    cores = available_cores()
    clock = MonotonicClock()
    with _start_errors():
        machine = plan_machine(settings, cores, choose_provider(settings, cores, available_providers(), clock))
    limits_memory = bool(settings.memory_limit_mib)
    loader = (LimitedLoader if limits_memory else StoreLoader)(settings, machine, clock)
    with _start_errors():
        observers, tally = _observers(settings, clock), Tally(clock)
        ready = loader.load(progress)
    limited, loaded = (ready, ready.loaded) if isinstance(ready, LimitedStore) else (None, ready)
    demand = DemandRecorder() if limited else None
    # On a CPU the workers need the cores that decoding takes: as many threads as cores would only make both slower.
    spare = max(1, cores // 2) if machine.provider.on_cpu else cores
    logger.info("pictures: everyday JPEGs decoded by %s, reduced by %s", jpeg.CODEC, resize.ENGINE)
    decoder = PictureDecoder(settings.decode_threads or spare, settings.admitted_max, settings.image_pixels_max)
    engine = Engine(
        scheduler=_build_scheduler(settings, machine, loaded.generation),
        generation=loaded.generation,
        decoder=decoder,
        clock=clock,
        instrument=Instruments(*observers.instruments, tally, *([demand] if demand else [])),
        settings=EngineSettings(
            budget_ns_default=round(settings.budget_ms_default * NS_PER_MS),
            budget_ns_max=round(settings.budget_ms_max * NS_PER_MS),
            top_k_max=settings.top_k_max,
            admitted_max=settings.admitted_max,
            admitted_per_client_max=settings.admitted_per_client_max,
            queue_bytes_max=settings.queue_bytes_max,
        ),
    )
    return Server(settings, engine, loader, loaded, decoder, observers, tally, limited, demand)


def _observers(settings: Settings, clock: MonotonicClock) -> Observers:
    return build_observers(
        version=version("phiserve"),
        clock=clock,
        tracing_endpoint=settings.tracing_endpoint,
        tracing_ratio=settings.tracing_ratio,
        access_log_share=access_log_share(settings.access_log),
    )


def profile_store(settings: Settings, progress: Progress, *, force: bool) -> tuple[MachineProfile, Menu]:
    """Measure the store as `build_server` does, and nothing more; `force` measures again what is current.

    Raises:
        StartError: as `build_server`.
    """
    cores, clock = available_cores(), MonotonicClock()
    with _start_errors():
        machine = plan_machine(settings, cores, choose_provider(settings, cores, available_providers(), clock))
        return StoreLoader(settings, machine, clock).measure(progress, force=force)


@contextlib.contextmanager
def _start_errors() -> Generator[None]:
    try:
        yield
    except _START_ERRORS as error:
        raise StartError(str(error)) from error


def _build_scheduler(settings: Settings, machine: Machine, generation: Generation) -> Scheduler:
    load = LoadEstimator(generation.menu, machine.workers)
    bounds = PlannerSettings(machine.batch_sizes[-1], generation.profile.overhead_ns)
    planner = BatchPlanner(generation.menu, load, bounds)
    return Scheduler(
        planner,
        DeadlineQueue(settings.queue_size_max),
        SchedulerSettings(machine.workers, round(settings.late_wait_ms_max * NS_PER_MS)),
    )


def take_ports(settings: Settings) -> Ports:
    """The ports for `run_server`, not open yet.

    Raises:
        StartError: an address is in use or not ours, or the files of TLS or of the token cannot be used.
    """
    with _start_errors():
        if settings.admin_token_file is not None:
            TokenFile(settings.admin_token_file).read()
        return serving.take_ports(settings)


def run_server(server: Server, ports: Ports, announce: Announce) -> bool:
    """Serve on `ports` until SIGTERM or SIGINT, then drain; `announce` gets the URLs once they are open.

    False if a run has outlasted the drain and is still going on in its thread.

    Raises:
        StartError: another process opened the same port while this one was starting.
    """
    reloader = Reloader(
        server.engine,
        server.loader,
        server.loaded,
        server.observers.metrics,
        core_share=server.settings.reload_core_share,
    )

    keepers: list[VariantKeeper] = []

    async def run() -> None:
        if server.limited is not None and server.demand is not None:
            keepers.append(
                VariantKeeper(
                    server.engine,
                    server.limited,
                    server.observers.metrics.residency,
                    core_share=server.settings.reload_core_share,
                )
            )
            server.engine.load_on_demand(keepers[0])
            server.demand.listener = keepers[0].asked
        fronts = build_fronts(
            server.settings, server.engine, server.observers, server.tally, ports, reload=reloader.reload
        )
        await serving.serve(server.engine, fronts, server.settings, announce, reload=reloader.reload)

    # A worker that wants the interpreter lock for its next run would otherwise wait 5 ms for a busy event loop.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with _start_errors(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run())
    server.observers.close(_LAST_SPANS_S)
    server.decoder.close()
    last_runs_ns = round(_LAST_RUNS_S * NS_PER_S)
    ended = [keeper.close(last_runs_ns) for keeper in keepers]
    return reloader.close(last_runs_ns) and all(ended)


def end_s_max(settings: Settings) -> float:
    """How long a server may take from SIGTERM to its end. Whoever stops it must wait for longer before it kills it."""
    drain_s = settings.drain_notice_s + settings.drain_timeout_s + serving.LAST_ANSWERS_S
    return drain_s + _LAST_SPANS_S + _LAST_RUNS_S
