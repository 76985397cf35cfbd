"""`python -m benchmarks [planner] [precision] … [--flags]`: what `make bench` runs; all of them by default."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

BENCHMARKS = {
    "planner": ("benchmarks.planner_cost", "what one decision of the planner costs"),
    "precision": ("benchmarks.precision", "accuracy and latency of each variant, precision and provider"),
    "providers": ("benchmarks.providers", "an execution provider: batches, options, and the server on it"),
    "bound": ("benchmarks.bound", "the server beside a bare loop on the same cores"),
    "tracing": ("benchmarks.tracing_cost", "what spans and the access log cost a request"),
    "wires": ("benchmarks.wires", "a call over gRPC beside REST, and streams of frames"),
    "simulation": ("benchmarks.simulation", "the scheduler on a fake clock beside an upper bound"),
    "autoscaling": ("benchmarks.autoscaling", "a fleet on a fake clock, scaled by one signal or another"),
    "replay": ("benchmarks.replay", "the real server under load, beside fixed variants"),
    "budgets": ("benchmarks.budgets", "mixed budgets in overload, beside other people's servers"),
    "growth": ("benchmarks.growth", "callers, picture sizes and queues from few to many"),
    "memory": ("benchmarks.memory", "what a variant and a request that waits hold"),
    "memory_limit": ("benchmarks.memory_limit", "what is resident under a limit, and what a load does to others"),
    "soak": ("benchmarks.soak", "ten minutes of mixed traffic: does memory stay flat"),
    "duels": ("benchmarks.peers.duels", "the quickest of other people's servers, all up, in short turns"),
    "peers": ("benchmarks.peers.comparison", "other people's servers under the same load"),
}
"""Name to (module with a `main(argv)`, what it measures)."""

# Which benchmarks understand a flag, for `make bench`, which hands all it was given to all that it runs.
TAKEN_BY = {"--traces": ("simulation", "autoscaling", "replay"), "--photographs": ("precision",)}


def main(argv: Sequence[str]) -> None:
    """Run the named benchmarks, or all of them, with the remaining arguments."""
    names = [word for word in argv if word in BENCHMARKS]
    flags = [word for word in argv if word not in BENCHMARKS]
    if "--help" in flags and not names:
        print(__doc__)
        for name, (_, what) in BENCHMARKS.items():
            print(f"  {name:<12} {what} (python -m benchmarks {name} --help)")
        return
    if flags and not flags[0].startswith("-"):
        sys.exit(f"no benchmark {flags[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        module = importlib.import_module(BENCHMARKS[name][0])
        module.main(_understood(name, flags))


def _understood(name: str, flags: Sequence[str]) -> list[str]:
    """`flags` without those that mean nothing to the benchmark, and their values."""
    kept = list(flags)
    for flag, takers in TAKEN_BY.items():
        if name not in takers and flag in kept:
            at = kept.index(flag)
            del kept[at : at + 2]
    return kept


if __name__ == "__main__":
    main(sys.argv[1:])
