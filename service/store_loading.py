"""One version of a store, made ready to serve: verified, loaded, measured and warmed, at a start or beside another one.

What the machine can run is decided here, what a request gets never. Blocks; serves nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from model_store.catalogue import Catalogue, CatalogueEntry
from model_store.latency_profile import MachineProfile
from service.core.clock import MonotonicClock
from service.core.generation import Generation, ServedVariant
from service.core.menu import Choice, Menu
from service.runtime import profile_cache
from service.runtime.calibration import MODEL_FILE
from service.runtime.carried_profile import Known, carry_over
from service.runtime.precisions import refusal
from service.runtime.process_memory import give_back
from service.runtime.providers import GPU_BATCH_STEP, Provider, batch_sizes_up_to
from service.runtime.session import Session, SessionKey, open_sessions
from service.runtime.worker_pool import WorkerPool
from service.settings import Settings

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000

CPU_BATCH_SIZE_MAX = 8
GPU_BATCH_SIZE_MAX = 32

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as a stage proceeds."""


class UnservableError(Exception):
    """Nothing in the store may be served. The message says why and what would have worked."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs models here: provider, workers, and the thread widths and batch sizes that may be planned.

    `resize_threads` help the workers with cropping and resizing; 0: each worker does it alone.
    """

    provider: Provider
    workers: int
    thread_widths: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    resize_threads: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LoadedStore:
    """A generation, and what made it: routable entries by name, and the workers that hold the sessions."""

    generation: Generation
    entries: Mapping[str, CatalogueEntry]
    workers: WorkerPool

    def close(self, timeout_ns: int = NS_PER_S) -> bool:
        """End the workers after the runs they are on; False if one still runs after `timeout_ns`."""
        return self.workers.close(timeout_ns)


def plan_machine(settings: Settings, cores: int, provider: Provider) -> Machine:
    """How many workers, which thread widths and batch sizes: on a CPU a worker is a core, and a run takes one or all.

    On a GPU one worker feeds it, since runs would only take turns there; batches are large, since they save much, and
    half of the idle cores crop and resize their pictures side by side, the others decode.
    """
    if provider.on_cpu:
        workers = settings.workers or cores
        # What a batch takes while it runs counts under a limit, and on a CPU batches save next to nothing.
        usual = 1 if settings.memory_limit_mib else CPU_BATCH_SIZE_MAX
        sizes = batch_sizes_up_to(settings.batch_size_max or usual)
        return Machine(provider, workers, tuple(sorted({1, min(workers, cores)})), sizes, settings.resize_threads)
    sizes = batch_sizes_up_to(settings.batch_size_max or GPU_BATCH_SIZE_MAX, GPU_BATCH_STEP)
    return Machine(provider, settings.workers or 1, (1,), sizes, settings.resize_threads or max(1, cores // 2))


class StoreLoader:
    """Loads what the store of the settings holds, as often as it is asked to."""

    def __init__(self, settings: Settings, machine: Machine, clock: MonotonicClock) -> None:
        """Nothing is read yet."""
        self._settings = settings
        self._machine = machine
        self._clock = clock

    def load(self, progress: Progress) -> LoadedStore:
        """Load as at a start: what is not in the profile cache is measured with every core.

        Raises:
            UnservableError: nothing may be served.
            StoreError, SessionError: a damaged store, or a graph that cannot be loaded.
        """
        found = find_entries(self._settings, self._machine.provider)
        entries = routable_of(self._settings, found)
        workers = self._open_workers(entries, progress)
        profile = self._profile(entries, workers, progress)
        if self._machine.provider.on_cpu:
            # Large batches were timed, and are not planned on a CPU: what they took would be kept for nothing.
            next(iter(workers.sessions.values())).shrink_arena()
            give_back()
        return _warmed(found, entries, workers, profile, progress)

    def load_beside(self, current: LoadedStore, progress: Progress) -> LoadedStore | None:
        """Load while `current` serves; None if the store holds just that.

        `progress` is called after each piece of work, and may take its time, so that what serves has the cores.

        Raises:
            UnservableError, StoreError, SessionError: as `load`; nothing is left of what was loaded.
            Exception: whatever a run raised.
        """
        found = find_entries(self._settings, self._machine.provider)
        entries = routable_of(self._settings, found)
        if version_of(found) == current.generation.version:
            return None
        kept = _kept(current, entries)
        workers = self._open_workers(entries, progress, kept)
        try:
            profile = self._profile_beside(current, entries, workers, progress)
            return _warmed(found, entries, workers, profile, progress, kept=kept)
        except BaseException:
            workers.close(NS_PER_S)
            raise

    def measure(self, progress: Progress, *, force: bool) -> tuple[MachineProfile, Menu]:
        """Measure as `load` does, and nothing more; `force` measures again what is current.

        Raises:
            UnservableError, StoreError, SessionError: as `load`.
        """
        entries = routable_of(self._settings, find_entries(self._settings, self._machine.provider))
        workers = self._open_workers(entries, progress)
        try:
            profile = self._profile(entries, workers, progress, force=force)
        finally:
            workers.close(NS_PER_S)
        return profile, Menu(choices_of(entries, profile), known=entries)

    def _open_workers(
        self,
        entries: Mapping[str, CatalogueEntry],
        progress: Progress,
        kept: Mapping[SessionKey, Session] = MappingProxyType({}),
    ) -> WorkerPool:
        """Workers over sessions of `entries`: those that are `kept`, and the others loaded."""
        settings, machine = self._settings, self._machine
        names = {name for name, _ in kept}
        opened = open_sessions(
            [entry for name, entry in entries.items() if name not in names],
            machine.thread_widths,
            machine.provider,
            batch_size_max=machine.batch_sizes[-1],
            workers=machine.workers,
            cache_dir=settings.store / "provider-cache",
            graphs=settings.cuda_graphs == "on",
            progress=lambda done, total, _: progress("loading", done, total),
        )
        return WorkerPool(
            machine.workers,
            {**kept, **opened},
            machine.batch_sizes[-1],
            clock=self._clock,
            helpers=machine.resize_threads,
        )

    def _profile(
        self, entries: Mapping[str, CatalogueEntry], workers: WorkerPool, progress: Progress, *, force: bool = False
    ) -> MachineProfile:
        return profile_cache.load_or_calibrate(
            self._settings.store,
            workers,
            entries,
            batch_sizes=self._machine.batch_sizes,
            thread_widths=self._machine.thread_widths,
            clock=self._clock,
            progress=lambda done, total, _: progress("profiling", done, total),
            force=force,
        )

    def _profile_beside(
        self,
        current: LoadedStore,
        entries: Mapping[str, CatalogueEntry],
        workers: WorkerPool,
        progress: Progress,
    ) -> MachineProfile:
        """The cached profile, which is of a machine that did nothing else, or one carried over from `current`."""
        machine, widths = self._machine, self._machine.thread_widths
        wanted = profile_cache.what_is_wanted(workers, entries, batch_sizes=machine.batch_sizes, thread_widths=widths)
        cached = profile_cache.load(self._settings.store, wanted)
        if isinstance(cached, MachineProfile):
            return cached
        logger.info("no profile of this version can be used: %s", cached)
        bench = WorkerPool(1, current.workers.sessions, 1, clock=self._clock)
        try:
            return carry_over(
                Known(current.entries, current.generation.profile, bench),
                workers,
                entries,
                # Where batches save nothing they are not planned, so they need not be timed either.
                batch_sizes=sorted({size for choice in current.generation.menu.choices for size in choice.batch_sizes}),
                thread_widths=widths,
                rest=lambda: progress("profiling", 0, 0),
            )
        finally:
            bench.close(NS_PER_S)


def _kept(current: LoadedStore, entries: Mapping[str, CatalogueEntry]) -> dict[SessionKey, Session]:
    """Sessions of `current` whose graph and input are those of `entries`: both generations may run them at once."""

    def same(entry: CatalogueEntry | None, other: CatalogueEntry) -> bool:
        if entry is None or entry.manifest.files[MODEL_FILE] != other.manifest.files[MODEL_FILE]:
            return False
        worth = other.variant
        return dataclasses.replace(entry.variant, top1=worth.top1, trained=worth.trained) == other.variant

    names = {name for name, entry in entries.items() if same(current.entries.get(name), entry)}
    return {key: session for key, session in current.workers.sessions.items() if key[0] in names}


def _warmed(
    found: Mapping[str, CatalogueEntry],
    entries: Mapping[str, CatalogueEntry],
    workers: WorkerPool,
    profile: MachineProfile,
    progress: Progress,
    *,
    kept: Collection[SessionKey] = (),
) -> LoadedStore:
    menu = Menu(choices_of(entries, profile), known=found)
    # Only what can be planned is warmed: where batches save nothing that is batch size 1. And what is warm already is
    # not, unless that is all there is: each worker has a buffer to touch.
    sizes = {(choice.variant.name, choice.threads): choice.batch_sizes for choice in menu.choices}
    planned = {key: sizes[key] for key in sizes if key not in kept} or sizes
    workers.warm(planned, lambda done, total, _: progress("warming", done, total))
    served = {
        name: ServedVariant(entry.manifest, entry.labels, routable=name in entries) for name, entry in found.items()
    }
    return LoadedStore(Generation(version_of(found), menu, served, profile, workers), entries, workers)


def version_of(found: Mapping[str, CatalogueEntry]) -> str:
    """Names the content: graphs and labels by their digests, and what the manifests say of them."""
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(found[name].manifest.to_json().encode())
    return digest.hexdigest()[:12]


def find_entries(settings: Settings, provider: Provider | None) -> Mapping[str, CatalogueEntry]:
    """The variants that were asked for, or all that `provider` can compute here; whatever it can with None."""
    found = Catalogue.open(settings.store, only=settings.variants or None).entries
    if not found:
        raise UnservableError(f"the store at {settings.store} is empty; build it with `phiserve store build`")
    if provider is None:
        return found
    reasons = {name: why for name, entry in found.items() if (why := refusal(provider, entry.variant.precision))}
    # One store is for many machines, so what was not asked for by name is left out, and not even known.
    complaints = [
        f"{', '.join(name for name in sorted(reasons) if reasons[name] == why)}: {why}"
        for why in dict.fromkeys(reasons.values())
    ]
    if reasons and (settings.variants or len(reasons) == len(found)):
        raise UnservableError(f"cannot be served here: {'; '.join(complaints)}")
    for complaint in complaints:
        logger.warning("not served, %s", complaint)
    return {name: entry for name, entry in found.items() if name not in reasons}


def routable_entries(settings: Settings) -> Mapping[str, CatalogueEntry]:
    """What of the store of `settings` may answer on some provider, verified.

    Raises:
        UnservableError, StoreError: nothing, or a damaged store.
    """
    return routable_of(settings, find_entries(settings, None))


def routable_of(settings: Settings, found: Mapping[str, CatalogueEntry]) -> Mapping[str, CatalogueEntry]:
    """Those of `found` that may answer: not the untrained ones, unless the operator said so."""
    if settings.allow_untrained:
        return found
    trained = {name: entry for name, entry in found.items() if entry.variant.trained}
    untrained = ", ".join(sorted(found.keys() - trained.keys()))
    if not trained:
        raise UnservableError(
            f"the store at {settings.store} holds only untrained variants ({untrained}); "
            "build trained ones with `phiserve store build lite0 lite1 lite2`, or say --allow-untrained"
        )
    if untrained and settings.variants:
        raise UnservableError(f"asked to serve what is untrained ({untrained}); leave it out, or say --allow-untrained")
    if untrained:
        logger.warning("not served, since untrained: %s (--allow-untrained serves them)", untrained)
    return trained


def choices_of(entries: Mapping[str, CatalogueEntry], profile: MachineProfile) -> list[Choice]:
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
