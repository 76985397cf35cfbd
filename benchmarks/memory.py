"""What memory the server takes: for each variant at each thread width, and for each picture that waits.

A variant is loaded in a fresh process, as the server loads it, and runs the largest batch; what its process then holds
more than before is the variant's. What a waiting picture holds at most follows from the network: the decoder scales
down whatever is larger. Linux only. Writes `results/memory.md`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.pictures import photograph_of
from benchmarks.report import origin, table
from benchmarks.server_resources import resources_of
from model_store.catalogue import Catalogue
from service.runtime.decode import decode_rgb
from service.runtime.providers import SessionOptions
from service.runtime.session import Session
from service.settings import Settings
from service.store_loading import CPU_BATCH_SIZE_MAX

ROOT = Path(__file__).parent.parent
PHOTOGRAPH = ROOT / "tests" / "photographs" / "espresso.jpg"
MEGAPIXELS = (0.25, 1.0, 2.0, 3.0, 6.0, 12.0, 24.0)
MIB = 1024**2
PIXELS_MAX = 50_000_000
PACKAGES = ("onnxruntime", "pillow")


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of one variant's session: its graph's file, then what is resident once loaded, and after runs."""

    variant: str
    threads: int
    file_bytes: int
    loaded_bytes: int
    run_bytes: int


def measure(store: Path, variant: str, threads: int, batch_size: int) -> Held:
    """In a process of its own, so that nothing of another variant is counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(held, (store, variant, threads, batch_size))


def held(store: Path, variant: str, threads: int, batch_size: int) -> Held:
    """Load and run in this process."""
    entry = Catalogue.open(store, only=[variant]).entries[variant]
    model = entry.read_model()
    side = entry.variant.resolution
    batch = np.zeros((batch_size, side, side, 3), np.uint8)
    before = resources_of(os.getpid()).resident_bytes
    session = Session(model, entry.variant, SessionOptions(threads, batch_size))
    loaded = resources_of(os.getpid()).resident_bytes - before
    session.classify(batch, 5)
    session.classify(batch, 5)
    return Held(variant, threads, len(model), loaded, resources_of(os.getpid()).resident_bytes - before)


def picture_bytes(shorter_side_px: int, format_name: str) -> list[tuple[float, int]]:
    """Of each size in megapixels: the bytes that the decoded picture holds while it waits."""
    content = PHOTOGRAPH.read_bytes()
    return [
        (size, decode_rgb(photograph_of(content, size, format_name), shorter_side_px, PIXELS_MAX).nbytes)
        for size in MEGAPIXELS
    ]


def document(rows: Sequence[Held], pictures: dict[str, list[tuple[float, int]]], side_px: int, command: str) -> str:
    """The Markdown."""
    variants = [
        (row.variant, str(row.threads), *map(mib, (row.file_bytes, row.loaded_bytes, row.run_bytes))) for row in rows
    ]
    waiting = [(f"{size:g}", *(mib(dict(found)[size]) for found in pictures.values())) for size in MEGAPIXELS]
    most = max(size for found in pictures.values() for _, size in found)
    bound = 96 * side_px**2
    queue = Settings().queue_size_max
    return (
        f"# Memory\n\n{origin(command, PACKAGES)}\n\n"
        "## A variant\n\nMiB of resident memory that its session adds to a process of its own: once loaded, and after "
        "runs of the largest batch. The server holds a session for each thread width, 1 and all cores.\n\n"
        + table(("variant", "threads", "graph file", "loaded", "after runs"), variants)
        + f"\n\nAll of them: {sum(row.run_bytes for row in rows) / MIB:.0f} MiB.\n\n"
        "## A request that waits\n\nMiB of a decoded picture whose shorter side must keep "
        f"{side_px} pixels, what the largest variant here sees, by the megapixels of the photograph. With s for that "
        "side no decoded picture has a shorter side of 4 s or more, nor one longer than twice the shorter: it holds "
        f"less than 96 s² bytes, {mib(bound)} MiB here. The most that was seen: {mib(most)} MiB. A queue of {queue} "
        f"(`--queue-size-max`) holds at most {queue * bound / MIB:.0f} MiB whatever is sent, {queue * most / MIB:.0f} "
        "MiB of the largest of these.\n\n"
        + table(("megapixels", *pictures), waiting) + "\n"
    )  # fmt: skip


def mib(size: int) -> str:
    """Bytes in MiB."""
    return f"{size / MIB:.1f}"


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks memory`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest and the largest variant only")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    options = parser.parse_args(argv)
    entries = Catalogue.open(options.store).entries
    names = sorted(entries, key=lambda name: entries[name].manifest.parameters)
    names = [names[0], names[-1]] if options.quick else names
    widths = sorted({1, len(os.sched_getaffinity(0))})
    batch = CPU_BATCH_SIZE_MAX
    rows = [measure(options.store, name, threads, batch) for name in names for threads in widths]
    variants = [entries[name].variant for name in names]
    side_px = max(-(-variant.resolution * 1000 // int(variant.crop_fraction * 1000)) for variant in variants)
    pictures = {name: picture_bytes(side_px, name) for name in ("JPEG", "WEBP")}
    text = document(rows, pictures, side_px, "python -m benchmarks memory" + (" --quick" if options.quick else ""))
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "memory.md").write_text(text)
    print(f"written: {options.results / 'memory.md'}")
