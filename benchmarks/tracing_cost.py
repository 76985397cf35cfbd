"""What spans and the access log cost: the same load on servers that differ in nothing else, in turns.

One real server for each way of observing, all of them up, one loaded at a time by wrk. What is counted is the core time
of the event loop's thread, where all of the cost but sending falls, and of the whole process, a request each; and
answers a second. Spans go to a receiver in this process, which reads them and answers. Writes `results/tracing.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks import wrk
from benchmarks.report import origin, spread, table
from benchmarks.server_process import ServerProcess, serving

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANT = "lite0-int8"
CONCURRENCY = 4
BASELINE = "nothing"
TURN_S = 1
"""Short, so that a machine that slows down slows a whole round."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One way of observing, loaded once: answers a second, and core microseconds a request."""

    per_s: float
    loop_us: float
    process_us: float


Rounds = dict[str, list[Turn]]
"""A way of observing to its turns, one a round."""


def ways(endpoint: str) -> dict[str, tuple[str, ...]]:
    """What is compared: its name, and the flags that make it."""
    traced = ("--tracing-endpoint", endpoint, "--tracing-ratio")
    return {
        BASELINE: (),
        "access log, errors": ("--access-log", "errors"),
        "access log, every exchange": ("--access-log", "1"),
        "tracing, no trace kept": (*traced, "0"),
        "tracing, one in ten kept": (*traced, "0.1"),
        "tracing, every trace kept": (*traced, "1"),
    }


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """An OTLP/HTTP receiver that reads what it is sent and says that it took it; the value is its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")  # an empty message: everything was taken
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def measure(store: Path, rounds: int) -> Rounds:
    """All ways in turns, in every round in another order; each is warmed first."""
    found: Rounds = {}
    with contextlib.ExitStack() as stack:
        flags = ways(stack.enter_context(receiver()))
        servers = {name: stack.enter_context(serving(store, (VARIANT,), *more)) for name, more in flags.items()}
        for server in servers.values():
            _turn(server)
        for number in range(rounds):
            names = list(servers)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found.setdefault(name, []).append(_turn(servers[name]))
                print(f"{name}: {found[name][-1]}", flush=True)
    return {name: found[name] for name in servers}


def _turn(server: ServerProcess) -> Turn:
    loop_ns, process_s = server.event_loop_ns(), server.core_time().server_s
    target = f"{server.url}/classify?variant={VARIANT}&budget_ms=5000&top_k=5"
    load = wrk.post(target, PHOTOGRAPHS, concurrency=CONCURRENCY, duration_s=TURN_S)
    requests = load.per_s * TURN_S
    used_ns = (server.event_loop_ns() or 0) - (loop_ns or 0)
    return Turn(load.per_s, used_ns / 1e3 / requests, (server.core_time().server_s - process_s) * 1e6 / requests)


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks tracing`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tracing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it works; figures are rough")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", help="the built store")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args(argv)
    rounds = 2 if options.quick else 12
    text = document(measure(options.store, rounds), "python -m benchmarks tracing" + " --quick" * options.quick)
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "tracing.md").write_text(text)


def document(found: Rounds, command: str) -> str:
    """Each way beside nothing, as Markdown; ratios and differences are taken within rounds."""

    def beside(turns: Sequence[Turn], compared: Callable[[Turn, Turn], float]) -> list[float]:
        return [compared(turn, base) for turn, base in zip(turns, found[BASELINE], strict=True)]

    rows = [
        (
            name,
            f"{statistics.median(turn.loop_us for turn in turns):.0f}",
            spread(beside(turns, lambda turn, base: turn.loop_us - base.loop_us), 0),
            spread(beside(turns, lambda turn, base: turn.loop_us / base.loop_us)),
            spread(beside(turns, lambda turn, base: turn.process_us / base.process_us)),
            spread(beside(turns, lambda turn, base: turn.per_s / base.per_s)),
        )
        for name, turns in found.items()
    ]
    header = ("observed by", "event loop, µs a request", "more, µs", "ratio", "process, ratio", "answers/s, ratio")
    packages = ("opentelemetry-sdk", "onnxruntime", "uvicorn")
    return (
        f"# What spans and the access log cost\n\n{origin(command, packages)}\n\n"
        f"Photographs over HTTP to {VARIANT}, {CONCURRENCY} connections, closed loop; a server for each row, all alike "
        "but for their flags, loaded in turns. Core time of the event loop's thread, and of the process with the "
        "thread that sends spans, a request each. Medians with the lowest and highest; differences and ratios are "
        "taken within each round. `wrk` and the receiver of the spans run on the same cores.\n\n"
        f"{table(header, rows)}\n"
    )
