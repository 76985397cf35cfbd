"""Runs of one variant on one execution provider, in several ways, through the sessions that serve.

Times what a worker's run takes without crop and resize: pixels in, the best classes out. Also whether the answers are
those of fp32 on the CPU, and what the graphics card's memory says. Writes nothing.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store.catalogue import CatalogueEntry
from service.runtime.decode import decode_rgb
from service.runtime.image_header import PIXELS_MAX_LIMIT
from service.runtime.machine import available_cores
from service.runtime.page_lock import page_lock
from service.runtime.preprocess import preprocess, shorter_side_px
from service.runtime.providers import Provider, SessionOptions
from service.runtime.rgb_image import Pixels
from service.runtime.session import Probabilities, Session

_ROUNDS_MIN = 20
_TOP_K = 5


@dataclass(frozen=True, slots=True)
class Way:
    """How runs are made: as served, or with one thing changed."""

    name: str
    bound: bool = True
    graphs: bool = False
    page_locked: bool = True
    overrides: tuple[tuple[str, str], ...] = ()


AS_SERVED = Way("as served")
GPU_WAYS = (
    Way("recorded graph", graphs=True),
    Way("no fixed buffers", bound=False),
    Way("input not page-locked", page_locked=False),
    Way("bias fused by cuDNN", overrides=(("fuse_conv_bias", "1"),)),
    Way("cuDNN's exhaustive rule", overrides=(("cudnn_conv_algo_search", "EXHAUSTIVE"),)),
    Way("channels first", overrides=(("prefer_nhwc", "0"),)),
    Way("channels last", overrides=(("prefer_nhwc", "1"),)),
    Way("TensorFloat-32", overrides=(("use_tf32", "1"),)),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """One batch size. `first_ms`: the first run, with the search for kernels and the recording of the graph."""

    batch_size: int
    first_ms: float
    median_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Images a second."""
        return 1000 * self.batch_size / self.median_ms


@dataclass(frozen=True, slots=True)
class Measured:
    """A variant on a provider in one way; `memory_mb` is how much more of the card's memory was taken at the end."""

    variant: str
    way: str
    load_ms: float
    memory_mb: float | None
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Beside fp32 on the CPU: the largest difference of a probability, and of how many photographs the class is one."""

    variant: str
    difference: float
    photographs: int
    same_class: int


def open_session(entry: CatalogueEntry, provider: Provider, batch_size_max: int, way: Way) -> Session:
    """A session of `entry` that runs in `way`, on all cores if on any."""
    threads = available_cores() if provider.on_cpu else 1
    options = SessionOptions(threads, batch_size_max, bound=way.bound, graphs=way.graphs, overrides=way.overrides)
    return Session(entry.read_model(), entry.variant, options, provider)


def measure(
    entry: CatalogueEntry, provider: Provider, batch_sizes: Sequence[int], way: Way, seconds: float
) -> Measured:
    """Time each of `batch_sizes`, which rise, for about `seconds`."""
    before_mb = card_memory_mb()
    started_ns = time.perf_counter_ns()
    session = open_session(entry, provider, batch_sizes[-1], way)
    load_ms = (time.perf_counter_ns() - started_ns) / 1e6
    side = entry.variant.resolution
    # One buffer, as a worker's, of which batches take the beginning; seeded pixels, since zeros can be quicker.
    pixels = np.random.default_rng(0).integers(0, 256, (batch_sizes[-1], side, side, 3), np.uint8)
    if provider.fixed_batches and way.page_locked:
        page_lock(pixels)
    timings = tuple(_time(session, pixels[:size], seconds) for size in batch_sizes)
    after_mb = card_memory_mb()
    taken_mb = None if before_mb is None or after_mb is None else after_mb - before_mb
    return Measured(entry.variant.name, way.name, load_ms, taken_mb, timings)


def _time(session: Session, batch: Pixels, seconds: float) -> Timing:
    first_ms = _run_ms(session, batch)
    for _ in range(3):
        _run_ms(session, batch)
    took_ms: list[float] = []
    ends_ns = time.perf_counter_ns() + round(seconds * 1e9)
    while len(took_ms) < _ROUNDS_MIN or time.perf_counter_ns() < ends_ns:
        took_ms.append(_run_ms(session, batch))
    took_ms.sort()
    return Timing(len(batch), first_ms, statistics.median(took_ms), took_ms[-1 - len(took_ms) // 100])


def _run_ms(session: Session, batch: Pixels) -> float:
    started_ns = time.perf_counter_ns()
    session.classify(batch, _TOP_K)
    return (time.perf_counter_ns() - started_ns) / 1e6


def answers(entry: CatalogueEntry, provider: Provider, photographs: Sequence[Path]) -> Probabilities:
    """Probabilities for each photograph and its mirror image."""
    variant = entry.variant
    rows = np.empty((2 * len(photographs), variant.resolution, variant.resolution, 3), np.uint8)
    for index, path in enumerate(photographs):
        preprocess(decode_rgb(path.read_bytes(), shorter_side_px(variant), PIXELS_MAX_LIMIT), variant, rows[index])
        rows[len(photographs) + index] = rows[index][:, ::-1]
    return open_session(entry, provider, len(rows), AS_SERVED).run(rows)


def compare(variant: str, exact: Probabilities, found: Probabilities) -> Agreement:
    """How far `found` is from `exact`."""
    same = int((exact.argmax(axis=1) == found.argmax(axis=1)).sum())
    return Agreement(variant, float(np.abs(exact - found).max()), len(exact), same)


def card_memory_mb() -> float | None:
    """Memory in use on the first graphics card; None where there is none, or no tool to ask it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[0]) if done.returncode == 0 and done.stdout.split() else None
