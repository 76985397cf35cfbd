"""phiserve and its quickest peers, all up at once, in short turns under the same load. Writes `results/duels.md`.

`python -m benchmarks peers` starts each server anew for each round, minutes apart, in which the machine's own speed may
double. Here two figures of a round are seconds apart, and ratios have intervals. Memory is that page's: it needs a
server that is up alone.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import wrk
from benchmarks.peers import environments
from benchmarks.peers.comparison import PHOTOGRAPHS, VARIANTS, own_store
from benchmarks.peers.contestants import CONTESTANTS, PHISERVE, Contestant, Setting, named
from benchmarks.peers.duel_document import Bout, document
from benchmarks.peers.measure import CONCURRENCIES
from benchmarks.peers.photographs import bodies
from benchmarks.peers.running import ContestantFailed, serving
from benchmarks.report import origin
from benchmarks.turns import NeverIdle, Side, take_round, wait_until_idle

QUICKEST = ("mosec", "fastapi")
ROUNDS, TURN_S = 12, 2
_WARM_UP_S = 2
_WARM_UP_AT = 8


@dataclass(frozen=True, slots=True)
class Entrant:
    """A server that is up: who it is, where photographs are posted, and all its processes."""

    name: str
    url: str
    photographs: Sequence[Path]
    headers: Mapping[str, str]
    pids: frozenset[int]

    def load(self, concurrency: int, duration_s: int) -> wrk.Load:
        """By wrk, which shares the server's cores."""
        return wrk.post(
            self.url, self.photographs, concurrency=concurrency, duration_s=duration_s, headers=self.headers
        )

    def side(self, concurrency: int, duration_s: int) -> Side[wrk.Load]:
        """As it takes turns at that load."""
        return Side(self.name, lambda: self.load(concurrency, duration_s), self.pids)


def setting_of(contestant: Contestant) -> Setting:
    """Of phiserve the one that has loaded what is asked for and no more, as all peers have; of a peer its first."""
    return contestant.setting("this variant only") if contestant.name == PHISERVE else contestant.settings[0]


@contextlib.contextmanager
def everyone_up(contestants: Sequence[Contestant], store: Path, variant: str) -> Iterator[list[Entrant]]:
    """All of them serve `variant` and are warm and idle; all have ended when the block is left.

    Raises:
        EnvironmentFailed, ContestantFailed, WrkError, NeverIdle: one of them does not do the work, or never rests.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for contestant in contestants:
            posted = stack.enter_context(bodies(PHOTOGRAPHS, wrapped=contestant.wrapped))
            server = stack.enter_context(serving(contestant, setting_of(contestant), store, variant, posted))
            wrk.post(server.url, posted.files, concurrency=_WARM_UP_AT, duration_s=_WARM_UP_S, headers=posted.headers)
            # Workers that are started by the first requests are there now.
            pids = frozenset(server.tree.pids())
            entrant = Entrant(contestant.name, server.url, posted.files, posted.headers, pids)
            wait_until_idle(contestant.title, entrant.side(_WARM_UP_AT, _WARM_UP_S).core_s)
            found.append(entrant)
        yield found


def measure(entrants: Sequence[Entrant], variant: str, rounds: int, turn_s: int) -> Iterator[Bout]:
    """Every round at every concurrency, as they end."""
    for number in range(rounds):
        for concurrency in CONCURRENCIES:
            turns = take_round([entrant.side(concurrency, turn_s) for entrant in entrants], number)
            loads = {name: turn.figures for name, turn in turns.items()}
            idle_cores = max(turn.others_cores for turn in turns.values())
            yield Bout(number, variant, concurrency, loads, idle_cores)


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    found = argparse.ArgumentParser(prog="python -m benchmarks duels", description=__doc__)
    found.add_argument("--quick", action="store_true", help="three rounds of one variant; figures are rough")
    found.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"turns of {TURN_S} s each; {ROUNDS}")
    peers = [contestant.name for contestant in CONTESTANTS if contestant.name != PHISERVE]
    found.add_argument("--peers", nargs="+", default=QUICKEST, choices=peers, metavar="NAME")
    found.add_argument("--variants", nargs="+", default=VARIANTS, metavar="NAME")
    found.add_argument("--store", type=Path, default=environments.ROOT / "model_store" / "artifacts", metavar="DIR")
    found.add_argument("--results", type=Path, default=environments.ROOT / "benchmarks" / "results", metavar="DIR")
    return found


def flags_of(options: argparse.Namespace) -> str:
    """What was asked for other than by default, as it would be typed."""
    said = " --quick" if options.quick else "" if options.rounds == ROUNDS else f" --rounds {options.rounds}"
    for name, default in (("peers", QUICKEST), ("variants", VARIANTS)):
        chosen = tuple(getattr(options, name))
        said += "" if chosen == default else f" --{name} {' '.join(chosen)}"
    return said


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks duels`; see `--help`."""
    options = parser().parse_args(argv)
    rounds, turn_s = (3, 1) if options.quick else (options.rounds, TURN_S)
    contestants = [named(name) for name in (PHISERVE, *options.peers)]
    # Asked to end, as by `timeout`, leave the blocks that end servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bouts = []
    try:
        versions = {c.name: environments.versions(c, environments.ready(c)) for c in contestants}
        with tempfile.TemporaryDirectory(prefix="duels-") as folder:
            store = own_store(options.store, Path(folder) / "store")
            for variant in options.variants[:1] if options.quick else options.variants:
                with everyone_up(contestants, store, variant) as entrants:
                    for bout in measure(entrants, variant, rounds, turn_s):
                        print(bout, flush=True)
                        bouts.append(bout)
    except (environments.EnvironmentFailed, ContestantFailed, wrk.WrkError, NeverIdle) as error:
        sys.exit(f"no comparison: {error}")
    started = [f"{c.title}, {setting_of(c).name}: {versions[c.name]}" for c in contestants]
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "duels.md"
    path.write_text(document(bouts, started, origin("python -m benchmarks duels" + flags_of(options)), turn_s))
    print(f"written: {path}")
