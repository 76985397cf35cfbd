"""What int8 gains over fp32: runs of both interleaved in one process, through the sessions that serve; seeded pixels.

Builds the default store's variants in a temporary folder. The machine's noise hits both sides of a pair alike, so the
ratio of each round is steadier than the times. Accuracy is quoted from the committed ranges, which state how it was
measured. Writes `results/precision.md`. Measures networks only: no decode, no server.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.report import origin, spread, table
from model_store.activation_ranges import committed_ranges
from model_store.builder import BuildRequest, Quantisation, build_store
from model_store.catalogue import Catalogue
from model_store.sources import from_wheel
from service.runtime.providers import SessionOptions
from service.runtime.session import Session

MEMBERS = ("lite0", "lite1", "lite2")
SHAPES = ((1, 1), (2, 1), (1, 8))
"""Threads and batch size."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Milliseconds of one member's runs, fp32 and int8, the same rounds side by side."""

    member: str
    threads: int
    batch_size: int
    fp32_ms: tuple[float, ...]
    int8_ms: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times faster int8 was, in tenths of the rounds: medians within each."""
        size = max(1, len(self.fp32_ms) // 10)
        tenths = [slice(start, start + size) for start in range(0, len(self.fp32_ms), size)]
        return tuple(statistics.median(self.fp32_ms[t]) / statistics.median(self.int8_ms[t]) for t in tenths)


def build(root: Path) -> Catalogue:
    """The default store, in `root`."""
    requests = []
    for member in MEMBERS:
        ranges = committed_ranges(member)
        assert ranges is not None, "the default members have committed ranges"
        source = from_wheel(member)
        requests += [BuildRequest(member, source), BuildRequest(f"{member}-int8", source, Quantisation(ranges))]
    build_store(root, requests)
    return Catalogue.open(root)


def measure(catalogue: Catalogue, member: str, threads: int, batch_size: int, rounds: int) -> Pair:
    """Run fp32 and int8 in turns, each warmed by an untimed run of its own."""
    entries = [catalogue.entries[name] for name in (member, f"{member}-int8")]
    sessions = [Session(e.read_model(), e.variant, SessionOptions(threads, batch_size)) for e in entries]
    side = entries[0].variant.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), np.uint8)
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for session, times in zip(sessions, took, strict=True):
            session.run(pixels)
            times.append(_run_ms(session, pixels))
    return Pair(member, threads, batch_size, tuple(took[0]), tuple(took[1]))


def _run_ms(session: Session, pixels: npt.NDArray[np.uint8]) -> float:
    started_ns = time.perf_counter_ns()
    session.run(pixels)
    return (time.perf_counter_ns() - started_ns) / 1e6


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks precision`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks precision", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works; figures are rough")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        catalogue = build(Path(folder))
        bytes_of = {name: entry.manifest.files["model.onnx"].size_bytes for name, entry in catalogue.entries.items()}
        pairs = [
            measure(catalogue, member, threads, batch_size, 3 if options.quick else 200 // batch_size)
            for member in MEMBERS
            for threads, batch_size in SHAPES
        ]
    text = document(pairs, bytes_of, "python -m benchmarks precision" + (" --quick" if options.quick else ""))
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "precision.md").write_text(text)


def document(pairs: Sequence[Pair], bytes_of: Mapping[str, int], command: str) -> str:
    """Latency and accuracy as Markdown."""
    speed = [
        (
            f"{pair.member}, {pair.threads} thread{'s' if pair.threads > 1 else ''}, batch {pair.batch_size}",
            f"{statistics.median(pair.fp32_ms):.2f}",
            f"{statistics.median(pair.int8_ms):.2f}",
            f"{min(pair.fp32_ms):.2f}",
            f"{min(pair.int8_ms):.2f}",
            spread(pair.ratios),
        )
        for pair in pairs
    ]
    accuracy = []
    for member in dict.fromkeys(pair.member for pair in pairs):
        ranges = committed_ranges(member)
        assert ranges is not None, "only members with committed ranges are measured"
        verdict = ranges.verdict
        sizes = [f"{bytes_of[name] / 1e6:.1f}" for name in (member, f"{member}-int8")]
        figures = (verdict.top1_fp32, verdict.top1_int8, verdict.agreement)
        accuracy.append((member, *(f"{value:.2f}" for value in figures), f"{verdict.divergence:.4f}", *sizes))
    speed_header = ("network", "fp32 ms", "int8 ms", "fp32 lowest", "int8 lowest", "times faster")
    accuracy_header = ("network", "fp32 top-1 %", "int8 top-1 %", "same class %", "divergence", "fp32 MB", "int8 MB")
    return (
        f"# int8 beside fp32\n\n{origin(command, ('onnxruntime',))}\n\n"
        "Medians of runs in turns; the ratio is the median over tenths of the rounds, with its lowest and highest.\n\n"
        f"{table(speed_header, speed)}\n\n"
        "Accuracy over ten views of each of 200 photographs, each judged by ranges from the other half of them; mean "
        "Kullback-Leibler divergence in nats. They are training pictures, so read the two columns beside each other "
        f"only.\n\n{table(accuracy_header, accuracy)}\n"
    )
