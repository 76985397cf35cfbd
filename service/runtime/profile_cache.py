"""Machine profiles on disk, under the store: measured once per machine, runtime and model, and then reused.

A profile that is missing, broken or of something else is measured again, and the log says why. A store that
cannot be written to costs the measurement at every start and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_store.catalogue import CatalogueEntry
from model_store.latency_profile import LatencyProfile, MachineProfile, ProfileError
from service.core.clock import Clock
from service.runtime.calibration import LATENCY_NS_MAX, MODEL_FILE, calibrate, predicted_ns
from service.runtime.machine import machine_name
from service.runtime.worker_pool import Progress, WorkerPool

logger = logging.getLogger(__name__)

PROFILES_FOLDER = "profiles"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What a profile must be of to be used: the machine and runtime at hand, and what will be run."""

    machine: str
    runtime: str
    workers: int
    model_sha256: Mapping[str, str]
    batch_sizes: tuple[int, ...]
    thread_widths: tuple[int, ...]


def load_or_calibrate(
    store_root: Path,
    pool: WorkerPool,
    entries: Mapping[str, CatalogueEntry],
    *,
    batch_sizes: Sequence[int],
    thread_widths: Sequence[int],
    clock: Clock,
    progress: Progress = lambda _done, _total, _label: None,
    force: bool = False,
) -> MachineProfile:
    """The cached profile of `entries` if it still holds and not `force`, else one measured now and cached.

    Raises:
        ValueError, Exception: as `calibrate`.
    """
    wanted = what_is_wanted(pool, entries, batch_sizes=batch_sizes, thread_widths=thread_widths)
    path = profile_path(store_root, wanted)
    cached = "it was asked for" if force else load(store_root, wanted)
    if isinstance(cached, MachineProfile):
        return cached
    logger.info("profiling %d variants on %s: %s", len(entries), wanted.machine, cached)
    profile = calibrate(
        pool, entries, batch_sizes=batch_sizes, thread_widths=thread_widths, clock=clock, progress=progress
    )
    write_whole(path, profile.to_json())
    return profile


def what_is_wanted(
    pool: WorkerPool,
    entries: Mapping[str, CatalogueEntry],
    *,
    batch_sizes: Sequence[int],
    thread_widths: Sequence[int],
) -> Wanted:
    """What a profile of `entries`, run by `pool` on this machine, must be of."""
    runtime = next(iter(pool.sessions.values())).runtime
    return wanted_of(runtime, pool.count, entries, batch_sizes=batch_sizes, thread_widths=thread_widths)


def wanted_of(
    runtime: str,
    workers: int,
    entries: Mapping[str, CatalogueEntry],
    *,
    batch_sizes: Sequence[int],
    thread_widths: Sequence[int],
) -> Wanted:
    """The same for `workers` whose sessions say that they are run by `runtime`."""
    return Wanted(
        machine=machine_name(),
        runtime=runtime,
        workers=workers,
        model_sha256={name: entry.manifest.files[MODEL_FILE].sha256 for name, entry in entries.items()},
        batch_sizes=tuple(batch_sizes),
        thread_widths=tuple(thread_widths),
    )


def load(store_root: Path, wanted: Wanted) -> MachineProfile | str:
    """The cached profile of what is wanted and of nothing else, or why there is none."""
    cached = _read(profile_path(store_root, wanted))
    if isinstance(cached, str):
        return cached
    return why_stale(cached, wanted) or _restricted(cached, wanted)


def profile_path(store_root: Path, wanted: Wanted) -> Path:
    """Where the profile of this machine, runtime and worker count is kept."""
    identity = f"{wanted.machine}\n{wanted.runtime}\n{wanted.workers}"
    readable = re.sub(r"[^a-z0-9]+", "-", wanted.machine.lower()).strip("-")[:60]
    return store_root / PROFILES_FOLDER / f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}.json"


def profile_is_current(profile: MachineProfile, wanted: Wanted) -> bool:
    """Whether `profile` is of what is at hand and covers all that will be run."""
    return why_stale(profile, wanted) is None


def why_stale(profile: MachineProfile, wanted: Wanted) -> str | None:
    """The first reason not to use `profile`; None if it is current. Extra variants in it do no harm."""
    for field in ("machine", "runtime", "workers"):
        had, have = getattr(profile, field), getattr(wanted, field)
        if had != have:
            return f"the cached profile is of {field} {had!r}, this is {have!r}"
    points = {(latency.variant, latency.threads): latency for latency in profile.latencies}
    for name, sha256 in wanted.model_sha256.items():
        if name not in profile.model_sha256:
            return f"{name} is not in the cached profile"
        if profile.model_sha256[name] != sha256:
            return f"the graph of {name} has changed"
        for threads in wanted.thread_widths:
            latency = points.get((name, threads))
            if latency is None or not _covers(latency, wanted.batch_sizes):
                return f"{name} on {threads} threads was not timed at batch sizes {list(wanted.batch_sizes)}"
    return None


def _covers(latency: LatencyProfile, batch_sizes: tuple[int, ...]) -> bool:
    """Whether all `batch_sizes` were timed, or all until they took too long to be of use."""
    sizes = tuple(point.batch_size for point in latency.points)
    if sizes[: len(batch_sizes)] == batch_sizes:
        return True
    if sizes != batch_sizes[: len(sizes)] or len(sizes) > len(batch_sizes):
        return False
    last = latency.points[-1]
    # Half, since calibration decided by another run than the figure comes from, and the two may differ a little.
    return predicted_ns(last.latency_ns, last.batch_size, batch_sizes[len(sizes)]) > LATENCY_NS_MAX // 2


def _restricted(profile: MachineProfile, wanted: Wanted) -> MachineProfile:
    """Only what was asked for, so that nobody plans with a variant or width that is not loaded."""
    return dataclasses.replace(
        profile,
        model_sha256=dict(wanted.model_sha256),
        latencies=tuple(
            _up_to(latency, wanted.batch_sizes[-1])
            for latency in profile.latencies
            if latency.variant in wanted.model_sha256 and latency.threads in wanted.thread_widths
        ),
    )


def _up_to(latency: LatencyProfile, batch_size_max: int) -> LatencyProfile:
    """Without the larger batches, for which no worker has room."""
    points = tuple(point for point in latency.points if point.batch_size <= batch_size_max)
    return dataclasses.replace(latency, points=points)


def _read(path: Path) -> MachineProfile | str:
    """The cached profile, or why there is none."""
    try:
        return MachineProfile.from_json(path.read_bytes())
    except FileNotFoundError:
        return "no profile is cached"
    except (OSError, ProfileError) as error:
        return f"the cached profile cannot be used ({error})"


def write_whole(path: Path, text: str) -> None:
    """Replace the file in one step: readers see the old profile or the new one, never half of one.

    Where that cannot be done a warning is logged, and the next start measures again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        logger.warning("the profile cannot be kept, so the next start measures again: %s", error)
