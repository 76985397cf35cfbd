"""What was measured of phiserve and its peers, as Markdown; says plainly where a peer wins. Measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.peers.contestants import CONTESTANTS, PHISERVE, Contestant
from benchmarks.peers.rounds import Cell
from benchmarks.report import spread, table

TIE = 0.10
"""A gap below this share of the better figure is a tie: rounds differ by as much."""

_HEADER = ("server", "answers/s", "p50 ms", "p99 ms", "memory MiB")

_INTRODUCTION = """A JPEG goes in over HTTP, five labelled classes come out as JSON: the same photographs
(`tests/photographs`), the same `model.onnx` and the same cores for everyone. One server is up at a time, started anew
for each round, and loaded by `wrk`, which shares its cores, at each concurrency in turn; rounds go through all servers,
each beginning with another one. Every peer decodes, crops and resizes with Pillow and runs ONNX Runtime
(`benchmarks/peers/peer_model.py`), in the way of its documentation (`benchmarks/peers/servers/`); phiserve reduces by
SIMD and has its own way around the network, which is what is compared. The photographs are so small that its scaled
decoding has nothing to scale.

Figures are medians over rounds, with the lowest and highest. Answers a second are those of the steady part of a load,
from when each connection could have had its first one. Memory is the proportional set size of all processes of a
server, right after the load."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a cell, and which way is better."""

    title: str
    of: Callable[[Cell], float]
    more_is_better: bool = False

    def best(self, values: dict[str, float]) -> str:
        """Who has the best."""
        chosen = max if self.more_is_better else min
        return chosen(values, key=lambda name: values[name])

    def gap(self, ours: float, theirs: float) -> float:
        """By how much ours is better, as a share of the better of both; negative where theirs is."""
        difference = ours - theirs if self.more_is_better else theirs - ours
        better = max(ours, theirs) if self.more_is_better else min(ours, theirs)
        return difference / better


COLUMNS = (
    Column("answers/s", lambda cell: cell.per_s, more_is_better=True),
    Column("p50 ms", lambda cell: cell.p50_ms),
    Column("p99 ms", lambda cell: cell.p99_ms),
    Column("memory MiB", lambda cell: cell.memory_mib),
)


def document(cells: Sequence[Cell], source: str) -> str:
    """The whole text; `source` is the paragraph that says where it comes from."""
    parts = ["# phiserve beside its peers", source, _INTRODUCTION]
    for variant in dict.fromkeys(cell.variant for cell in cells):
        parts += _variant(variant, [cell for cell in cells if cell.variant == variant])
    return "\n\n".join([*parts, *_contestants(cells)]) + "\n"


def _variant(variant: str, cells: Sequence[Cell]) -> Iterator[str]:
    yield f"## {variant}"
    for concurrency in sorted({cell.concurrency for cell in cells}):
        at = [cell for cell in cells if cell.concurrency == concurrency]
        yield f"### {concurrency} {'connection' if concurrency == 1 else 'connections'}"
        yield table(_HEADER, _rows(at))
        yield verdict(at)


def _rows(cells: Sequence[Cell]) -> Iterator[tuple[str, ...]]:
    for contestant in CONTESTANTS:
        for setting in contestant.settings:
            own = [cell for cell in cells if (cell.contestant, cell.setting) == (contestant.name, setting.name)]
            if own and (contestant.name == PHISERVE or setting is contestant.settings[0]):
                figures = [spread([column.of(cell) for cell in own], 1) for column in COLUMNS]
                yield (f"{contestant.title}, {setting.name}", *figures)


def verdict(cells: Sequence[Cell]) -> str:
    """Who is first in each column, of one load: phiserve as it is by default against every setting of every peer.

    A peer's setting is taken at its best for the column at hand, even where another one is better elsewhere.
    """
    said = []
    for column in COLUMNS:
        medians: dict[str, float] = {}
        for contestant, setting in dict.fromkeys((cell.contestant, cell.setting) for cell in cells):
            values = [column.of(cell) for cell in cells if (cell.contestant, cell.setting) == (contestant, setting)]
            medians[f"{contestant}, {setting}"] = statistics.median(values)
        own = f"{PHISERVE}, {CONTESTANTS[0].settings[0].name}"
        peers = {name: value for name, value in medians.items() if not name.startswith(PHISERVE)}
        if own not in medians or not peers:
            continue
        rival = column.best(peers)
        gap = column.gap(medians[own], peers[rival])
        standing = "**phiserve**" if gap >= TIE else "a tie" if gap > -TIE else f"**{rival}**"
        said.append(f"{column.title}: {standing} (best peer {peers[rival]:.1f}, {rival}; {gap:+.0%})")
    return "First: " + "; ".join(said) + "." if said else "No comparison: phiserve or every peer is missing."


def _contestants(cells: Sequence[Cell]) -> Iterator[str]:
    yield "## How each is run, and what else was tried"
    yield (
        "Of the settings of a peer the first one here is in the tables above. A gap under "
        f"{TIE:.0%} is called a tie. The verdicts take each peer's best setting for each column."
    )
    for contestant in CONTESTANTS:
        own = [cell for cell in cells if cell.contestant == contestant.name]
        yield f"### {contestant.title}"
        if not own:
            yield "No figures: it was not run, or did not start."
            continue
        yield f"{contestant.why} {own[-1].versions}."
        yield table(("setting, variant", "rounds", *_tried_titles()), _tried(contestant, own))


_TRIED = ((COLUMNS[0], 8), (COLUMNS[1], 1), (COLUMNS[2], 8), (COLUMNS[3], 32))


def _tried_titles() -> list[str]:
    return [f"{column.title} at {concurrency}" for column, concurrency in _TRIED]


def _tried(contestant: Contestant, cells: Sequence[Cell]) -> Iterator[tuple[str, ...]]:
    for setting in contestant.settings:
        for variant in dict.fromkeys(cell.variant for cell in cells):
            own = [cell for cell in cells if (cell.setting, cell.variant) == (setting.name, variant)]
            if own:
                figures = [
                    spread([column.of(cell) for cell in own if cell.concurrency == concurrency], 1)
                    for column, concurrency in _TRIED
                ]
                yield (f"{setting.name}, {variant}", str(len({cell.go for cell in own})), *figures)
