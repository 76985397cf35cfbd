"""Times the real workers on this machine: what each (variant, thread width, batch size) takes, and the decode.

The workers are timed as they will be used, through the same pool, from handing over a plan to its result, and
under the contention that a loaded server has: a width of t threads is timed with as many such runs side by side
as the workers allow (floor(workers / t)), all started together. On two workers that makes two one-thread runs,
which share caches and memory bandwidth, or one two-thread run. The figure is a high quantile over all of them,
as deadlines are kept by what a run may take and not by its mean; on an idle server runs are a little faster than
their profile. Decoding takes turns with the workers on the same cores and is timed alone.

Keeps no file; `profile_cache.py` does.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from model_store.catalogue import CatalogueEntry
from model_store.latency_profile import SCHEMA_VERSION, LatencyPoint, LatencyProfile, MachineProfile, StageCost
from model_store.manifest import ModelVariant
from service.core.clock import Clock
from service.core.request import Plan, RunResult
from service.runtime.decode import RgbImage, decode_rgb
from service.runtime.image_header import PIXELS_MAX_LIMIT
from service.runtime.machine import machine_name
from service.runtime.preprocess import shorter_side_px
from service.runtime.session import SessionKey, runtime_name
from service.runtime.synthetic_picture import synthetic_jpeg, synthetic_picture
from service.runtime.worker_pool import Progress, WorkerPool

MODEL_FILE = "model.onnx"

QUANTILE = 0.9
"""Share of the timed runs that are within the figure."""

POINT_NS = 400_000_000
"""Time spent on one point, once it has `ROUNDS_MIN` rounds."""

ROUNDS_MIN = 3
ROUNDS_MAX = 20

LATENCY_NS_MAX = 2_000_000_000
"""Batch sizes predicted to take longer are not timed, and so never planned: no request waits so long by choice."""

ANSWER_NS = 500_000
"""Allowance for what is not timed here: making the answer and writing it to the socket."""

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
    bench = _Bench(pool, _picture_for(variants), clock)
    latencies = []
    for index, key in enumerate(keys):
        report = _offset(progress, 1 + index * len(batch_sizes), steps)
        latencies.append(bench.profile(key, batch_sizes, report))
    progress(steps, steps, "profiled")
    return MachineProfile(
        schema_version=SCHEMA_VERSION,
        machine=machine_name(),
        runtime=runtime_name(pool.sessions[keys[0]].provider),
        workers=pool.count,
        model_sha256={name: entry.manifest.files[MODEL_FILE].sha256 for name, entry in entries.items()},
        latencies=tuple(latencies),
        decode=decode,
        overhead_ns=2 * quantile(bench.hops_ns) + ANSWER_NS,  # decoder to event loop, and worker to event loop
    )


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


class _Bench:
    """Runs points on the pool and collects what they took."""

    def __init__(self, pool: WorkerPool, picture: RgbImage, clock: Clock) -> None:
        self._pool = pool
        self._picture = picture
        self._clock = clock
        self.hops_ns: list[int] = []

    def profile(self, key: SessionKey, batch_sizes: Sequence[int], report: Progress) -> LatencyProfile:
        """Points by rising batch size, up to the first that would take longer than `LATENCY_NS_MAX`."""
        points: list[LatencyPoint] = []
        for index, size in enumerate(batch_sizes):
            if points and points[-1].latency_ns * size // points[-1].batch_size > LATENCY_NS_MAX:
                break
            report(index, len(batch_sizes), f"{key[0]}, {key[1]} threads, batch {size}")
            latency_ns = self._latency_ns(key, size)
            # A larger batch is never predicted to be faster: noise can invert neighbours, and a planner that
            # believes it would pad batches.
            points.append(LatencyPoint(size, max([latency_ns, *(point.latency_ns for point in points[-1:])])))
        return LatencyProfile(variant=key[0], threads=key[1], points=tuple(points))

    def _latency_ns(self, key: SessionKey, batch_size: int) -> int:
        self._round(key, batch_size)  # the first runs at a size allocate
        timings: list[_Timing] = []
        started_ns = self._clock.now_ns()
        for rounds in range(1, ROUNDS_MAX + 1):
            timings.extend(self._round(key, batch_size))
            if rounds >= ROUNDS_MIN and self._clock.now_ns() - started_ns >= POINT_NS:
                break
        self.hops_ns.extend(timing.hop_ns for timing in timings)
        return quantile([timing.latency_ns for timing in timings])

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


def _offset(progress: Progress, offset: int, total: int) -> Progress:
    return lambda done, _total, label: progress(offset + done, total, label)


def _picture_for(variants: Iterable[ModelVariant]) -> RgbImage:
    """A 4:3 picture of the size the decoder typically hands on when the largest variant is feasible."""
    shorter = int(_HEADROOM * max(shorter_side_px(variant) for variant in variants))
    return synthetic_picture(shorter * 4 // 3, shorter)


def _decode_cost(variants: Iterable[ModelVariant], clock: Clock) -> StageCost:
    """A line through what a small and a large photograph take, scaled for the largest variant."""
    shorter = max(shorter_side_px(variant) for variant in variants)
    small_ns, large_ns = (_decode_ns(synthetic_jpeg(*size), shorter, clock) for size in _DECODE_SIZES)
    small_px, large_px = (width * height for width, height in _DECODE_SIZES)
    per_megapixel_ns = max(0, large_ns - small_ns) * 1_000_000 // (large_px - small_px)
    return StageCost(max(0, small_ns - per_megapixel_ns * small_px // 1_000_000), per_megapixel_ns)


def _decode_ns(data: bytes, shorter_side: int, clock: Clock) -> int:
    times_ns = []
    for _ in range(_DECODE_ROUNDS):
        started_ns = clock.now_ns()
        decode_rgb(data, shorter_side, PIXELS_MAX_LIMIT)
        times_ns.append(clock.now_ns() - started_ns)
    return quantile(times_ns)
