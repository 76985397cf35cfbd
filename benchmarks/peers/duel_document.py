"""What duels of phiserve and its peers gave, as Markdown: who is first where, and where that cannot be told.

Measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from benchmarks.paired import Ratio, Standing, ratio
from benchmarks.peers.contestants import CONTESTANTS, PHISERVE, named
from benchmarks.report import spread, table
from benchmarks.wrk import Load

COLUMNS = {"answers/s": ("steady_per_s", True), "p50 ms": ("p50_ms", False), "p99 ms": ("p99_ms", False)}
"""Title of a column to what it holds of a `Load`, and whether more of it is better."""


@dataclass(frozen=True, slots=True)
class Bout:
    """One round at one load: what each server gave by name, and the most cores that those without a turn used."""

    number: int
    variant: str
    concurrency: int
    loads: Mapping[str, Load]
    idle_cores: float


def document(bouts: Sequence[Bout], started: Sequence[str], source: str, turn_s: int) -> str:
    """The whole text; `started` says of each server how it was run, `source` where all of it comes from."""
    cases = list(dict.fromkeys((bout.variant, bout.concurrency) for bout in bouts))
    parts = ["# phiserve and its quickest peers in turns", source, _introduction(bouts, turn_s)]
    parts += ["\n".join(f"- {how}." for how in started)]
    parts += ["## Where phiserve is first", _summary(bouts, cases)]
    for case in cases:
        parts += _case(*case, _of(bouts, case))
    return "\n\n".join(parts) + "\n"


def _introduction(bouts: Sequence[Bout], turn_s: int) -> str:
    rounds = len({bout.number for bout in bouts})
    idle_cores = max(bout.idle_cores for bout in bouts)
    return (
        "A JPEG goes in over HTTP, five labelled classes come out as JSON: the same photographs "
        "(`tests/photographs`), the same `model.onnx` and the same cores for everyone, loaded by `wrk`, which shares "
        f"them. All servers are up at once, each has loaded one variant, and they take turns of {turn_s} s, {rounds} "
        "rounds of them at each load, in an order that changes with each round: every second one is the one before it "
        "backwards. A turn begins when nothing of the last is under way. Servers without a turn used at most "
        f"{idle_cores:.3f} of a core together. Answers a second are those of the steady part of a turn, from when each "
        "connection could have had its first one to the last: over so short a turn as a whole a server lacks what it "
        "has under way as the turn ends, and one that decodes ahead or answers in batches lacks more. Milliseconds are "
        "those of all answers.\n\n"
        "Figures are medians over rounds, with the lowest and highest. Ratios are geometric means of those within "
        "rounds, in which the machine is as fast for one as for the other, with the interval that should hold the true "
        "one (95 %, Student, on logarithms). phiserve is *first* in a column if the whole interval is on its side for "
        "each peer, *behind* one if the whole interval is on that peer's; of a peer whose interval holds 1 it *cannot "
        "be told apart*. Of twenty intervals one may miss by chance, and none knows how starts of one server differ: "
        "each was started once for a variant. A 99th percentile of so short a turn is nearly its slowest answer. "
        "Memory is in `peers.md`: it needs servers that are up alone."
    )


def _of(bouts: Sequence[Bout], case: tuple[str, int]) -> list[Bout]:
    return [bout for bout in bouts if (bout.variant, bout.concurrency) == case]


def _connections(concurrency: int) -> str:
    return f"{concurrency} {'connection' if concurrency == 1 else 'connections'}"


def _summary(bouts: Sequence[Bout], cases: Sequence[tuple[str, int]]) -> str:
    rows = [
        (f"{case[0]}, {_connections(case[1])}", *(verdict(_of(bouts, case), column) for column in COLUMNS))
        for case in cases
    ]
    return table(("load", *COLUMNS), rows)


def _case(variant: str, concurrency: int, bouts: Sequence[Bout]) -> Iterator[str]:
    yield f"## {variant}, {_connections(concurrency)}"
    yield table(
        ("server", *COLUMNS),
        (
            (named(name).title, *(spread(_values(bouts, name, column), 1) for column in COLUMNS))
            for name in (PHISERVE, *_peers(bouts))
        ),
    )
    yield table(
        ("ratio", *COLUMNS),
        (
            (f"phiserve / {named(peer).title}", *(str(beside(bouts, peer, column)) for column in COLUMNS))
            for peer in _peers(bouts)
        ),
    )


def _values(bouts: Sequence[Bout], server: str, column: str) -> list[float]:
    read = attrgetter(COLUMNS[column][0])
    return [read(bout.loads[server]) for bout in bouts]


def _peers(bouts: Sequence[Bout]) -> list[str]:
    """In the order of the other pages, whoever had the first turn."""
    return [one.name for one in CONTESTANTS if one.name in bouts[0].loads and one.name != PHISERVE]


def beside(bouts: Sequence[Bout], peer: str, column: str) -> Ratio:
    """How many times phiserve's figure is the peer's, over the rounds of one load."""
    return ratio(_values(bouts, PHISERVE, column), _values(bouts, peer, column))


def verdict(bouts: Sequence[Bout], column: str) -> str:
    """Of one column of one load: first, or which peers are ahead of phiserve, or from which it cannot be told apart."""
    _, more_is_better = COLUMNS[column]
    found = {peer: beside(bouts, peer, column).beside(1.0, more_is_better=more_is_better) for peer in _peers(bouts)}

    def those(standing: Standing) -> str:
        return " and ".join(named(peer).title for peer, stands in found.items() if stands is standing)

    if ahead := those(Standing.WORSE):
        return f"**behind {ahead}**"
    if level := those(Standing.WITHIN_NOISE):
        return f"cannot be told apart from {level}"
    return "first"
