"""phiserve over HTTP and gRPC beside the bare loop: what one configuration leaves of the same cores.

Two bounds: as many single-thread loops as there are cores, for throughput; one loop on all cores, for latency. The
server has the variant pinned and is loaded by wrk, over gRPC by h2load; neither is subtracted. All are up at once and
take short turns, many rounds of them. Writes `results/bound.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import h2load, wrk
from benchmarks.bare_loop import BareLoop
from benchmarks.paired import Ratio, Standing, ratio
from benchmarks.report import origin, spread, table
from benchmarks.server_metrics import read_samples
from benchmarks.server_process import ServerProcess, serving
from benchmarks.turns import Side, Turn, take_round
from phiserve.v1 import classifier_pb2 as pb

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANTS = ("lite0-int8", "lite2-int8")
SATURATING = 8
BUDGET_MS = 5000
ROUNDS, TURN_S = 12, 2
THROUGHPUT_GOAL, LATENCY_GOAL = 0.92, 1.15
WIRES = ("HTTP", "gRPC")
CLASSIFY = "/phiserve.v1.Classifier/Classify"


class CallsFailedError(Exception):
    """The server counted errors: the rest of its answers are worth nothing."""


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of each: images a second, and median milliseconds of one image at a time; the server's by wire.

    `idle_cores`: the most that those whose turn it was not used together.
    """

    bare_per_s: float
    served_per_s: tuple[float, float]
    bare_ms: float
    served_ms: tuple[float, float]
    idle_cores: float


@dataclass(frozen=True, slots=True)
class Client:
    """Loads the server, with `variant` pinned, for `turn_s` at a time; answers are a second and milliseconds."""

    server: ServerProcess
    variant: str
    turn_s: int

    def over_http(self, concurrency: int) -> wrk.Load:
        """By wrk."""
        target = f"{self.server.url}/classify?variant={self.variant}&budget_ms={BUDGET_MS}&top_k=5"
        return wrk.post(target, PHOTOGRAPHS, concurrency=concurrency, duration_s=self.turn_s)

    def over_grpc(self, concurrency: int) -> h2load.Load:
        """By h2load.

        Raises:
            CallsFailedError: the server answered any call with an error.
        """
        assert self.server.grpc_url is not None, "the server was started with gRPC"
        messages = [
            pb.ClassifyRequest(
                image=path.read_bytes(), variant=self.variant, budget_ms=BUDGET_MS, top_k=5
            ).SerializeToString()
            for path in PHOTOGRAPHS
        ]
        load = h2load.call(self.server.grpc_url, CLASSIFY, messages, concurrency=concurrency, duration_s=self.turn_s)
        with urllib.request.urlopen(f"{self.server.url}/metrics") as page:
            samples = read_samples(page.read().decode())
        errors = {name: count for name, count in samples.items() if _is_error(name, count)}
        if errors:
            raise CallsFailedError(f"the server told of {errors}, and a pinned variant with a patient budget has none")
        return load


def measure(store: Path, client: Client, rounds: int) -> list[Round]:
    """Bounds and server in turns, after one round that warms everybody and is not counted.

    Raises:
        CallsFailedError: the server answered any call with an error.
    """
    cores = len(os.sched_getaffinity(0))
    photographs = [path.read_bytes() for path in PHOTOGRAPHS]
    served = frozenset([client.server.process.pid])
    found = []
    with contextlib.ExitStack() as stack:
        narrow = [stack.enter_context(BareLoop(store, client.variant, 1, photographs)) for _ in range(cores)]
        wide = stack.enter_context(BareLoop(store, client.variant, cores, photographs))

        def narrow_per_s() -> float:
            for bare in narrow:
                bare.begin(client.turn_s)
            return sum(bare.result().per_s for bare in narrow)

        def wide_ms() -> float:
            wide.begin(client.turn_s)
            return wide.result().p50_ms

        throughput = [
            Side("bare", narrow_per_s, frozenset(bare.pid for bare in narrow)),
            Side("HTTP", lambda: client.over_http(SATURATING).steady_per_s, served),
            Side("gRPC", lambda: client.over_grpc(SATURATING).per_s, served),
        ]
        latency = [
            Side("bare", wide_ms, frozenset([wide.pid])),
            Side("HTTP", lambda: client.over_http(1).p50_ms, served),
            Side("gRPC", lambda: client.over_grpc(1).p50_ms, served),
        ]
        for number in range(-1, rounds):
            row = _as_round(take_round(throughput, number), take_round(latency, number))
            if number >= 0:
                found.append(row)
                print(f"{client.variant}: {row}", flush=True)
    return found


def _as_round(throughput: Mapping[str, Turn[float]], latency: Mapping[str, Turn[float]]) -> Round:
    http, grpc = WIRES
    return Round(
        throughput["bare"].figures,
        (throughput[http].figures, throughput[grpc].figures),
        latency["bare"].figures,
        (latency[http].figures, latency[grpc].figures),
        max(turn.others_cores for turn in (*throughput.values(), *latency.values())),
    )


def _is_error(name: str, count: float) -> bool:
    return name.startswith("phiserve_errors_total{") and count > 0


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks bound`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bound", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds, to see that it works; figures are rough")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"turns of {TURN_S} s each; {ROUNDS}")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", help="the built store")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args(argv)
    rounds, turn_s = (3, 1) if options.quick else (options.rounds, TURN_S)
    with serving(options.store, VARIANTS, grpc=True) as server:
        found = {name: measure(options.store, Client(server, name, turn_s), rounds) for name in VARIANTS}
    more = " --quick" if options.quick else "" if rounds == ROUNDS else f" --rounds {rounds}"
    text = document(found, f"python -m benchmarks bound{more}", turn_s)
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "bound.md").write_text(text)


def document(found: dict[str, list[Round]], command: str, turn_s: int) -> str:
    """Both bounds as Markdown."""
    cases = [(name, at, rounds) for name, rounds in found.items() for at in range(len(WIRES))]
    throughput = [
        (
            f"{name}, {WIRES[at]}",
            spread([row.bare_per_s for row in rounds], 1),
            spread([row.served_per_s[at] for row in rounds], 1),
            *_judged(
                ratio([row.served_per_s[at] for row in rounds], [row.bare_per_s for row in rounds]),
                THROUGHPUT_GOAL,
                more_is_better=True,
            ),
        )
        for name, at, rounds in cases
    ]
    latency = [
        (
            f"{name}, {WIRES[at]}",
            spread([row.bare_ms for row in rounds]),
            spread([row.served_ms[at] for row in rounds]),
            *_judged(
                ratio([row.served_ms[at] for row in rounds], [row.bare_ms for row in rounds]),
                LATENCY_GOAL,
                more_is_better=False,
            ),
        )
        for name, at, rounds in cases
    ]
    idle_cores = max(row.idle_cores for rounds in found.values() for row in rounds)
    return (
        f"# phiserve beside the bare loop\n\n{origin(command, ('onnxruntime', 'pillow', 'uvicorn', 'grpcio'))}\n\n"
        "A JPEG goes in over HTTP or gRPC, five labelled classes come out; the bare loop decodes the same photographs "
        "at full size, crops, resizes and runs the same graph. One server configuration for both tables. Server and "
        f"loops are up at once and take turns of {turn_s} s, {min(map(len, found.values()))} rounds of them, in an "
        "order that changes with each round; a turn begins when nothing of the last is under way, and who had no turn "
        f"used at most {idle_cores:.3f} of a core. Figures are medians over rounds, with the lowest and highest. The "
        "ratio is the geometric mean of those within rounds, in which the machine is as fast for one as for the other, "
        "with the interval that should hold the true one (95 %, Student, on logarithms): a goal that is in it is "
        "neither reached nor missed but *within noise*. The clients run on the same cores as the server: over HTTP "
        "`wrk`, over gRPC `h2load`. Answers a second are those of the steady part of a turn, from when each connection "
        "could have had its first one: what the server has under way as so short a turn ends would be lost to it, and "
        "a loop ends its image.\n\n"
        "## Throughput\n\nThe bound is one single-thread loop a core; the server has "
        f"{SATURATING} connections. Goal: {THROUGHPUT_GOAL} or more.\n\n"
        f"{table(('variant', 'bare loops, images/s', 'phiserve, answers/s', 'ratio', 'goal'), throughput)}\n\n"
        "## Latency\n\nThe bound is one loop on all cores; the server has one connection. "
        f"Goal: {LATENCY_GOAL} or less.\n\n"
        f"{table(('variant', 'bare loop, p50 ms', 'phiserve, p50 ms', 'ratio', 'goal'), latency)}\n"
    )


_GOAL = {
    Standing.BETTER: "reached",
    Standing.WITHIN_NOISE: "within noise",
    Standing.WORSE: "**not reached**",
}


def _judged(found: Ratio, goal: float, *, more_is_better: bool) -> tuple[str, str]:
    return str(found), _GOAL[found.beside(goal, more_is_better=more_is_better)]
