"""A profile of another version of a store, made while the one before serves: carried over as far as it is known.

Measuring as at a start would fill every core for seconds, and would time the requests in service with it. So what is
known is carried over: a graph that was timed before, and a network that differs from one by its weights alone, since
what a run takes does not depend on them. The rest is timed by one run at a time, each beside one of a variant that is
known: the requests in service slow both, and only the ratio counts. What that gets wrong, runs in service correct, as
they do for any profile (`core/drift.py`).

Writes no file: what is in a cache was measured whole, on workers that did nothing else.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_store.catalogue import CatalogueEntry
from model_store.latency_profile import LatencyPoint, LatencyProfile, MachineProfile
from service.core.request import Plan, RunResult
from service.runtime.calibration import LATENCY_NS_MAX, MODEL_FILE, picture_for
from service.runtime.rgb_image import RgbImage
from service.runtime.session import SessionKey
from service.runtime.worker_pool import WorkerPool

logger = logging.getLogger(__name__)

ROUNDS = 7
"""Pairs of runs behind each ratio; their median is taken."""

Rest = Callable[[], None]
"""Called after each piece of work, to leave the cores to others for a while."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is served now: its entries, its profile, and a pool over its sessions of which nobody else has a worker."""

    entries: Mapping[str, CatalogueEntry]
    profile: MachineProfile
    bench: WorkerPool


def carry_over(
    known: Known,
    pool: WorkerPool,
    entries: Mapping[str, CatalogueEntry],
    *,
    batch_sizes: Sequence[int],
    thread_widths: Sequence[int],
    rest: Rest,
) -> MachineProfile:
    """A profile of `entries`, whose sessions `pool` holds, at the widths that `known` was profiled at.

    `batch_sizes`: those to time of what is not known. The workers of `pool` must be idle.

    Raises:
        Exception: whatever a run raised.
    """
    latencies = {(latency.variant, latency.threads): latency for latency in known.profile.latencies}
    found: list[LatencyProfile] = []
    for name, entry in entries.items():
        same = _same_network(entry, known.entries)
        for threads in thread_widths:
            if same is not None:
                found.append(dataclasses.replace(latencies[same, threads], variant=name))
                continue
            near = min(known.entries, key=lambda other: abs(known.entries[other].manifest.flops - entry.manifest.flops))
            pair = _Pair(known.bench, (near, threads), pool, (name, threads), picture_for([entry.variant]), rest)
            found.append(_measured(pair, latencies[near, threads].latency_ns(1), batch_sizes))
        logger.info("%s is %s", name, "timed beside others" if same is None else f"taken to be as quick as {same} was")
    return dataclasses.replace(
        known.profile,
        model_sha256={name: entry.manifest.files[MODEL_FILE].sha256 for name, entry in entries.items()},
        latencies=tuple(found),
    )


def _same_network(entry: CatalogueEntry, known: Mapping[str, CatalogueEntry]) -> str | None:
    """The variant of `known` with the same graph, or with one that differs by its weights alone; the same one first."""
    names = sorted(known, key=lambda name: name != entry.variant.name)
    digest = entry.manifest.files[MODEL_FILE]
    exact = (name for name in names if known[name].manifest.files[MODEL_FILE] == digest)
    alike = (name for name in names if _network(known[name]) == _network(entry))
    return next(exact, None) or next(alike, None)


def _network(entry: CatalogueEntry) -> tuple[Any, ...]:
    """What the cost of a run follows from: the network and its input, not its weights nor what they are worth."""
    variant, manifest = entry.variant, entry.manifest
    as_input = (variant.resolution, variant.crop_fraction, variant.interpolation)
    as_graph = (manifest.parameters, manifest.flops, manifest.opset, manifest.ir_version)
    return (variant.member, variant.precision, variant.class_count, *as_input, *as_graph)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A known choice and an unknown one, run in turn."""

    bench: WorkerPool
    known: SessionKey
    pool: WorkerPool
    unknown: SessionKey
    picture: RgbImage
    rest: Rest

    def ratio(self, batch_size: int) -> float:
        """What a run of the unknown one takes, in single-image runs of the known one."""
        self._run(self.pool, self.unknown, batch_size)  # the first one allocates
        self._run(self.bench, self.known, 1)
        ratios = [
            self._run(self.pool, self.unknown, batch_size) / self._run(self.bench, self.known, 1) for _ in range(ROUNDS)
        ]
        return statistics.median(ratios)

    def _run(self, pool: WorkerPool, key: SessionKey, batch_size: int) -> int:
        ended: queue.SimpleQueue[RunResult | BaseException] = queue.SimpleQueue()
        variant, threads = key
        plan = Plan(variant, threads, tuple(range(batch_size)), 0)
        started_ns = pool.clock.now_ns()
        pool.start_run(0, plan, [self.picture] * batch_size, 1, ended.put)
        outcome = ended.get()
        took_ns = pool.clock.now_ns() - started_ns
        if isinstance(outcome, BaseException):
            raise outcome
        self.rest()
        return max(1, took_ns)


def _measured(pair: _Pair, known_ns: int, batch_sizes: Sequence[int]) -> LatencyProfile:
    """At each batch size the known latency times the ratio, never falling."""
    points: list[LatencyPoint] = []
    for size in batch_sizes:
        latency_ns = round(known_ns * pair.ratio(size))
        points.append(LatencyPoint(size, max(latency_ns, points[-1].latency_ns if points else 1)))
        if latency_ns > LATENCY_NS_MAX:
            break
    padded = pair.pool.sessions[pair.unknown].provider.fixed_batches
    return LatencyProfile(pair.unknown[0], pair.unknown[1], tuple(points), padded=padded)
