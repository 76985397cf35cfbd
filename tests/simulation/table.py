"""Results of the simulation study as text: one row for each machine, traffic and load, averaged over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tests.simulation.study import Result, Score

BASELINES = ("maxacc", "maxbatch", "slackfit")


@dataclass(frozen=True, slots=True)
class Row:
    """The results of all seeds of one machine, traffic and load."""

    results: tuple[Result, ...]

    @property
    def load(self) -> float:
        return self.results[0].cell.load

    @property
    def traffic(self) -> str:
        """What kind of traffic; a trace by the name of its file."""
        name = self.results[0].cell.traffic
        name = Path(name).stem if name.endswith(".csv") else name
        return f"{name}, noise" if self.noise else name

    @property
    def noise(self) -> float:
        """Spread of the run times."""
        return self.results[0].cell.noise

    def ours(self, pick: Callable[[Score], float]) -> float:
        """A mean over seeds of one of our scores."""
        return fmean(pick(result.ours) for result in self.results)

    def baseline(self, name: str, pick: Callable[[Score], float] = lambda score: score.effective_accuracy) -> float:
        """A mean over seeds of one of a baseline's scores."""
        return fmean(pick(result.baselines[name]) for result in self.results)

    def static(self, pick: Callable[[Score], float] = lambda score: score.effective_accuracy) -> float:
        """A mean over seeds of a score of the static choice that has the best mean effective accuracy."""
        return fmean(pick(result.statics[self.best_static]) for result in self.results)

    @property
    def best_static(self) -> str:
        """The static choice with the best mean effective accuracy: chosen with hindsight."""
        names = self.results[0].statics
        return max(names, key=lambda n: fmean(result.statics[n].effective_accuracy for result in self.results))

    @property
    def bound(self) -> float | None:
        return _mean(result.bound for result in self.results)

    @property
    def clairvoyant(self) -> float | None:
        return _mean(result.clairvoyant for result in self.results)

    @property
    def ratio(self) -> float | None:
        """Our effective accuracy over the bound's."""
        return self.ours(_effective) / self.bound if self.bound else None

    @property
    def headroom_captured(self) -> float | None:
        """(ours - best static) / (bound - best static); None without a bound or without headroom to speak of."""
        if self.bound is None or self.bound - self.static() < HEADROOM_MIN:
            return None
        return (self.ours(_effective) - self.static()) / (self.bound - self.static())


HEADROOM_MIN = 0.1
"""Top-1 points between best static and bound below which a share of them says nothing."""


def _effective(score: Score) -> float:
    return score.effective_accuracy


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def rows(results: Iterable[Result]) -> list[Row]:
    """Group results by machine, traffic, load and noise, in the order of their first appearance."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.machine, cell.traffic, cell.load, cell.noise), []).append(result)
    return [Row(tuple(group)) for group in groups.values()]


HEADER = (
    "traffic", "load", "ours", "bound", "ratio", "clairvoyant", "best static", "(which)", "headroom",
    *BASELINES, "admitted in time", "refused",
)  # fmt: skip


def cells_of(row: Row) -> list[str]:
    """The row's columns as text, in the order of `HEADER`."""
    return [
        row.traffic,
        f"{row.load:g}",
        f"{row.ours(_effective):.2f}",
        _text(row.bound, ".2f"),
        _text(row.ratio, ".3f"),
        _text(row.clairvoyant, ".2f"),
        f"{row.static():.2f}",
        row.best_static,
        _text(row.headroom_captured, ".2f"),
        *(f"{row.baseline(name):.2f}" for name in BASELINES),
        f"{row.ours(lambda score: score.attainment_of_admitted):.4f}",
        f"{row.ours(lambda score: score.refused):.3f}",
    ]


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def plain(table: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first row the header."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def worst(found: Sequence[Row]) -> Counter[str]:
    """How many rows miss each goal: names of goals to counts."""
    missed: Counter[str] = Counter()
    for row in found:
        goal = 0.97 if row.load <= 1.0 else 0.93
        ours = row.ours(_effective)
        if row.ratio is not None:
            missed["ratio to the bound"] += row.ratio < goal
        missed["below a baseline"] += ours < max(row.static(), *(row.baseline(name) for name in BASELINES))
        missed["admitted in time"] += row.ours(lambda score: score.attainment_of_admitted) < 0.999
        if row.headroom_captured is not None and 0.3 <= row.load <= 1.5:
            missed["headroom captured"] += row.headroom_captured < 0.7
    return missed
