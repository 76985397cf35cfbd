"""phiserve and its peers under the same load, in turns. Writes `results/peers.md`.

Each peer gets an own environment in `.venv-peers/` (the first time, from the network). Rounds may be run in several
goes: `--append` keeps those of earlier goes, `--servers` and `--variants` choose, `--rounds 0 --append` only writes.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.contestants import CONTESTANTS, PHISERVE, Contestant, Setting
from benchmarks.peers.document import document
from benchmarks.peers.environments import ROOT, EnvironmentFailed
from benchmarks.peers.measure import Turn, measure
from benchmarks.peers.rounds import Scratch
from benchmarks.peers.running import ContestantFailed
from benchmarks.report import origin
from benchmarks.wrk import WrkError

PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANTS = ("lite0-int8", "lite2-int8")
SCRATCH = ROOT / "build" / "peers.jsonl"


def turns(names: Sequence[str], go: int, *, tune: bool) -> list[tuple[Contestant, Setting]]:
    """Who is measured in a round, in order, another one first each time: of peers one setting, or all (`tune`)."""
    chosen = [contestant for contestant in CONTESTANTS if contestant.name in names]
    first = go % len(chosen)
    return [
        (contestant, setting)
        for contestant in (*chosen[first:], *chosen[:first])
        for setting in (contestant.settings if tune or contestant.name == PHISERVE else contestant.settings[:1])
    ]


def own_store(store: Path, copy: Path) -> Path:
    """A copy of `store` without profiles, so that phiserve decides by one of these goes: its first start takes it."""
    if not copy.exists():
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns("profiles", "provider-cache"))
    return copy


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks peers`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round over one variant; figures are rough")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--servers", nargs="+", choices=[c.name for c in CONTESTANTS], metavar="NAME")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="NAME")
    parser.add_argument("--tune", action="store_true", help="every setting of every peer, instead of the first")
    parser.add_argument("--append", action="store_true", help="keep what earlier goes have measured")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, metavar="FILE", help="where goes are kept")
    options = parser.parse_args(argv)
    scratch = Scratch(options.scratch)
    if not options.append:
        scratch.forget()
        shutil.rmtree(_store_of(options.scratch), ignore_errors=True)
    variants = VARIANTS[:1] if options.quick else tuple(options.variants)
    names = options.servers or [contestant.name for contestant in CONTESTANTS]
    store = own_store(options.store, _store_of(options.scratch))
    found = [Turn(store, variant, PHOTOGRAPHS, 2 if options.quick else 4) for variant in variants]
    # Asked to end, as by `timeout`, leave the blocks that end servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for _ in range(min(1, options.rounds) if options.quick else options.rounds):
        go = scratch.next_go()
        for contestant, setting in turns(names, go, tune=options.tune):
            for turn in found:
                _take(contestant, setting, turn, go, scratch)
    command = "python -m benchmarks peers" + (" --quick" if options.quick else "")
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "peers.md"
    path.write_text(document(scratch.cells(), origin(command)))
    print(f"written: {path}")


def _store_of(scratch: Path) -> Path:
    return scratch.with_name(f"{scratch.stem}-store")


def _take(contestant: Contestant, setting: Setting, turn: Turn, go: int, scratch: Scratch) -> None:
    """One contestant that fails costs its own figures, not the others'."""
    try:
        cells = measure(contestant, setting, turn, go)
    except (EnvironmentFailed, ContestantFailed, WrkError) as error:
        print(f"{contestant.title}, {setting.name}, {turn.variant}: no figures. {error}", flush=True)
        return
    scratch.add(cells)
    for cell in cells:
        print(
            f"round {go}: {contestant.title}, {setting.name}, {cell.variant}, {cell.concurrency} at a time: "
            f"{cell.per_s:.1f} /s, p50 {cell.p50_ms:.2f} ms, p99 {cell.p99_ms:.1f} ms, {cell.memory_mib:.0f} MiB",
            flush=True,
        )
