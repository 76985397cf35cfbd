"""One turn of one contestant: start it, warm it, load it at each concurrency, note its memory, end it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks import wrk
from benchmarks.peers import environments
from benchmarks.peers.contestants import Contestant, Setting
from benchmarks.peers.photographs import bodies
from benchmarks.peers.rounds import Cell
from benchmarks.peers.running import serving

CONCURRENCIES = (1, 8, 32)
WARM_UP_S = 2
_WARM_UP_AT = 8


@dataclass(frozen=True, slots=True)
class Turn:
    """What is measured: `variant` of `store` under these photographs, `seconds` at each concurrency."""

    store: Path
    variant: str
    photographs: tuple[Path, ...]
    seconds: int


def measure(contestant: Contestant, setting: Setting, turn: Turn, go: int) -> list[Cell]:
    """A cell for each concurrency.

    Raises:
        EnvironmentFailed, ContestantFailed, WrkError: this contestant has no figures in this round.
    """
    versions = environments.versions(contestant, environments.ready(contestant))
    found = []
    with (
        bodies(turn.photographs, wrapped=contestant.wrapped) as posted,
        serving(contestant, setting, turn.store, turn.variant, posted) as server,
    ):

        def load(concurrency: int, seconds: int) -> wrk.Load:
            return wrk.post(
                server.url, posted.files, concurrency=concurrency, duration_s=seconds, headers=posted.headers
            )

        load(_WARM_UP_AT, WARM_UP_S)
        for concurrency in CONCURRENCIES:
            got = load(concurrency, turn.seconds)
            memory_mib = server.tree.memory_mib()
            found.append(
                Cell(
                    go, contestant.name, setting.name, turn.variant, concurrency,
                    got.steady_per_s, got.p50_ms, got.p99_ms, memory_mib, versions,
                )
            )  # fmt: skip
    return found
