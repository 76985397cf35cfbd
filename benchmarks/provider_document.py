"""What was measured of an execution provider, as Markdown. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.provider_runs import Agreement, Measured
from benchmarks.provider_serving import STAGES, Served
from benchmarks.report import number, origin, table


@dataclass(slots=True)
class Found:
    """What was measured so far, in its parts: `served` by how the server was started."""

    provider: str
    command: str
    runs: list[Measured] = field(default_factory=list)
    ways: list[Measured] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    served: dict[str, list[Served]] = field(default_factory=dict)


def document(found: Found) -> str:
    """All of it, each part that there is under its own heading."""
    parts = [f"# Graphs on {found.provider}\n\n{origin(found.command, ('numpy', 'onnx', 'pillow'))}"]
    parts.extend(_run_parts(found))
    if found.agreements:
        parts.append(
            "## The same answers\n\nPhotographs and their mirror images, beside the fp32 graph on ONNX Runtime's CPU "
            "provider: the largest difference of any probability, and how many are put into the same class.\n\n"
            + _agreement_table(found.agreements)
        )
    for title, served in found.served.items():
        parts.append(f"## The server, {title}\n\n{_served_table(served)}\n\n{_stage_table(served)}")
    return "\n\n".join(parts) + "\n"


def _run_parts(found: Found) -> Iterator[str]:
    if found.runs:
        yield (
            "## One run\n\nPixels in, five best classes out, on one session: median and 99th percentile in "
            "milliseconds.\n\n" + _latency_table(found.runs)
        )
        yield "Images a second in such runs, one after the other:\n\n" + _throughput_table(found.runs)
        yield (
            "What making ready takes: loading, the first run at each batch size (kernels are searched, graphs "
            "recorded), and the card's memory at the end.\n\n" + _cost_table(found.runs)
        )
    if found.ways:
        yield (
            "## What each choice is worth\n\nMedian milliseconds, and in parentheses how many times those of the "
            "variant as served; seconds of all first runs.\n\n" + _way_table(found.ways)
        )


def _sizes(measured: Sequence[Measured]) -> list[int]:
    return sorted({timing.batch_size for one in measured for timing in one.timings})


def _latency_table(runs: Sequence[Measured]) -> str:
    rows = []
    for one in runs:
        at = {timing.batch_size: timing for timing in one.timings}
        cells = [f"{at[n].median_ms:.2f} ({at[n].p99_ms:.2f})" if n in at else "–" for n in _sizes(runs)]
        rows.append((one.variant, *cells))
    return table(("variant", *(f"batch {size}" for size in _sizes(runs))), rows)


def _throughput_table(runs: Sequence[Measured]) -> str:
    rows = []
    for one in runs:
        at = {timing.batch_size: timing for timing in one.timings}
        rows.append((one.variant, *(f"{at[n].per_s:.0f}" if n in at else "–" for n in _sizes(runs))))
    return table(("variant", *(f"batch {size}" for size in _sizes(runs))), rows)


def _cost_table(runs: Sequence[Measured]) -> str:
    rows = [
        (
            one.variant,
            f"{one.load_ms / 1000:.1f}",
            f"{sum(timing.first_ms for timing in one.timings) / 1000:.1f}",
            "–" if one.memory_mb is None else f"{one.memory_mb:.0f}",
        )
        for one in runs
    ]
    return table(("variant", "load s", "first runs s", "card's memory MB"), rows)


def _way_table(ways: Sequence[Measured]) -> str:
    base = {one.variant: one for one in reversed(ways) if one.way == ways[0].way}
    sizes = _sizes(ways)
    rows = []
    for one in ways:
        usual = {timing.batch_size: timing.median_ms for timing in base[one.variant].timings}
        cells = [f"{t.median_ms:.2f} ({t.median_ms / usual[t.batch_size]:.2f})" for t in one.timings]
        first_s = sum(timing.first_ms for timing in one.timings) / 1000
        rows.append((f"{one.variant}, {one.way}", *cells, f"{first_s:.1f}"))
    return table(("variant, way", *(f"batch {size}" for size in sizes), "first runs s"), rows)


def _agreement_table(agreements: Sequence[Agreement]) -> str:
    rows = [(one.variant, f"{one.difference:.1e}", f"{one.same_class} of {one.photographs}") for one in agreements]
    return table(("variant", "largest difference", "same class"), rows)


def _served_table(served: Sequence[Served]) -> str:
    header = ("callers, budgets", "answers/s", "in time %", "p50 ms", "p99 ms", "refused %", "images a run", "loop %")
    rows = []
    for one in served:
        refused = 1 - len(one.answered) / max(1, len(one.answers))
        rows.append(
            (
                _load(one),
                f"{one.per_s:.0f}",
                f"{100 * one.in_time:.1f}",
                number(one.latency_ms(50)),
                number(one.latency_ms(99)),
                f"{100 * refused:.1f}",
                f"{one.batch_mean:.1f}",
                f"{100 * one.loop_share:.0f}",
            )
        )
    return table(header, rows)


def _stage_table(served: Sequence[Served]) -> str:
    header = ("callers, budgets", *(f"{stage} ms" for stage in STAGES), "answered by")
    rows = []
    for one in served:
        stages = [number(one.stage_ms(index), 2) for index in range(len(STAGES))]
        shares = ", ".join(
            f"{name} {100 * count / max(1, len(one.answered)):.0f} %" for name, count in one.variants().most_common()
        )
        rows.append((_load(one), *stages, shares or "–"))
    return table(header, rows)


def _load(served: Served) -> str:
    load = served.load
    budgets = f"{load.budgets_ms[0]}" if len(load.budgets_ms) == 1 else f"{load.budgets_ms[0]}–{load.budgets_ms[-1]}"
    pinned = "" if load.pinned is None else f", {load.pinned} pinned"
    return f"{load.concurrency}, {budgets} ms{pinned}"
