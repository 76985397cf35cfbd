"""phiserve over HTTP and gRPC beside the bare loop: what one configuration leaves of the same cores.

Two bounds: as many single-thread loops as there are cores, for throughput; one loop on all cores, for latency. The
server has the variant pinned and is loaded by wrk, over gRPC by h2load; neither is subtracted. Bound and server take
turns, round by round. Writes `results/bound.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import h2load, wrk
from benchmarks.bare_loop import BareLoop
from benchmarks.report import origin, spread, table
from benchmarks.server_metrics import read_samples
from benchmarks.server_process import ServerProcess, serving
from phiserve.v1 import classifier_pb2 as pb

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANTS = ("lite0-int8", "lite2-int8")
SATURATING = 8
BUDGET_MS = 5000
WIRES = ("HTTP", "gRPC")
CLASSIFY = "/phiserve.v1.Classifier/Classify"


class CallsFailedError(Exception):
    """The server counted errors: the rest of its answers are worth nothing."""


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of each: images a second, and median milliseconds of one image at a time; the server's by wire."""

    bare_per_s: float
    served_per_s: tuple[float, float]
    bare_ms: float
    served_ms: tuple[float, float]


def measure(store: Path, server: ServerProcess, variant: str, rounds: int, turn_s: int) -> list[Round]:
    """Bound and server in turns.

    Raises:
        CallsFailedError: the server answered any call with an error.
    """
    cores = len(os.sched_getaffinity(0))
    photographs = [path.read_bytes() for path in PHOTOGRAPHS]
    target = f"{server.url}/classify?variant={variant}&budget_ms={BUDGET_MS}&top_k=5"
    found = []

    def over_http(concurrency: int) -> wrk.Load:
        return wrk.post(target, PHOTOGRAPHS, concurrency=concurrency, duration_s=turn_s)

    messages = [
        pb.ClassifyRequest(image=image, variant=variant, budget_ms=BUDGET_MS, top_k=5).SerializeToString()
        for image in photographs
    ]

    def over_grpc(concurrency: int) -> h2load.Load:
        assert server.grpc_url is not None, "the server was started with gRPC"
        load = h2load.call(server.grpc_url, CLASSIFY, messages, concurrency=concurrency, duration_s=turn_s)
        with urllib.request.urlopen(f"{server.url}/metrics") as page:
            samples = read_samples(page.read().decode())
        errors = {name: count for name, count in samples.items() if _is_error(name, count)}
        if errors:
            raise CallsFailedError(f"the server told of {errors}, and a pinned variant with a patient budget has none")
        return load

    with contextlib.ExitStack() as stack:
        narrow = [stack.enter_context(BareLoop(store, variant, 1, photographs)) for _ in range(cores)]
        wide = stack.enter_context(BareLoop(store, variant, cores, photographs))
        for _ in range(rounds):
            for bare in narrow:
                bare.begin(turn_s)
            bare_per_s = sum(bare.result().per_s for bare in narrow)
            http, grpc = over_http(SATURATING), over_grpc(SATURATING)
            wide.begin(turn_s)
            bare_ms = wide.result().p50_ms
            served_ms = (over_http(1).p50_ms, over_grpc(1).p50_ms)
            found.append(Round(bare_per_s, (http.per_s, grpc.per_s), bare_ms, served_ms))
            print(f"{variant}: {found[-1]}", flush=True)
    return found


def _is_error(name: str, count: float) -> bool:
    return name.startswith("phiserve_errors_total{") and count > 0


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks bound`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bound", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short turns, to see that it works; figures are rough")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", help="the built store")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args(argv)
    rounds, turn_s = (2, 2) if options.quick else (5, 5)
    with serving(options.store, VARIANTS, grpc=True) as server:
        found = {name: measure(options.store, server, name, rounds, turn_s) for name in VARIANTS}
    text = document(found, "python -m benchmarks bound" + (" --quick" if options.quick else ""))
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "bound.md").write_text(text)


def document(found: dict[str, list[Round]], command: str) -> str:
    """Both bounds as Markdown."""
    throughput = [
        (
            f"{name}, {wire}",
            spread([row.bare_per_s for row in rounds], 1),
            spread([row.served_per_s[at] for row in rounds], 1),
            spread([row.served_per_s[at] / row.bare_per_s for row in rounds]),
        )
        for name, rounds in found.items()
        for at, wire in enumerate(WIRES)
    ]
    latency = [
        (
            f"{name}, {wire}",
            spread([row.bare_ms for row in rounds]),
            spread([row.served_ms[at] for row in rounds]),
            spread([row.served_ms[at] / row.bare_ms for row in rounds]),
        )
        for name, rounds in found.items()
        for at, wire in enumerate(WIRES)
    ]
    return (
        f"# phiserve beside the bare loop\n\n{origin(command, ('onnxruntime', 'pillow', 'uvicorn', 'grpcio'))}\n\n"
        "A JPEG goes in over HTTP or gRPC, five labelled classes come out; the bare loop decodes the same photographs "
        "at full size, crops, resizes and runs the same graph. One server configuration for both tables. Medians over "
        "rounds taken in turns, with the lowest and highest; the ratio is taken within each round. The clients run on "
        "the same cores as the server: over HTTP `wrk`, over gRPC `h2load`.\n\n"
        "## Throughput\n\nThe bound is one single-thread loop a core; the server has "
        f"{SATURATING} connections. Goal: 0.92 or more.\n\n"
        f"{table(('variant', 'bare loops, images/s', 'phiserve, answers/s', 'ratio'), throughput)}\n\n"
        "## Latency\n\nThe bound is one loop on all cores; the server has one connection. Goal: 1.15 or less.\n\n"
        f"{table(('variant', 'bare loop, p50 ms', 'phiserve, p50 ms', 'ratio'), latency)}\n"
    )
