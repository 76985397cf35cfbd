"""The composition root: builds every part from `Settings`, in order, and takes them down in the reverse order.

Start: store verified, sessions loaded and warmed, machine profiled, engine opened, and only then the port. End:
not ready at once, still serving for a notice, then draining within a bound, then the port, workers and decoder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import uvicorn

from model_store.catalogue import Catalogue, CatalogueEntry, StoreError
from model_store.latency_profile import MachineProfile
from service.core.batch_planner import BatchPlanner, PlannerSettings
from service.core.clock import MonotonicClock
from service.core.deadline_queue import DeadlineQueue
from service.core.engine import Engine, EngineSettings, ServedVariant
from service.core.load import LoadEstimator, LoadSettings
from service.core.menu import Choice, Menu
from service.core.scheduler import Scheduler, SchedulerSettings
from service.frontends.rest_api import RestLimits, create_rest_api
from service.runtime.decode import PillowDecoder
from service.runtime.machine import available_cores
from service.runtime.profile_cache import load_or_calibrate
from service.runtime.session import Provider, SessionError, available_providers, open_sessions, resolve_provider
from service.runtime.worker_pool import WorkerPool
from service.settings import Settings
from service.telemetry.logs import bind_request_id
from service.telemetry.metrics import PrometheusInstrument, create_registry

logger = logging.getLogger(__name__)

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) while the server starts."""


class StartError(Exception):
    """The server cannot start. The message says why and what would have worked."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs models here: provider, workers, and the thread widths and batch sizes that may be planned."""

    provider: Provider
    workers: int
    thread_widths: tuple[int, ...]
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """Everything that was built, ready to run."""

    settings: Settings
    engine: Engine
    workers: WorkerPool
    decoder: PillowDecoder
    instrument: PrometheusInstrument


def plan_machine(settings: Settings, cores: int) -> Machine:
    """How many workers and which thread widths: on a CPU a worker is a core, and a run may take one or all.

    On a GPU one worker feeds it, since runs would only take turns there.
    """
    provider = resolve_provider(Provider(settings.provider), available_providers())
    on_cpu = provider in (Provider.CPU, Provider.OPENVINO)
    workers = settings.workers or (cores if on_cpu else 1)
    widths = tuple(sorted({1, min(workers, cores)})) if on_cpu else (1,)
    sizes = [1]
    while sizes[-1] * 2 <= settings.batch_size_max:
        sizes.append(sizes[-1] * 2)
    if sizes[-1] != settings.batch_size_max:
        sizes.append(settings.batch_size_max)
    return Machine(provider, workers, widths, tuple(sizes))


def build_server(settings: Settings, progress: Progress) -> Server:
    """Load, warm and profile; what comes back only needs `run_server`.

    Raises:
        StartError: no store, a damaged store, nothing to serve, or a graph that cannot be loaded.
    """
    cores = available_cores()
    clock = MonotonicClock()
    machine = plan_machine(settings, cores)
    with _start_errors():
        entries = _entries(settings)
        workers = _open_workers(settings, machine, entries, clock, progress)
        profile = _profile(settings, machine, entries, workers, progress)
        menu = Menu(_choices(entries, profile), known=entries)
        # Only what can be planned is warmed: where batches save nothing that is batch size 1.
        planned = {(choice.variant.name, choice.threads): choice.batch_sizes for choice in menu.choices}
        workers.warm(planned, lambda done, total, _: progress("warming", done, total))
    decoder = PillowDecoder(settings.decode_threads or cores, settings.admitted_max, settings.image_pixels_max)
    instrument = PrometheusInstrument(create_registry(version("phiserve")))
    served = {name: ServedVariant(entry.manifest, entry.labels, routable=True) for name, entry in entries.items()}
    engine = Engine(
        scheduler=_build_scheduler(settings, machine, menu, profile),
        menu=menu,
        served=served,
        profile=profile,
        decoder=decoder,
        workers=workers,
        clock=clock,
        instrument=instrument,
        settings=EngineSettings(
            budget_ns_default=round(settings.budget_ms_default * NS_PER_MS),
            budget_ns_max=round(settings.budget_ms_max * NS_PER_MS),
            top_k_max=settings.top_k_max,
            admitted_max=settings.admitted_max,
            admitted_per_client_max=settings.admitted_per_client_max,
        ),
    )
    return Server(settings, engine, workers, decoder, instrument)


def profile_store(settings: Settings, progress: Progress, *, force: bool) -> tuple[MachineProfile, Menu]:
    """Measure the store as `build_server` does, and nothing more; `force` measures again what is current.

    Raises:
        StartError: as `build_server`.
    """
    machine = plan_machine(settings, available_cores())
    with _start_errors():
        entries = _entries(settings)
        workers = _open_workers(settings, machine, entries, MonotonicClock(), progress)
        try:
            profile = _profile(settings, machine, entries, workers, progress, force=force)
        finally:
            workers.close(NS_PER_S)
    return profile, Menu(_choices(entries, profile), known=entries)


@contextlib.contextmanager
def _start_errors() -> Generator[None]:
    try:
        yield
    except (StoreError, SessionError) as error:
        raise StartError(str(error)) from error


def _entries(settings: Settings) -> Mapping[str, CatalogueEntry]:
    """The variants to serve: those asked for, without untrained ones unless the operator said so."""
    found = Catalogue.open(settings.store, only=settings.variants or None).entries
    trained = {name: entry for name, entry in found.items() if entry.variant.trained}
    if settings.allow_untrained:
        return found
    if not trained:
        raise StartError(
            f"the store at {settings.store} holds only untrained variants ({', '.join(found) or 'none at all'}); "
            "build trained ones with `phiserve store build lite0 lite1 lite2`, or say --allow-untrained"
        )
    if left_out := sorted(found.keys() - trained.keys()):
        logger.warning("not served, since untrained: %s (--allow-untrained serves them)", ", ".join(left_out))
    return trained


def _open_workers(
    settings: Settings,
    machine: Machine,
    entries: Mapping[str, CatalogueEntry],
    clock: MonotonicClock,
    progress: Progress,
) -> WorkerPool:
    sessions = open_sessions(
        entries.values(),
        machine.thread_widths,
        machine.provider,
        batch_size_max=settings.batch_size_max,
        cache_dir=settings.store / "provider-cache",
        progress=lambda done, total, _: progress("loading", done, total),
    )
    return WorkerPool(machine.workers, sessions, settings.batch_size_max, clock=clock)


def _profile(
    settings: Settings,
    machine: Machine,
    entries: Mapping[str, CatalogueEntry],
    workers: WorkerPool,
    progress: Progress,
    *,
    force: bool = False,
) -> MachineProfile:
    return load_or_calibrate(
        settings.store,
        workers,
        entries,
        batch_sizes=machine.batch_sizes,
        thread_widths=machine.thread_widths,
        clock=workers.clock,
        progress=lambda done, total, _: progress("profiling", done, total),
        force=force,
    )


def _choices(entries: Mapping[str, CatalogueEntry], profile: MachineProfile) -> list[Choice]:
    """The menu's rows. Untrained variants have no accuracy; they rank by size, below every trained one."""
    largest = max(entry.manifest.parameters for entry in entries.values())
    return [
        Choice(
            variant=entries[latency.variant].variant,
            accuracy=_worth(entries[latency.variant], largest),
            profile=latency,
        )
        for latency in profile.latencies
    ]


def _worth(entry: CatalogueEntry, largest: int) -> float:
    if entry.variant.top1 is not None:
        return entry.variant.top1
    return entry.manifest.parameters / largest


def _build_scheduler(settings: Settings, machine: Machine, menu: Menu, profile: MachineProfile) -> Scheduler:
    load = LoadEstimator(menu, machine.workers, LoadSettings(decode_core_ns=profile.decode.fixed_ns))
    planner = BatchPlanner(menu, load, PlannerSettings(settings.batch_size_max, profile.overhead_ns))
    return Scheduler(
        planner,
        DeadlineQueue(settings.queue_size_max),
        SchedulerSettings(machine.workers, round(settings.late_wait_ms_max * NS_PER_MS)),
    )


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers: `serve` decides when to stop, and the process exits 0 when it did."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone."""
        yield


def bind(settings: Settings) -> socket.socket:
    """Take the port, so that a port in use is an error before anything is loaded.

    Raises:
        StartError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another with --port or --host"
        ) from error
    return listener


def run_server(server: Server, listener: socket.socket, announce: Callable[[str], None]) -> None:
    """Serve on `listener` until SIGTERM or SIGINT, then drain; `announce` gets the URL once requests are taken."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(server, listener, announce))
    server.workers.close(NS_PER_S)
    server.decoder.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(server: Server, listener: socket.socket, announce: Callable[[str], None]) -> None:
    settings, engine = server.settings, server.engine
    app = create_rest_api(
        engine,
        limits=RestLimits(
            image_bytes_max=settings.image_bytes_max,
            body_bytes_max=settings.body_bytes_max,
            images_per_request_max=settings.images_per_request_max,
            top_k_max=settings.top_k_max,
        ),
        metrics_page=server.instrument.metrics_page,
        version=version("phiserve"),
        bind_request_id=bind_request_id,
    )
    http = _Http(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False, backlog=2048)
    )
    stop: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.put_nowait, number)
    engine.open()
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    host, port = listener.getsockname()[:2]
    announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    stopped = asyncio.create_task(stop.get())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if stopped.done():
        await _drain(server, stopped.result(), stop)
    http.should_exit = True
    await serving


async def _drain(server: Server, received: signal.Signals, stop: asyncio.Queue[signal.Signals]) -> None:
    """Not ready at once; after a notice, refuse and finish what is in service. A second signal ends the notice."""
    settings, engine = server.settings, server.engine
    logger.info("%s received, draining", received.name)
    engine.announce_drain()
    if received is signal.SIGTERM:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.get(), settings.drain_notice_s)
    drained = await engine.drain(round(settings.drain_timeout_s * NS_PER_S))
    logger.info("drained" if drained else "drain timed out; what was left has been refused")
