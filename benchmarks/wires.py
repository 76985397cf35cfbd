"""What gRPC costs over REST, and what a stream of frames with short budgets gets, on the real server.

Calls take turns, image by image; streams take turns, round by round. Client and server share this machine's cores.
Writes `results/wires.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frame_streams import Outcomes, Pace, play
from benchmarks.report import origin, spread, table
from benchmarks.server_process import BusyNeighbour, ServerProcess, serving
from benchmarks.wire_calls import KINDS, Round, measure

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANT = "lite0-int8"
FRAMES = 200
SHORT_MS, LONGER_MS = 20.0, 60.0
"""The longer budget is for machines on which the shorter one is less than the fastest variant takes."""
PACES = tuple(
    Pace(frames_per_s, budget_ms, disturbed)
    for budget_ms in (SHORT_MS, LONGER_MS)
    for frames_per_s, disturbed in ((10, False), (30, False), (30, True), (None, False))
    if not (budget_ms == LONGER_MS and frames_per_s == 10)
)


async def play_all(server: ServerProcess, rounds: int) -> dict[Pace, list[Outcomes]]:
    """Every pace, in turns."""
    assert server.grpc_url is not None, "it was asked for"
    images = [path.read_bytes() for path in PHOTOGRAPHS]
    found: dict[Pace, list[Outcomes]] = {pace: [] for pace in PACES}
    for _ in range(rounds):
        for pace in PACES:
            outcomes = await play(
                server.grpc_url,
                images,
                pace,
                frames=FRAMES,
                neighbour=BusyNeighbour(server),
            )
            found[pace].append(outcomes)
            print(f"{pace.name}: {Counter(outcomes.names)}, {outcomes.variants}", flush=True)
            await asyncio.sleep(5.0 if pace.disturbed else 0.5)  # a disturbance is of that stream alone
    return found


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks wires`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks wires", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works; figures are rough")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", help="the built store")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args(argv)
    rounds, calls, streams = (1, 50, 1) if options.quick else (5, 60, 2)
    images = [path.read_bytes() for path in PHOTOGRAPHS]
    with serving(options.store, (), grpc=True) as server:
        assert server.grpc_url is not None, "it was asked for"
        called = asyncio.run(measure(server.url, server.grpc_url, VARIANT, images, rounds=rounds, calls=calls))
        streamed = asyncio.run(play_all(server, streams))
    text = document(called, streamed, "python -m benchmarks wires" + (" --quick" if options.quick else ""))
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "wires.md").write_text(text)


def document(called: Sequence[Round], streamed: dict[Pace, list[Outcomes]], command: str) -> str:
    """Both measurements as Markdown."""
    return (
        "# gRPC beside REST, and streams of frames\n\n"
        f"{origin(command, ('grpcio', 'httpx', 'uvicorn', 'onnxruntime', 'protobuf'))}\n\n"
        f"## One image at a time\n\nPhotographs of {_sizes()} KB, {VARIANT} pinned. {_ABOUT_CALLS}\n\n"
        f"{table(('client', 'p50 ms', 'overhead, p50 ms'), _call_rows(called))}\n\n"
        f"{_differences(called)}\n\n"
        f"## {FRAMES} frames with a short budget each\n\n{_ABOUT_STREAMS}\n\n"
        f"{table(_STREAM_HEADER, _stream_rows(streamed))}\n\n"
        f"{_variants(streamed)}\n"
    )


_ABOUT_CALLS = (
    "Kinds take turns, image by image. Medians of a round; over rounds their median with the lowest and highest. "
    "Overhead is what a call takes beyond the time that its budget counted: both ends' libraries and the loopback "
    "between them. “Bytes” is a client that only writes requests made beforehand and reads the time that the server "
    "says."
)
_ABOUT_STREAMS = (
    "One stream, all variants, the same photographs in turn. In time counts a frame's wait for the answers of earlier "
    "ones; its budget begins when the server has read it. “Disturbed”: another process takes one core during the "
    "second quarter of the frames. Medians over rounds, with the lowest and highest."
)
_STREAM_HEADER = (
    "pace", "in time, %", "stale, %", "refused or failed, %", "late, %", "in time a second", "by quarter, %",
)  # fmt: skip


def _sizes() -> str:
    return ", ".join(f"{path.stat().st_size / 1000:.0f}" for path in PHOTOGRAPHS)


def _call_rows(called: Sequence[Round]) -> list[tuple[str, ...]]:
    return [
        (name, spread([row[name].call_ms for row in called]), spread([row[name].overhead_ms for row in called]))
        for name in KINDS
    ]


def _differences(called: Sequence[Round]) -> str:
    def told(rest: str, grpc: str) -> str:
        more = spread([row[grpc].call_ms - row[rest].call_ms for row in called])
        ratio = spread([row[grpc].overhead_ms / row[rest].overhead_ms for row in called])
        return f"{more} ms in all, overhead × {ratio}"

    return f"gRPC over REST, within rounds: {told(*KINDS[:2])} with phiserve's client; {told(*KINDS[2:])} with bytes."


def _stream_rows(streamed: dict[Pace, list[Outcomes]]) -> list[tuple[str, ...]]:
    rows = []
    for pace, rounds in streamed.items():
        refused = [100.0 - sum(row.share(name) for name in ("in time", "stale", "late")) for row in rounds]
        quarters = zip(*(row.in_time_by_quarter() for row in rounds), strict=True)
        rows.append(
            (
                pace.name,
                *(spread([row.share(name) for row in rounds], 1) for name in ("in time", "stale")),
                spread(refused, 1),
                spread([row.share("late") for row in rounds], 1),
                spread([row.in_time_per_s for row in rounds], 1),
                ", ".join(f"{statistics.median(quarter):.0f}" for quarter in quarters),
            )
        )
    return rows


def _variants(streamed: dict[Pace, list[Outcomes]]) -> str:
    lines = []
    for pace, rounds in streamed.items():
        used = sum((row.variants for row in rounds), Counter[str]())
        shares = ", ".join(f"{name} {100.0 * count / used.total():.0f} %" for name, count in used.most_common())
        lines.append(f"- {pace.name}: {shares or 'none'}")
    return "Who answered:\n\n" + "\n".join(lines)
