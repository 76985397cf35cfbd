"""Mixed budgets at twice the capacity of the largest variant: phiserve beside the best peers, each with one variant.

Every server gets the same requests in an open loop. phiserve is told each budget; a peer knows none, so it serves one
variant to everyone, and is tried with each. An answer counts if it is there within its budget by the client's clock.
Servers take turns, round by round, one up at a time. Writes `results/budgets.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop

from benchmarks.http_connection import ConnectionPool, loopback_address, post_bytes
from benchmarks.load_generator import Outcome, replay, saturate
from benchmarks.peers.comparison import own_store
from benchmarks.peers.contestants import PHISERVE, Contestant, Setting, named
from benchmarks.peers.photographs import bodies
from benchmarks.peers.running import serving
from benchmarks.replay import light_footed
from benchmarks.report import origin, spread, table
from benchmarks.scores import Percentiles
from benchmarks.traffic import NS_PER_MS, Mix, ScheduledRequest, Stretch, gamma_bursts, schedule
from model_store.catalogue import Catalogue

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
PEERS = ("mosec", "fastapi")
VARIANTS = ("lite0-int8", "lite1-int8", "lite2-int8", "lite2")
LARGEST = "lite2"
MIX = Mix(budget_ms_low=25, budget_ms_high=500, photographs=len(PHOTOGRAPHS))
SHAPES = {"Poisson": 1.0, "gamma bursts": 4.0}
OVERLOAD = 2.0
IN_FLIGHT_MAX = 1024
CONNECTIONS_READY = 64
_CALLERS = 8


@dataclass(frozen=True, slots=True)
class Judged:
    """One run: shares of all requests in time and of in-time answers among answers, top-1 percent, milliseconds.

    `over_budget_p99`: the 99th percentile of latency over budget, of answers; at most 1 means that 99 of 100 answers
    came within their budget.
    """

    server: str
    shape: str
    in_time: float
    in_time_of_answers: float
    effective_accuracy: float
    over_budget_p99: float


def judge(server: str, shape: str, outcomes: Sequence[Outcome], top1: Sequence[float]) -> Judged:
    """`top1`: the accuracy of what answered each request, in percent; of those without an answer it does not count."""
    answered = [outcome.status == 200 for outcome in outcomes]
    over = [outcome.latency_ns / outcome.request.budget_ns for outcome in outcomes]
    good = [ok and ratio <= 1 for ok, ratio in zip(answered, over, strict=True)]
    return Judged(
        server,
        shape,
        in_time=sum(good) / len(outcomes),
        in_time_of_answers=sum(good) / sum(answered) if any(answered) else math.nan,
        effective_accuracy=math.fsum(value for value, ok in zip(top1, good, strict=True) if ok) / len(outcomes),
        over_budget_p99=Percentiles(ratio for ratio, ok in zip(over, answered, strict=True) if ok).at(99),
    )


@dataclass(frozen=True, slots=True)
class Entrant:
    """A server as it takes part: with which variant, or `None`: it chooses."""

    contestant: Contestant
    setting: Setting
    variant: str | None

    @property
    def title(self) -> str:
        """As in the tables."""
        return f"{self.contestant.title}, {self.variant or 'by budget'}"


def entrants(peers: Sequence[str]) -> list[Entrant]:
    """The server that chooses, and each peer in its best setting with each variant."""
    phiserve = named(PHISERVE)
    found = [Entrant(phiserve, phiserve.settings[0], None)]
    return found + [Entrant(peer, peer.settings[0], name) for peer in map(named, peers) for name in VARIANTS]


class Bench:
    """The store's accuracies, and one server at a time."""

    def __init__(self, store: Path) -> None:
        self._store = store
        entries = Catalogue.open(store, only=list(VARIANTS)).entries
        self._top1 = {name: entry.variant.top1 or 0.0 for name, entry in entries.items()}

    @contextlib.contextmanager
    def _up(self, entrant: Entrant) -> Iterator[str]:
        with (
            bodies(PHOTOGRAPHS, wrapped=False) as posted,
            serving(entrant.contestant, entrant.setting, self._store, entrant.variant or VARIANTS[0], posted) as server,
        ):
            yield server.url

    def capacity_per_s(self, variant: str, duration_s: float) -> float:
        """Answers a second that phiserve gives at saturation with `variant` pinned."""

        async def measure(pool: ConnectionPool) -> float:
            target = f"/classify?variant={variant}&budget_ms=10000"
            sent = [post_bytes(pool.address, target, path.read_bytes(), "image/jpeg") for path in PHOTOGRAPHS]
            return await saturate(pool, sent, concurrency=_CALLERS, warmup_s=1.0, duration_s=duration_s)

        phiserve = named(PHISERVE)
        with self._up(Entrant(phiserve, phiserve.settings[0], variant)) as url:
            pool = ConnectionPool(loopback_address(url), IN_FLIGHT_MAX)
            return uvloop.run(measure(pool))

    def run(self, entrant: Entrant, per_s: float, duration_s: float, seed: int) -> list[Judged]:
        """Every shape, on one start of the server."""
        photographs = [path.read_bytes() for path in PHOTOGRAPHS]

        def message(pool: ConnectionPool, path: str, request: ScheduledRequest) -> bytes:
            chooses = entrant.variant is None
            target = f"/classify?budget_ms={request.budget_ns / NS_PER_MS:.3f}" if chooses else path
            return post_bytes(pool.address, target, photographs[request.photograph], "image/jpeg")

        async def offer(url: str, cv2: float) -> list[Outcome]:
            pool = ConnectionPool(loopback_address(url), IN_FLIGHT_MAX)
            path = "/" + url.split("/", 3)[3]
            # A second at half of the load first: connections, warm caches, and what a server has learnt of its load.
            warm = schedule(gamma_bursts(1.0), [Stretch(per_s / 4, 1.0)], MIX, seed)
            await pool.open(CONNECTIONS_READY)
            await replay(pool, warm, lambda request: message(pool, path, request))
            requests = schedule(gamma_bursts(cv2), [Stretch(per_s, duration_s)], MIX, seed)
            try:
                return await replay(pool, requests, lambda request: message(pool, path, request))
            finally:
                pool.close()

        found = []
        with self._up(entrant) as url:
            for shape, cv2 in SHAPES.items():
                with light_footed():
                    outcomes = uvloop.run(offer(url, cv2))
                found.append(judge(entrant.title, shape, outcomes, [self._accuracy(entrant, o) for o in outcomes]))
        return found

    def _accuracy(self, entrant: Entrant, outcome: Outcome) -> float:
        if entrant.variant is not None:
            return self._top1[entrant.variant]
        return variant_top1(outcome)


def variant_top1(outcome: Outcome) -> float:
    """What phiserve says of the variant that answered; 0 where none did."""
    if outcome.status != 200:
        return 0.0
    return float(orjson.loads(outcome.body)["variant"]["top1"])


def document(found: Sequence[Judged], per_s: float, command: str, peers: Sequence[str]) -> str:
    """A table for each shape, best first."""
    sections = []
    for shape in SHAPES:
        servers = {row.server for row in found}
        runs = {server: [row for row in found if (row.server, row.shape) == (server, shape)] for server in servers}
        rows = [
            (
                server,
                spread([row.effective_accuracy for row in runs[server]], 1),
                spread([100 * row.in_time for row in runs[server]], 1),
                spread([100 * row.in_time_of_answers for row in runs[server]], 1),
                spread([row.over_budget_p99 for row in runs[server]]),
            )
            for server in sorted(runs, key=lambda server: (-spread_key(runs[server]), server))
        ]
        header = ("server", "effective accuracy", "in time, % of all", "in time, % of answers", "p99 of latency/budget")
        sections.append(f"## {shape}\n\n{table(header, rows)}\n")
    settings = ", ".join(f"{named(peer).title}: {named(peer).settings[0].name}" for peer in peers)
    return (
        f"# Mixed budgets at twice the capacity of {LARGEST}\n\n{origin(command, ('onnxruntime', 'uvicorn'))}\n\n"
        f"{per_s:.0f} requests a second, twice what phiserve answers with {LARGEST} pinned, in an open loop; budgets "
        f"log-uniform from {MIX.budget_ms_low:g} to {MIX.budget_ms_high:g} ms. Effective accuracy: published top-1 of "
        "the variant that answered, 0 for what came late or not at all, over all requests. phiserve is told each "
        "budget and refuses what it cannot answer in time; a peer knows none and serves one variant to everyone "
        f"({settings}). Medians over rounds in turns, with the lowest and highest; the client shares the cores.\n\n"
        + "\n".join(sections)
    )


def spread_key(runs: Sequence[Judged]) -> float:
    """What servers are ordered by: the median of effective accuracy."""
    return Percentiles(run.effective_accuracy for run in runs).at(50)


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks budgets`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks budgets", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works; figures are rough")
    parser.add_argument("--rounds", type=int, default=2, metavar="N")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS, metavar="NAME")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    options = parser.parse_args(argv)
    rounds, duration_s = (1, 2.0) if options.quick else (options.rounds, 6.0)
    found: list[Judged] = []
    with tempfile.TemporaryDirectory(prefix="budgets-") as folder:
        bench = Bench(own_store(options.store, Path(folder) / "store"))
        per_s = OVERLOAD * bench.capacity_per_s(LARGEST, duration_s)
        listed = entrants(options.peers)
        for number in range(rounds):
            first = number * len(listed) // rounds
            for entrant in (*listed[first:], *listed[:first]):
                found += bench.run(entrant, per_s, duration_s, number)
                for row in found[-len(SHAPES) :]:
                    print(row, flush=True)
    command = "python -m benchmarks budgets" + (" --quick" if options.quick else "")
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "budgets.md").write_text(document(found, per_s, command, options.peers))
    print(f"written: {options.results / 'budgets.md'}")
