"""A store made ready under a limit on memory: what every variant takes is measured, and as many are loaded as fit.

Sessions are opened and closed here, one variant at a time, also while others serve. Which ones is decided by
`core/residency.py`. Blocks; serves nothing. On a CPU under Linux only: there alone the kernel tells what they take.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from model_store.catalogue import CatalogueEntry
from model_store.footprint import Footprint
from model_store.latency_profile import MachineProfile, StageCost
from service.core.clock import MonotonicClock
from service.core.generation import Generation, ServedVariant
from service.core.menu import Menu
from service.core.residency import NoRoomError, Residency
from service.runtime import footprints, process_memory, profile_cache
from service.runtime.calibration import calibrate
from service.runtime.session import Session, SessionKey, open_sessions, runtime_name, warm_up
from service.runtime.worker_pool import WorkerPool
from service.settings import Settings
from service.store_loading import (
    LoadedStore,
    Machine,
    Progress,
    UnservableError,
    choices_of,
    find_entries,
    routable_of,
    version_of,
)

logger = logging.getLogger(__name__)

MIB = 1024**2

SERVING_BYTES = 64 * MIB
"""What the server holds more under load than at rest, beside pictures that wait; `benchmarks memory_limit` shows it."""


@dataclass(frozen=True, slots=True, eq=False)
class LimitedStore:
    """A store of which some variants are loaded: what was made, who decides what is, and who does it."""

    loaded: LoadedStore
    residency: Residency
    sessions: VariantSessions
    batch_sizes: Mapping[str, tuple[int, ...]]
    """Of each variant, those that may be planned."""
    base_bytes: int = 0
    """What is reckoned for all else that the server holds."""


class VariantSessions:
    """The sessions of a pool of workers, opened and closed by variant."""

    def __init__(
        self, settings: Settings, machine: Machine, entries: Mapping[str, CatalogueEntry], clock: MonotonicClock
    ) -> None:
        """Nothing is open, and there are no workers."""
        self._settings = settings
        self._machine = machine
        self._entries = entries
        self._clock = clock
        self._sessions: dict[SessionKey, Session] = {}

    def start_workers(self) -> WorkerPool:
        """Workers for whatever is open, with room for any variant; at least one must be open."""
        return WorkerPool(
            self._machine.workers,
            self._sessions,
            self._machine.batch_sizes[-1],
            clock=self._clock,
            helpers=self._machine.resize_threads,
            resolution_max=max(entry.variant.resolution for entry in self._entries.values()),
        )

    def open(self, name: str, batch_sizes: Sequence[int], rest: Callable[[], None] = lambda: None) -> None:
        """Load and warm; `rest` is called after each piece of work, and may take its time.

        Raises:
            StoreError, SessionError: it cannot be loaded; nothing is left of it.
        """
        machine = self._machine
        opened = open_sessions(
            [self._entries[name]],
            machine.thread_widths,
            machine.provider,
            batch_size_max=machine.batch_sizes[-1],
            workers=machine.workers,
            cache_dir=self._settings.store / "provider-cache",
            progress=lambda _done, _total, _label: rest(),
        )
        for session in opened.values():
            warm_up(session, batch_sizes)
            rest()
        self._sessions.update(opened)

    def held_bytes(self) -> int:
        """What the whole server holds now."""
        return process_memory.resident_bytes() or 0

    def close(self, names: Collection[str]) -> None:
        """Free what sessions of `names` hold, of which none may be running, and give it back to the machine."""
        for key in [key for key in self._sessions if key[0] in names]:
            del self._sessions[key]
        process_memory.give_back()
        # What runs left in the memory that all sessions share; it takes a run of one to be asked for.
        if (left := next(iter(self._sessions.values()), None)) is not None:
            left.shrink_arena()
            process_memory.give_back()


class LimitedLoader:
    """Loads what the store of the settings holds, as far as their limit has room for it."""

    def __init__(self, settings: Settings, machine: Machine, clock: MonotonicClock) -> None:
        """Nothing is read yet."""
        self._settings = settings
        self._machine = machine
        self._clock = clock
        self._limit_bytes = settings.memory_limit_mib * MIB

    def load(self, progress: Progress) -> LimitedStore:
        """As at a start: what is not known of this machine is measured, and the best set that fits is loaded.

        Raises:
            UnservableError: nothing may be served, or nothing fits; the message names the least limit that would do.
            StoreError, SessionError: a damaged store, or a graph that cannot be loaded.
        """
        self._check_machine()
        found = find_entries(self._settings, self._machine.provider)
        entries = routable_of(self._settings, found)
        found_footprints = self._footprints(entries, progress)
        smallest = min(entries, key=lambda name: found_footprints[name].loading_bytes)
        sessions = VariantSessions(self._settings, self._machine, entries, self._clock)
        sessions.open(smallest, self._machine.batch_sizes)
        base = self._base_bytes(found_footprints[smallest])
        entries = self._that_fit(entries, found_footprints, base)
        room = self._limit_bytes - base - found_footprints[smallest].resident_bytes
        groups = _groups([name for name in entries if name != smallest], found_footprints, room)
        workers = sessions.start_workers()
        profile = self._profile(entries, workers, sessions, groups=groups, progress=progress)
        residency = self._residency(entries, profile, found_footprints, base)
        wanted = residency.at_start()
        # Only what can be planned is warmed.
        sizes = Menu(choices_of(entries, profile)).batch_sizes_by_variant()
        if smallest not in wanted:
            sessions.close([smallest])
        for at, name in enumerate(wanted):
            progress("loading", at, len(wanted))
            if name != smallest:
                sessions.open(name, sizes[name])
        progress("loading", len(wanted), len(wanted))
        residency.began_with(wanted, self._clock.now_ns())
        served = {
            name: ServedVariant(entry.manifest, entry.labels, routable=name in found_footprints)
            for name, entry in found.items()
        }
        menu = residency.menu(residency.loaded, found)
        generation = Generation(version_of(found), menu, served, profile, workers)
        self._log(residency, entries)
        return LimitedStore(LoadedStore(generation, entries, workers), residency, sessions, sizes, base)

    def load_beside(self, current: LoadedStore, progress: Progress) -> LoadedStore | None:  # noqa: ARG002 as its peer
        """None if the store holds just what `current` was loaded from.

        Raises:
            UnservableError: anything else; StoreError: a damaged store.
        """
        if version_of(find_entries(self._settings, self._machine.provider)) == current.generation.version:
            return None
        raise UnservableError(
            "another version is loaded beside the one that serves, for which --memory-limit-mib leaves no room; "
            "restart the server to serve it"
        )

    def _check_machine(self) -> None:
        if not self._machine.provider.on_cpu:
            raise UnservableError(
                f"--memory-limit-mib counts this machine's memory, and {self._machine.provider} keeps variants in that "
                "of its device; leave the limit out, or say --provider cpu"
            )
        if process_memory.resident_bytes() is None:
            raise UnservableError("--memory-limit-mib needs Linux, whose kernel tells what a process holds")

    def _footprints(self, entries: Mapping[str, CatalogueEntry], progress: Progress) -> Mapping[str, Footprint]:
        return footprints.load_or_measure(
            self._settings.store,
            entries,
            self._wanted(entries),
            self._machine.provider,
            progress=lambda done, total, _: progress("measuring memory", done, total),
        )

    def _wanted(self, entries: Mapping[str, CatalogueEntry]) -> profile_cache.Wanted:
        machine = self._machine
        return profile_cache.wanted_of(
            runtime_name(machine.provider),
            machine.workers,
            entries,
            batch_sizes=machine.batch_sizes,
            thread_widths=machine.thread_widths,
        )

    def _base_bytes(self, loaded: Footprint) -> int:
        """What the server takes beside its variants, of which one is loaded now."""
        process_memory.give_back()
        resident = process_memory.resident_bytes()
        assert resident is not None, "the kernel told before"
        return max(0, resident - loaded.resident_bytes) + SERVING_BYTES

    def _that_fit(
        self, entries: Mapping[str, CatalogueEntry], found: Mapping[str, Footprint], base: int
    ) -> Mapping[str, CatalogueEntry]:
        """Those that fit into the limit at all."""
        fitting = {name: e for name, e in entries.items() if base + found[name].loading_bytes <= self._limit_bytes}
        if not fitting:
            raise self._no_room(base + min(footprint.loading_bytes for footprint in found.values()))
        for name in entries.keys() - fitting.keys():
            least = base + found[name].loading_bytes
            logger.warning("%s is not served: --memory-limit-mib %d would do", name, _mib(least))
        return fitting

    def _no_room(self, least: int) -> UnservableError:
        return UnservableError(
            f"--memory-limit-mib {self._settings.memory_limit_mib} has no room for any variant; the smallest limit "
            f"that works here is {_mib(least)}"
        )

    def _profile(
        self,
        entries: Mapping[str, CatalogueEntry],
        workers: WorkerPool,
        sessions: VariantSessions,
        *,
        groups: Sequence[Sequence[str]],
        progress: Progress,
    ) -> MachineProfile:
        """The cached profile, or one measured group by group beside what is open, which is all that is left open."""
        wanted = self._wanted(entries)
        cached = profile_cache.load(self._settings.store, wanted)
        if isinstance(cached, MachineProfile):
            return cached
        logger.info("profiling %d variants on %s: %s", len(entries), wanted.machine, cached)
        parts: list[MachineProfile] = []
        timed: set[str] = set()
        for group in groups or [[]]:
            for name in group:
                sessions.open(name, (1,))
            opened = {name: entries[name] for name, _ in workers.sessions if name not in timed}
            parts.append(self._calibrated(opened, workers, progress))
            timed.update(opened)
            sessions.close(group)
        profile = _merged(parts)
        profile_cache.write_whole(profile_cache.profile_path(self._settings.store, wanted), profile.to_json())
        return profile

    def _calibrated(
        self, entries: Mapping[str, CatalogueEntry], workers: WorkerPool, progress: Progress
    ) -> MachineProfile:
        return calibrate(
            workers,
            entries,
            batch_sizes=self._machine.batch_sizes,
            thread_widths=self._machine.thread_widths,
            clock=self._clock,
            progress=lambda done, total, _: progress("profiling", done, total),
        )

    def _residency(
        self,
        entries: Mapping[str, CatalogueEntry],
        profile: MachineProfile,
        found: Mapping[str, Footprint],
        base: int,
    ) -> Residency:
        try:
            return Residency(
                Menu(choices_of(entries, profile)).choices,
                found,
                self._limit_bytes - base,
                budget_ns_default=round(self._settings.budget_ms_default * 1_000_000),
                unfit=found.keys() - entries.keys(),
            )
        except NoRoomError as error:
            raise self._no_room(base + error.needed_bytes) from error

    def _log(self, residency: Residency, entries: Mapping[str, CatalogueEntry]) -> None:
        logger.info(
            "loaded %s of %d variants: they take %d MiB of the %d that --memory-limit-mib leaves for variants",
            ", ".join(sorted(residency.loaded)),
            len(entries),
            residency.resident_bytes(residency.loaded) // MIB,
            residency.room_bytes // MIB,
        )
        if never := [name for name in residency.unloaded if not residency.ever_fits(name)]:
            logger.warning(
                "never loaded, since there is no room beside %s: %s", ", ".join(residency.always), ", ".join(never)
            )


def _groups(names: Sequence[str], found: Mapping[str, Footprint], room: int) -> list[list[str]]:
    """Of variants that fit beside each other while they are loaded in this order."""
    groups: list[list[str]] = []
    held = 0
    for name in names:
        if not groups or held + found[name].loading_bytes > room:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += found[name].resident_bytes
    return groups


def _merged(parts: Sequence[MachineProfile]) -> MachineProfile:
    """One profile of all; a picture's decode costs what it costs for the largest of them."""
    return dataclasses.replace(
        parts[0],
        model_sha256={name: digest for part in parts for name, digest in part.model_sha256.items()},
        latencies=tuple(latency for part in parts for latency in part.latencies),
        decode=StageCost(
            max(part.decode.fixed_ns for part in parts), max(part.decode.per_megapixel_ns for part in parts)
        ),
        overhead_ns=max(part.overhead_ns for part in parts),
    )


def _mib(size: int) -> int:
    return -(-size // MIB)
