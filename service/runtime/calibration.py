"""Times the real workers on this machine: what each (variant, thread width, batch size) takes, and the decode.

The workers are timed as they will be used, through the same pool, from handing over a plan to its result, and
under the contention that a loaded server has: a width of t threads is timed with as many such runs side by side
as the workers allow (floor(workers / t)), all started together. On two workers that makes two one-thread runs,
which share caches and memory bandwidth, or one two-thread run. The figure is a high quantile over all of them,
as deadlines are kept by what a run may take and not by its mean; on an idle server runs are a little faster than
their profile. Points are timed in turn, over and over, so that a disturbance from outside touches a few runs of
many points and not all runs of one; and each run finds the caches as another variant left them, as in service.
Decoding takes turns with the workers on the same cores and is timed alone.

Keeps no file; `profile_cache.py` does.
"""

from __future__ import annotations

import itertools
import logging
import queue
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from model_store.catalogue import CatalogueEntry
from model_store.latency_profile import SCHEMA_VERSION, LatencyPoint, LatencyProfile, MachineProfile, StageCost
from model_store.manifest import ModelVariant
from service.core.clock import Clock
from service.core.request import Plan, RunResult
from service.runtime.decode import decode_rgb
from service.runtime.image_header import PIXELS_MAX_LIMIT
from service.runtime.machine import machine_name
from service.runtime.preprocess import shorter_side_px
from service.runtime.providers import Provider
from service.runtime.rgb_image import RgbImage
from service.runtime.session import SessionKey
from service.runtime.synthetic_picture import synthetic_jpeg, synthetic_picture
from service.runtime.worker_pool import Progress, WorkerPool

logger = logging.getLogger(__name__)

MODEL_FILE = "model.onnx"

QUANTILE = 0.9
"""Share of the timed runs that are within the figure."""

POINT_NS = 400_000_000
"""Time spent on one point in all, once it has `ROUNDS_MIN` rounds."""

ROUNDS_MIN = 3
ROUNDS_MAX = 20

LATENCY_NS_MAX = 2_000_000_000
"""Batch sizes predicted to take longer are not timed, and so never planned: no request waits so long by choice."""

ANSWER_NS = 500_000
"""Allowance for what is not timed here: making the answer and writing it to the socket."""

UNDISTURBED_SHARE = 0.85
"""Share of their time that one-thread runs must have had a core, or the profile is said to be disturbed."""

_TOP_K = 5
_HEADROOM = 1.5  # pictures come out of the decoder 1 to 2 times as large as the largest network needs
_DECODE_SIZES = ((500, 375), (2048, 1536))
_DECODE_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class _Timing:
    """One run: from hand-over to its result, and from the result to this thread's having noticed it."""

    latency_ns: int
    hop_ns: int


def calibrate(
    pool: WorkerPool,
    entries: Mapping[str, CatalogueEntry],
    *,
    batch_sizes: Sequence[int],
    thread_widths: Sequence[int],
    clock: Clock,
    progress: Progress = lambda _done, _total, _label: None,
) -> MachineProfile:
    """Measure everything the planner needs for `entries`, whose sessions `pool` holds. All workers must be idle.

    `batch_sizes` rise from 1; `thread_widths` are at most `pool.count`. `progress` gets (points done, points
    in all, what is being timed). For Lite0 to Lite2 at batches 1, 2, 4, 8 and widths 1, 2 it takes 10 to 15 s.

    Raises:
        ValueError: batch sizes or widths that the pool cannot run.
        Exception: whatever a run raised.
    """
    _check_points(pool, batch_sizes, thread_widths)
    variants = [entry.variant for entry in entries.values()]
    keys = [(variant.name, threads) for variant in variants for threads in thread_widths]
    steps = len(keys) * len(batch_sizes) + 1
    progress(0, steps, "decode")
    decode = _decode_cost(variants, clock)
    bench = _Bench(pool, picture_for(variants), clock)
    points = bench.measure(keys, batch_sizes, lambda done, label: progress(1 + done, steps, label))
    progress(steps, steps, "profiled")
    provider = pool.sessions[keys[0]].provider
    if provider is Provider.CPU and bench.own_share < UNDISTURBED_SHARE:
        logger.warning(
            "other work took %.0f %% of the cores while they were profiled, so budgets will be judged too strictly; "
            "measure again with `phiserve profile --force` when the machine is quiet",
            100 * (1 - bench.own_share),
        )
    return MachineProfile(
        schema_version=SCHEMA_VERSION,
        machine=machine_name(),
        runtime=pool.sessions[keys[0]].runtime,
        workers=pool.count,
        model_sha256={name: entry.manifest.files[MODEL_FILE].sha256 for name, entry in entries.items()},
        latencies=tuple(
            _profile(key, [point for point in points if point.key == key], padded=provider.fixed_batches)
            for key in keys
        ),
        decode=decode,
        overhead_ns=_overhead_ns(bench.hops_ns),
    )


def predicted_ns(latency_ns: int, batch_size: int, following: int) -> int:
    """What a run of `following` images should take if images cost the same each; larger batches save, if anything."""
    return latency_ns * following // batch_size


def _check_points(pool: WorkerPool, batch_sizes: Sequence[int], thread_widths: Sequence[int]) -> None:
    sizes, widths = list(batch_sizes), list(thread_widths)
    if not sizes or sizes[0] != 1 or sizes != sorted(set(sizes)) or sizes[-1] > pool.batch_size_max:
        raise ValueError(f"batch sizes must rise from 1 to {pool.batch_size_max} at most, got {sizes}")
    if not widths or min(widths) < 1 or max(widths) > pool.count:
        raise ValueError(f"thread widths must be 1 to {pool.count}, one worker a thread, got {widths}")


def quantile(values: Sequence[int]) -> int:
    """The smallest value that at least `QUANTILE` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * int(QUANTILE * 100) // 100) - 1]


def _overhead_ns(hops_ns: Sequence[int]) -> int:
    """Two hops between threads, decoder to event loop and worker to event loop, and the answer.

    The second one is at its quantile, the first at its median: both at once being slow is rarer than either.
    """
    return statistics.median_low(hops_ns) + quantile(hops_ns) + ANSWER_NS


@dataclass(slots=True, eq=False)
class _Point:
    """One (variant, thread width, batch size), with what its runs took so far."""

    key: SessionKey
    batch_size: int
    latencies_ns: list[int] = field(default_factory=list)
    rounds: int = 0
    spent_ns: int = 0

    @property
    def share_done(self) -> float:
        """How much of its timing is behind it, 0 to 1; more rounds than make 1 would not be worth their time."""
        return min(1.0, self.rounds / ROUNDS_MIN, max(self.spent_ns / POINT_NS, self.rounds / ROUNDS_MAX))


def _profile(key: SessionKey, points: Sequence[_Point], *, padded: bool) -> LatencyProfile:
    """The quantile at each batch size, never falling: noise can invert neighbours, and a planner would pad batches."""
    figures = itertools.accumulate((quantile(point.latencies_ns) for point in points), max)
    return LatencyProfile(
        variant=key[0],
        threads=key[1],
        points=tuple(
            LatencyPoint(point.batch_size, latency_ns) for point, latency_ns in zip(points, figures, strict=True)
        ),
        padded=padded,
    )


class _Bench:
    """Runs points on the pool and collects what they took."""

    def __init__(self, pool: WorkerPool, picture: RgbImage, clock: Clock) -> None:
        self._pool = pool
        self._picture = picture
        self._clock = clock
        self.hops_ns: list[int] = []
        self._core_ns = 0
        self._lane_ns = 0

    @property
    def own_share(self) -> float:
        """Processor time that this process got per time its one-thread runs took, at most 1."""
        return min(1.0, self._core_ns / self._lane_ns) if self._lane_ns else 1.0

    def measure(
        self, keys: Sequence[SessionKey], batch_sizes: Sequence[int], report: Callable[[int, str], None]
    ) -> list[_Point]:
        """All points worth timing, each timed enough; `report` gets (points done, what goes on)."""
        points = [point for key in keys for point in self._warm(key, batch_sizes, report)]
        left_out = len(keys) * len(batch_sizes) - len(points)
        while under_way := [point for point in points if point.share_done < 1]:
            for point in under_way:
                done = left_out + int(sum(point.share_done for point in points))
                report(done, f"{point.key[0]}, {point.key[1]} threads, batch {point.batch_size}")
                self._time(point)
        return points

    def _warm(
        self, key: SessionKey, batch_sizes: Sequence[int], report: Callable[[int, str], None]
    ) -> Iterable[_Point]:
        """Each batch size run once, since first runs allocate, up to the first predicted to take too long."""
        for batch_size in batch_sizes:
            report(0, f"first runs of {key[0]}, {key[1]} threads, batch {batch_size}")
            self._round(key, batch_size)
            yield _Point(key, batch_size)
            following = next((size for size in batch_sizes if size > batch_size), None)
            if following is None:
                return
            # Not predicted by the first runs, which on a GPU include the search for kernels.
            again_ns = min(timing.latency_ns for timing in self._round(key, batch_size))
            if predicted_ns(again_ns, batch_size, following) > LATENCY_NS_MAX:
                return

    def _time(self, point: _Point) -> None:
        started_ns, core_ns = self._clock.now_ns(), time.process_time_ns()
        timings = self._round(point.key, point.batch_size)
        if point.key[1] == 1:
            self._core_ns += time.process_time_ns() - core_ns
            self._lane_ns += sum(timing.latency_ns for timing in timings)
        point.spent_ns += self._clock.now_ns() - started_ns
        point.rounds += 1
        point.latencies_ns.extend(timing.latency_ns for timing in timings)
        self.hops_ns.extend(timing.hop_ns for timing in timings)

    def _round(self, key: SessionKey, batch_size: int) -> list[_Timing]:
        """As many runs at once as the workers allow, each timed."""
        variant, threads = key
        plan = Plan(variant, threads, tuple(range(batch_size)), 0)
        ended: queue.SimpleQueue[tuple[RunResult | BaseException, int, int]] = queue.SimpleQueue()
        lanes = max(1, self._pool.count // threads)
        for lane in range(lanes):
            done = self._stopwatch(ended)
            self._pool.start_run(lane * threads, plan, [self._picture] * batch_size, _TOP_K, done)
        timings = []
        for _ in range(lanes):
            outcome, latency_ns, ended_ns = ended.get()
            if isinstance(outcome, BaseException):
                raise outcome
            timings.append(_Timing(latency_ns, self._clock.now_ns() - ended_ns))
        return timings

    def _stopwatch(
        self, ended: queue.SimpleQueue[tuple[RunResult | BaseException, int, int]]
    ) -> Callable[[RunResult | BaseException], None]:
        started_ns = self._clock.now_ns()

        def done(outcome: RunResult | BaseException) -> None:
            now_ns = self._clock.now_ns()
            ended.put((outcome, now_ns - started_ns, now_ns))

        return done


def picture_for(variants: Iterable[ModelVariant]) -> RgbImage:
    """A 4:3 picture of the size the decoder typically hands on when the largest variant is feasible."""
    shorter = int(_HEADROOM * max(shorter_side_px(variant) for variant in variants))
    return synthetic_picture(shorter * 4 // 3, shorter)


def _decode_cost(variants: Iterable[ModelVariant], clock: Clock) -> StageCost:
    """A line through what a small and a large photograph take, scaled for the largest variant.

    Through the medians: the door refuses by it what has no chance, which a pessimistic line would overdo.
    """
    shorter = max(shorter_side_px(variant) for variant in variants)
    pictures = [synthetic_jpeg(*size) for size in _DECODE_SIZES]
    times_ns: list[list[int]] = [[] for _ in pictures]
    for _ in range(_DECODE_ROUNDS):
        for data, times in zip(pictures, times_ns, strict=True):
            started_ns = clock.now_ns()
            decode_rgb(data, shorter, PIXELS_MAX_LIMIT)
            times.append(clock.now_ns() - started_ns)
    small_ns, large_ns = (statistics.median_low(times) for times in times_ns)
    small_px, large_px = (width * height for width, height in _DECODE_SIZES)
    per_megapixel_ns = max(0, large_ns - small_ns) * 1_000_000 // (large_px - small_px)
    return StageCost(max(0, small_ns - per_megapixel_ns * small_px // 1_000_000), per_megapixel_ns)
