"""The composition root: builds every part from `Settings`, in order, and takes them down in the reverse order.

Start: store verified, sessions loaded and warmed, machine profiled, engine opened, and only then the port. End:
not ready at once, still serving for a notice, then draining within a bound, then the port, workers and decoder.
What the machine can run is decided here, what a request gets never.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from model_store.catalogue import Catalogue, CatalogueEntry, StoreError
from model_store.latency_profile import MachineProfile
from service import serving
from service.core.batch_planner import BatchPlanner, PlannerSettings
from service.core.clock import MonotonicClock
from service.core.deadline_queue import DeadlineQueue
from service.core.door import EngineSettings
from service.core.engine import Engine, ServedVariant
from service.core.instrument import Instruments
from service.core.load import LoadEstimator
from service.core.menu import Choice, Menu
from service.core.scheduler import Scheduler, SchedulerSettings
from service.core.tally import Tally
from service.fronts import build_fronts
from service.http_server import ListenError, loop_factory
from service.runtime.decode import PillowDecoder
from service.runtime.machine import available_cores
from service.runtime.profile_cache import load_or_calibrate
from service.runtime.session import Provider, SessionError, available_providers, open_sessions, resolve_provider
from service.runtime.worker_pool import WorkerPool
from service.serving import Announce, Ports
from service.settings import Settings, access_log_share
from service.telemetry.observers import Observers, TracingError, build_observers
from service.tls import TlsError

logger = logging.getLogger(__name__)

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_LAST_SPANS_S = 3.0
"""How long a drained server tries to send what it still knows of its last requests."""

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

    @property
    def on_cpu(self) -> bool:
        """Whether runs use the cores that everything else uses."""
        return self.provider in (Provider.CPU, Provider.OPENVINO)


@dataclass(frozen=True, slots=True)
class Server:
    """Everything that was built, ready to run."""

    settings: Settings
    engine: Engine
    workers: WorkerPool
    decoder: PillowDecoder
    observers: Observers
    tally: Tally


def plan_machine(settings: Settings, cores: int, available: Collection[str]) -> Machine:
    """How many workers and which thread widths: on a CPU a worker is a core, and a run may take one or all.

    On a GPU one worker feeds it, since runs would only take turns there. `available` are the names of ONNX
    Runtime's providers that are installed.
    """
    provider = resolve_provider(Provider(settings.provider), available)
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
    machine = plan_machine(settings, cores, available_providers())
    with _start_errors():
        observers, tally = _observers(settings, clock), Tally(clock)
        found = _find(settings)
        entries = _routable(settings, found)
        workers = _open_workers(settings, machine, entries, clock, progress)
        profile = _profile(settings, machine, entries, workers, progress)
        menu = Menu(_choices(entries, profile), known=found)
        # Only what can be planned is warmed: where batches save nothing that is batch size 1.
        planned = {(choice.variant.name, choice.threads): choice.batch_sizes for choice in menu.choices}
        workers.warm(planned, lambda done, total, _: progress("warming", done, total))
    # On a CPU the workers need the cores that decoding takes: as many threads as cores would only make both slower.
    spare = max(1, cores // 2) if machine.on_cpu else cores
    decoder = PillowDecoder(settings.decode_threads or spare, settings.admitted_max, settings.image_pixels_max)
    observers.metrics.variants_served(entries)
    served = {
        name: ServedVariant(entry.manifest, entry.labels, routable=name in entries) for name, entry in found.items()
    }
    engine = Engine(
        scheduler=_build_scheduler(settings, machine, menu, profile),
        menu=menu,
        served=served,
        profile=profile,
        decoder=decoder,
        workers=workers,
        clock=clock,
        instrument=Instruments(*observers.instruments, tally),
        settings=EngineSettings(
            budget_ns_default=round(settings.budget_ms_default * NS_PER_MS),
            budget_ns_max=round(settings.budget_ms_max * NS_PER_MS),
            top_k_max=settings.top_k_max,
            admitted_max=settings.admitted_max,
            admitted_per_client_max=settings.admitted_per_client_max,
        ),
    )
    return Server(settings, engine, workers, decoder, observers, tally)


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
    machine = plan_machine(settings, available_cores(), available_providers())
    with _start_errors():
        entries = _routable(settings, _find(settings))
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
    except (StoreError, SessionError, ListenError, TlsError, TracingError) as error:
        raise StartError(str(error)) from error


def _find(settings: Settings) -> Mapping[str, CatalogueEntry]:
    """The variants that were asked for, or all there are."""
    found = Catalogue.open(settings.store, only=settings.variants or None).entries
    if not found:
        raise StartError(f"the store at {settings.store} is empty; build it with `phiserve store build`")
    return found


def _routable(settings: Settings, found: Mapping[str, CatalogueEntry]) -> Mapping[str, CatalogueEntry]:
    """Those of `found` that may answer: not the untrained ones, unless the operator said so."""
    if settings.allow_untrained:
        return found
    trained = {name: entry for name, entry in found.items() if entry.variant.trained}
    untrained = ", ".join(sorted(found.keys() - trained.keys()))
    if not trained:
        raise StartError(
            f"the store at {settings.store} holds only untrained variants ({untrained}); "
            "build trained ones with `phiserve store build lite0 lite1 lite2`, or say --allow-untrained"
        )
    if untrained and settings.variants:
        raise StartError(f"asked to serve what is untrained ({untrained}); leave it out, or say --allow-untrained")
    if untrained:
        logger.warning("not served, since untrained: %s (--allow-untrained serves them)", untrained)
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
    """The menu's rows. Variants without a known accuracy rank by size, below every one that has one."""
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
    load = LoadEstimator(menu, machine.workers)
    planner = BatchPlanner(menu, load, PlannerSettings(settings.batch_size_max, profile.overhead_ns))
    return Scheduler(
        planner,
        DeadlineQueue(settings.queue_size_max),
        SchedulerSettings(machine.workers, round(settings.late_wait_ms_max * NS_PER_MS)),
    )


def take_ports(settings: Settings) -> Ports:
    """The ports for `run_server`, not open yet.

    Raises:
        StartError: an address is in use or not ours, or the TLS files cannot be used.
    """
    with _start_errors():
        return serving.take_ports(settings)


def run_server(server: Server, ports: Ports, announce: Announce) -> bool:
    """Serve on `ports` until SIGTERM or SIGINT, then drain; `announce` gets the URLs once they are open.

    False if a run has outlasted the drain and is still going on in its thread.

    Raises:
        StartError: another process opened the same port while this one was starting.
    """

    async def run() -> None:
        fronts = build_fronts(server.settings, server.engine, server.observers, server.tally, ports)
        await serving.serve(server.engine, fronts, server.settings, announce)

    with _start_errors(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run())
    server.observers.close(_LAST_SPANS_S)
    server.decoder.close()
    return server.workers.close(NS_PER_S)
