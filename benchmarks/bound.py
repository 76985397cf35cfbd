"""phiserve over HTTP beside the bare loop on the same cores: what is left of the hardware, in one configuration.

Two bounds: as many single-thread loops as there are cores, for throughput; one loop on all cores, for latency. The
server has the variant pinned and is loaded by wrk, which runs on the same cores and is not subtracted. Bound and server
take turns, round by round. Writes `results/bound.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import wrk
from benchmarks.bare_loop import BareLoop
from benchmarks.report import origin, spread, table
from benchmarks.server_process import serving

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANTS = ("lite0-int8", "lite2-int8")
SATURATING = 8


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of each: images a second, and median milliseconds of one image at a time."""

    bare_per_s: float
    served_per_s: float
    bare_ms: float
    served_ms: float


def measure(store: Path, url: str, variant: str, rounds: int, turn_s: int) -> list[Round]:
    """Bound and server in turns."""
    cores = len(os.sched_getaffinity(0))
    photographs = [path.read_bytes() for path in PHOTOGRAPHS]
    target = f"{url}/classify?variant={variant}&budget_ms=5000&top_k=5"
    found = []
    with contextlib.ExitStack() as stack:
        narrow = [stack.enter_context(BareLoop(store, variant, 1, photographs)) for _ in range(cores)]
        wide = stack.enter_context(BareLoop(store, variant, cores, photographs))
        for _ in range(rounds):
            for bare in narrow:
                bare.begin(turn_s)
            bare_per_s = sum(bare.result().per_s for bare in narrow)
            served_per_s = wrk.post(target, PHOTOGRAPHS, concurrency=SATURATING, duration_s=turn_s).per_s
            wide.begin(turn_s)
            bare_ms = wide.result().p50_ms
            served_ms = wrk.post(target, PHOTOGRAPHS, concurrency=1, duration_s=turn_s).p50_ms
            found.append(Round(bare_per_s, served_per_s, bare_ms, served_ms))
            print(f"{variant}: {found[-1]}", flush=True)
    return found


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks bound`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bound", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short turns, to see that it works; figures are rough")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", help="the built store")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args(argv)
    rounds, turn_s = (2, 2) if options.quick else (5, 5)
    with serving(options.store, VARIANTS) as server:
        found = {name: measure(options.store, server.url, name, rounds, turn_s) for name in VARIANTS}
    text = document(found, "python -m benchmarks bound" + (" --quick" if options.quick else ""))
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "bound.md").write_text(text)


def document(found: dict[str, list[Round]], command: str) -> str:
    """Both bounds as Markdown."""
    throughput = [
        (
            name,
            spread([row.bare_per_s for row in rounds], 1),
            spread([row.served_per_s for row in rounds], 1),
            spread([row.served_per_s / row.bare_per_s for row in rounds]),
        )
        for name, rounds in found.items()
    ]
    latency = [
        (
            name,
            spread([row.bare_ms for row in rounds]),
            spread([row.served_ms for row in rounds]),
            spread([row.served_ms / row.bare_ms for row in rounds]),
        )
        for name, rounds in found.items()
    ]
    return (
        f"# phiserve beside the bare loop\n\n{origin(command, ('onnxruntime', 'pillow', 'uvicorn'))}\n\n"
        "A JPEG goes in over HTTP, five labelled classes come out; the bare loop decodes the same photographs at full "
        "size, crops, resizes and runs the same graph. One server configuration for both tables. Medians over rounds "
        "taken in turns, with the lowest and highest; the ratio is taken within each round. `wrk` runs on the same "
        "cores as the server.\n\n"
        "## Throughput\n\nThe bound is one single-thread loop a core; the server has "
        f"{SATURATING} connections. Goal: 0.92 or more.\n\n"
        f"{table(('variant', 'bare loops, images/s', 'phiserve, answers/s', 'ratio'), throughput)}\n\n"
        "## Latency\n\nThe bound is one loop on all cores; the server has one connection. Goal: 1.15 or less.\n\n"
        f"{table(('variant', 'bare loop, p50 ms', 'phiserve, p50 ms', 'ratio'), latency)}\n"
    )
