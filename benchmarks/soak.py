"""Whether the server keeps what it should give back: minutes of mixed traffic, and what its process holds meanwhile.

The load is four fifths of what the server can answer of these pictures. Memory, open files and threads are sampled;
after a warm-up a straight line through each says whether it grows. Linux only. Writes `results/soak.md` and a plot.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from benchmarks.http_connection import ConnectionPool, get_bytes, loopback_address
from benchmarks.report import origin, save_plot, table
from benchmarks.server_metrics import read_samples
from benchmarks.server_process import ServerProcess, serving
from benchmarks.server_resources import Resources, resources_of
from benchmarks.soak_callers import Callers
from benchmarks.trend import trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANTS = ("lite0-int8", "lite1-int8", "lite2-int8", "lite2")
LOAD = 0.8
EVERY_S = 2.0
WARM_UP_SHARE = 0.25
"""Of the soak: allocators and caches fill up first."""

MIB = 1024**2
PACKAGES = ("onnxruntime", "pillow", "uvicorn", "uvloop", "grpcio")


@dataclass(frozen=True, slots=True)
class Sample:
    """At a moment since the load began: what the process holds, and calls between door and answer."""

    at_s: float
    resources: Resources
    admitted: float


@dataclass(frozen=True, slots=True)
class Soaked:
    """A soak as it went. `left_admitted`: calls that the server still counts as its own when all have ended."""

    seconds: float
    per_s: float
    samples: Sequence[Sample]
    endings: Mapping[str, int]
    left_admitted: float


async def soak(server: ServerProcess, seconds: float) -> Soaked:
    """Load `server`, and sample it."""
    assert server.grpc_url is not None
    callers = Callers(server.url, server.grpc_url, [path.read_bytes() for path in PHOTOGRAPHS])
    pool = ConnectionPool(loopback_address(server.url), 2)
    per_s = LOAD * await callers.capacity_per_s(min(10.0, seconds / 4))
    print(f"{per_s:.1f} calls a second", flush=True)
    samples: list[Sample] = []
    started_s = time.monotonic()
    sending = asyncio.create_task(callers.send(per_s, seconds))
    while not sending.done():
        samples.append(Sample(time.monotonic() - started_s, resources_of(server.process.pid), await _admitted(pool)))
        await asyncio.wait([sending], timeout=EVERY_S)
        if len(samples) % 15 == 0:
            print(samples[-1], flush=True)
    await sending
    await callers.close()
    left = await _admitted(pool)
    pool.close()
    return Soaked(seconds, per_s, samples, Counter(callers.endings), left)


async def _admitted(pool: ConnectionPool) -> float:
    page = await pool.exchange(get_bytes(pool.address, "/metrics"), 30)
    return read_samples(page.body.decode())["phiserve_admitted"]


WHAT: Mapping[str, Callable[[Resources], float]] = {
    "resident memory, MiB": lambda resources: resources.resident_bytes / MIB,
    "of it not mapped files, MiB": lambda resources: resources.anonymous_bytes / MIB,
    "open files": lambda resources: float(resources.open_files),
    "threads": lambda resources: float(resources.threads),
}
"""What is judged, and how it is read from a sample."""


def document(found: Soaked, command: str) -> str:
    """The soak as Markdown."""
    settled = [sample for sample in found.samples if sample.at_s >= WARM_UP_SHARE * found.seconds]
    times_s = [sample.at_s for sample in settled]
    rows = []
    for name, value in WHAT.items():
        values = [value(sample.resources) for sample in settled]
        line = trend(times_s, values)
        per_hour = f"{3600 * line.per_s:+.2f} ({3600 * line.low_per_s:+.2f} to {3600 * line.high_per_s:+.2f})"
        first, last = value(found.samples[0].resources), values[-1]
        verdict = "flat" if line.is_flat else ("grows" if line.per_s > 0 else "falls")
        rows.append(
            (name, f"{first:.0f}", f"{min(values):.1f}", f"{max(values):.1f}", f"{last:.0f}", per_hour, verdict)
        )
    total = sum(found.endings.values())
    endings = sorted(found.endings.items(), key=lambda item: -item[1])
    shares = [(name, str(count), f"{100 * count / total:.2f}") for name, count in endings]
    peak = max(sample.resources.resident_bytes_max for sample in found.samples) / MIB
    return (
        f"# A soak of {found.seconds / 60:g} minutes\n\n{origin(command, PACKAGES)}\n\n"
        f"{found.per_s:.1f} calls a second in an open loop, {LOAD:g} of what the server answers of these pictures: 0.1 "
        "to 6 megapixels, JPEG, PNG and WebP, budgets of 50 ms to 5 s, two fifths over gRPC; 3 % are no pictures, 3 % "
        f"of the callers leave before their answer. The process is sampled every {EVERY_S:g} s; slopes are by least "
        f"squares over what follows the first {100 * WARM_UP_SHARE:g} %, with 95 % confidence; samples in a row count "
        "for no more than they say (lag-1 autocorrelation).\n\n"
        + table(("", "at first", "lowest", "highest", "last", "slope, an hour", ""), rows)
        + f"\n\nThe most that ever was resident: {peak:.0f} MiB. Calls that the server still counted as in progress "
        f"when all had ended: {found.left_admitted:g}; most at a time: "
        f"{max(sample.admitted for sample in found.samples):g}.\n\n![Memory over time](soak-memory.svg)\n\n"
        f"## How {total} calls ended\n\n" + table(("", "calls", "%"), shares) + "\n"
    )  # fmt: skip


def draw(axes: Axes, found: Soaked) -> None:
    """Memory over minutes."""
    minutes = [sample.at_s / 60 for sample in found.samples]
    for name in list(WHAT)[:2]:
        axes.plot(minutes, [WHAT[name](sample.resources) for sample in found.samples], label=name.rpartition(",")[0])
    axes.set(xlabel="minutes", ylabel="MiB", ylim=(0, None))


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks soak`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute, to see that it works")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the load lasts")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    options = parser.parse_args(argv)
    seconds = 30.0 if options.quick else options.seconds
    # A server whose caller has one address for all is told that this is no flood.
    with serving(options.store, VARIANTS, "--admitted-per-client-max", "1024", grpc=True) as server:
        found = uvloop.run(soak(server, seconds))
    command = "python -m benchmarks soak" + (" --quick" if options.quick else f" --seconds {seconds:g}")
    options.results.mkdir(parents=True, exist_ok=True)
    save_plot(options.results / "soak-memory.svg", "The server's memory over time", lambda axes: draw(axes, found))
    (options.results / "soak.md").write_text(text := document(found, command))
    print(text)
    print(f"written: {options.results / 'soak.md'}")
