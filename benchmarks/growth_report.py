"""The figures of growth as `growth.md` and a plot: every step beside the one before. Measures nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.growth_steps import Queued, Step
from benchmarks.report import name_ticks, number, origin, save_plot, spread, table
from benchmarks.scores import Percentiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PACKAGES = ("onnxruntime", "pillow", "uvicorn", "uvloop")
_NONE = "–"
_PREFACE = (
    "One server process with one configuration; the client shares its cores. Medians over rounds, with the lowest and "
    "highest; × is a step as a multiple of the one before, taken within each round. A cliff would be a step that "
    "multiplies cost by more than it multiplies work."
)


@dataclass(frozen=True, slots=True)
class Overload:
    """An open loop at `times` capacity: shares of all and of answers in time, latency over budget, milliseconds."""

    times: float
    in_time_per_s: float
    in_time: float
    in_time_of_answers: float
    over_budget_p99: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    livez_p50_ms: float
    livez_p99_ms: float


@dataclass(slots=True)
class Growth:
    """All that was measured, each ladder's steps in the order they were taken, round after round."""

    capacity_per_s: float = math.nan
    pinned: list[Step] = field(default_factory=list)
    by_budget: list[Step] = field(default_factory=list)
    alone: list[Step] = field(default_factory=list)
    several: list[Step] = field(default_factory=list)
    file_bytes: dict[float, int] = field(default_factory=dict)
    overloads: list[Overload] = field(default_factory=list)
    queue: list[Queued] = field(default_factory=list)
    filling_livez_ms: list[float] = field(default_factory=list)


def by_step(steps: Sequence[Step]) -> dict[float, list[Step]]:
    """The rounds of each step, in order of its size."""
    return {at: [step for step in steps if step.at == at] for at in sorted({step.at for step in steps})}


def growth_of(steps: Sequence[Step], value: Callable[[Step], float]) -> list[str]:
    """Of each step, what `value` is as a multiple of that of the step before: the median over rounds."""
    rounds = list(by_step(steps).values())
    multiples = [
        median(value(now) / value(was) if value(was) else math.nan for was, now in zip(before, after, strict=True))
        for before, after in itertools.pairwise(rounds)
    ]
    return [_NONE, *(f"× {number(multiple, 2)}" for multiple in multiples)]


def write(found: Growth, folder: Path, command: str) -> None:
    """`growth.md` and `growth-latency.svg` in `folder`."""
    save_plot(folder / "growth-latency.svg", "Latency as callers grow", lambda axes: _draw(axes, found))
    (folder / "growth.md").write_text(document(found, command))


def document(found: Growth, command: str) -> str:
    """The Markdown."""
    return "\n\n".join(
        [
            f"# phiserve as load grows\n\n{origin(command, PACKAGES)}",
            _PREFACE,
            _callers(found),
            "![Latency over callers](growth-latency.svg)",
            _pictures(found),
            _queue(found),
            _overload(found),
        ]
    ) + "\n"  # fmt: skip


def _callers(found: Growth) -> str:
    pinned = [
        (
            f"{at:g}",
            spread([step.per_s for step in steps], 1),
            faster,
            spread([step.p50_ms for step in steps], 1),
            spread([step.p99_ms for step in steps], 1),
            slower,
            spread([step.p99_ms * step.per_s / 1000 / at for step in steps]),
        )
        for (at, steps), faster, slower in zip(
            by_step(found.pinned).items(),
            growth_of(found.pinned, lambda step: step.per_s),
            growth_of(found.pinned, lambda step: step.p99_ms),
            strict=True,
        )
    ]
    budget = [
        (
            f"{at:g}",
            spread([step.per_s for step in steps], 1),
            faster,
            spread([100 * step.in_time for step in steps], 1),
            spread([step.p50_ms for step in steps], 1),
            spread([step.p99_ms for step in steps], 1),
        )
        for (at, steps), faster in zip(
            by_step(found.by_budget).items(), growth_of(found.by_budget, lambda step: step.per_s), strict=True
        )
    ]
    return (
        "## Callers\n\nEach has one request under way. With one variant pinned and all the time they take, callers "
        "beyond what saturates the server only wait for each other, so latency grows as their number does; the last "
        "column is p99 over the mean that follows from it (callers / answers a second, Little's law).\n\n"
        + table(("callers", "answers/s", "×", "p50 ms", "p99 ms", "×", "p99 / mean"), pinned)
        + "\n\nWith a budget of 250 ms the server chooses the variant and refuses what cannot be in time; who is "
        "refused asks again after a budget's length.\n\n"
        + table(("callers", "answers/s", "×", "in time, % of all", "p50 ms", "p99 ms"), budget)
    )


def _pictures(found: Growth) -> str:
    sizes = by_step(found.alone)
    pixels = [_NONE, *(f"× {after / before:.2f}" for before, after in itertools.pairwise(sizes))]
    several = by_step(found.several)
    rows = [
        (
            f"{at:g}",
            f"{found.file_bytes[at] / 1e6:.2f}",
            spread([step.p50_ms for step in steps], 1),
            spread([step.p99_ms for step in steps], 1),
            more_pixels,
            slower,
            spread([step.per_s for step in several[at]], 1),
            slower_together,
            spread([100 * step.in_time for step in several[at]], 1),
        )
        for (at, steps), more_pixels, slower, slower_together in zip(
            sizes.items(),
            pixels,
            growth_of(found.alone, lambda step: step.p50_ms),
            growth_of(found.several, lambda step: 1 / step.per_s if step.per_s else math.inf),
            strict=True,
        )
    ]
    header = (
        "megapixels", "MB", "alone, p50 ms", "p99 ms", "× pixels", "× p50",
        "8 callers, answers/s", "× cost", "in time, %",
    )  # fmt: skip
    return (
        "## Pictures\n\nThe photographs enlarged or reduced, as JPEG. Alone: one caller, one variant pinned. Eight "
        "callers: a budget of 1 s, the server chooses; cost is what one answer takes of the whole machine.\n\n"
        + table(header, rows)
    )


def _queue(found: Growth) -> str:
    place = [_NONE]
    for before, after in itertools.pairwise(found.queue):
        place.append(f"× {number(after.place_ms / before.place_ms, 2)}" if before.place_ms else _NONE)
    rows = [
        (
            str(row.ahead), str(row.answered), str(row.refused), number(row.place_ms, 2), times,
            number(row.p99_ms, 0), number(row.refusal_p99_ms, 1),
        )
        for row, times in zip(found.queue, place, strict=True)
    ]  # fmt: skip
    livez = Percentiles(found.filling_livez_ms)
    header = ("under way", "answered", "refused", "ms a place, median", "×", "p99 ms", "refusal, p99 ms")
    return (
        f"## Queue\n\nAn open loop at four times what one variant carries ({found.capacity_per_s:.1f}/s), with all the "
        "time they take: the queue fills to its limit of 512, and what comes then is told so. Requests by how many "
        "were under way before them (at least as many as the first column says). A place is what each request ahead "
        f"adds to the wait. The event loop meanwhile: `GET /livez` took {livez.at(50):.1f} ms at the median, "
        f"{livez.at(99):.1f} ms at p99.\n\n" + table(header, rows)
    )


def _overload(found: Growth) -> str:
    loads = sorted({row.times for row in found.overloads})
    answers = [Step(row.times, row.in_time_per_s, 0.0, 0.0, row.in_time) for row in found.overloads]
    rows = []
    for times, more in zip(loads, growth_of(answers, lambda step: step.per_s), strict=True):
        rounds = [row for row in found.overloads if row.times == times]
        rows.append(
            (
                f"{times:g}",
                spread([row.in_time_per_s for row in rounds], 1),
                more,
                spread([100 * row.in_time for row in rounds], 1),
                spread([100 * row.in_time_of_answers for row in rounds], 1),
                spread([row.over_budget_p99 for row in rounds]),
                spread([row.refusal_p50_ms for row in rounds], 1),
                spread([row.refusal_p99_ms for row in rounds], 1),
                spread([row.livez_p50_ms for row in rounds], 1),
                spread([row.livez_p99_ms for row in rounds], 1),
            )
        )
    header = (
        "× capacity", "in time, answers/s", "×", "% of all", "% of answers", "p99 of latency/budget",
        "refusal p50 ms", "p99 ms", "/livez p50 ms", "p99 ms",
    )  # fmt: skip
    return (
        "## Overload\n\nAn open loop (Poisson) with budgets log-uniform from 25 to 500 ms, at multiples of what the "
        "cheapest variant carries, after a second in which the server may learn of it. Above 1 nobody could answer "
        "all; a cliff would be fewer in-time answers a second than at a smaller load. Latencies are from when a "
        "request was sent, refusals' as well.\n\n" + table(header, rows)
    )


def _draw(axes: Axes, found: Growth) -> None:
    for name, steps, marker in (("pinned", found.pinned, "o"), ("budget of 250 ms", found.by_budget, "s")):
        rounds = by_step(steps)
        for what, style in (("p99", "-"), ("p50", "--")):
            values = [median(getattr(step, f"{what}_ms") for step in found) for found in rounds.values()]
            axes.plot(list(rounds), values, marker=marker, markersize=4, linestyle=style, label=f"{what}, {name}")
    axes.set(xlabel="callers", ylabel="latency, ms", xscale="log", yscale="log")
    name_ticks(axes, by_step(found.pinned))
