"""A limit on memory: what the server holds under it, and what loading one variant for a caller does to the others.

A server without a limit and servers with one, each a fresh process with its own profile. Loaded, then left alone: what
is resident. Then variants are named in turn, so that each has to be loaded, while other callers send requests that name
none, open loop: the most that was resident, how long loads took, and what became of the others' requests, those that
met a load apart from those that did not. Linux only. Writes `results/memory_limit.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from benchmarks.http_connection import ConnectionPool, loopback_address, post_bytes
from benchmarks.load_generator import Outcome, replay
from benchmarks.report import origin, spread, table
from benchmarks.server_process import ServerError, ServerProcess, serving
from benchmarks.server_resources import resources_of
from benchmarks.traffic import Mix, ScheduledRequest, Stretch, gamma_bursts, schedule
from model_store.catalogue import Catalogue

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(path.read_bytes() for path in sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
MIB = 1024**2
NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
LIMITS_MIB = (0, 400, 320)
IN_FLIGHT_MAX = 256
PER_S = 12.0
MIX = Mix(budget_ms_low=150.0, budget_ms_high=400.0, photographs=len(PHOTOGRAPHS))
NAMED_BUDGET_MS = 60_000
SEED = 7
LOAD_S_MAX = 1.2
"""What a load and a run are taken to need at most: what is needed beyond that is waiting."""


@dataclass(frozen=True, slots=True)
class Load:
    """A request that named `variant` and waited for it. Times from the start of the traffic."""

    variant: str
    status: int
    sent_ns: int
    ended_ns: int
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """One server: bytes at rest and at most, what it kept loaded, the loads, and the others' requests."""

    limit_mib: int
    loaded: tuple[str, ...]
    rest_bytes: int
    most_bytes: int
    loads: tuple[Load, ...]
    others: tuple[Outcome, ...]

    def split(self) -> tuple[list[Outcome], list[Outcome]]:
        """The others' requests that were under way while a variant was loaded, and the rest."""
        spans = [(load.sent_ns, load.ended_ns) for load in self.loads]
        met: list[Outcome] = []
        alone: list[Outcome] = []
        for outcome in self.others:
            meets = any(outcome.request.at_ns < end and outcome.ended_ns > start for start, end in spans)
            (met if meets else alone).append(outcome)
        return met, alone


def measure(store: Path, limit_mib: int, duration_s: float) -> Found | str:
    """One server from start to end; what it said if it would not start."""
    flags = ("--memory-limit-mib", str(limit_mib), "--budget-ms-default", "1000")
    try:
        with serving(store, (), *flags) as server:
            time.sleep(3)  # what a start leaves behind is given back by now
            rest = resources_of(server.process.pid).resident_bytes
            loaded = _loaded(server)
            _forget_most(server)
            loads, others = asyncio.run(_traffic(server, store, duration_s, limited=bool(limit_mib)))
            return Found(
                limit_mib,
                loaded,
                rest,
                resources_of(server.process.pid).resident_bytes_max,
                tuple(loads),
                tuple(others),
            )
    except ServerError as error:
        return str(error).splitlines()[-1]


def _loaded(server: ServerProcess) -> tuple[str, ...]:
    rows = httpx.get(f"{server.url}/variants").json()["variants"]
    return tuple(row["name"] for row in rows if row["loaded"])


def _forget_most(server: ServerProcess) -> None:
    """What the start took is another question: it is printed by `memory`."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


async def _traffic(
    server: ServerProcess, store: Path, duration_s: float, *, limited: bool
) -> tuple[list[Load], list[Outcome]]:
    """The others, and beside them one caller who names each variant in turn."""
    pool = ConnectionPool(loopback_address(server.url), IN_FLIGHT_MAX)
    requests = schedule(gamma_bursts(1.0), [Stretch(PER_S, duration_s)], MIX, SEED)

    def message(request: ScheduledRequest) -> bytes:
        target = f"/classify?budget_ms={request.budget_ns / NS_PER_MS:.3f}"
        return post_bytes(pool.address, target, PHOTOGRAPHS[request.photograph], "image/jpeg")

    names = sorted(Catalogue.open(store).entries)
    began_ns = time.monotonic_ns()
    naming = asyncio.create_task(_name(server, names, began_ns, duration_s)) if limited else None
    others = await replay(pool, requests, message)
    pool.close()
    return ([] if naming is None else await naming), others


async def _name(server: ServerProcess, names: Sequence[str], began_ns: int, duration_s: float) -> list[Load]:
    """Name what is not loaded, one after the other, a second apart."""
    found: list[Load] = []
    async with httpx.AsyncClient(base_url=server.url, timeout=90) as client:
        for variant in _turns(names):
            await asyncio.sleep(1)
            if time.monotonic_ns() - began_ns > (duration_s - 8) * NS_PER_S:
                return found
            rows = (await client.get("/variants")).json()["variants"]
            if any(row["name"] == variant and row["loaded"] for row in rows):
                continue
            await _until_it_may_be_loaded(client, variant)
            sent_ns = time.monotonic_ns() - began_ns
            target = f"/classify?variant={variant}&budget_ms={NAMED_BUDGET_MS}"
            answer = await client.post(target, content=PHOTOGRAPHS[0])
            ended_ns = time.monotonic_ns() - began_ns
            resident = resources_of(server.process.pid).resident_bytes
            found.append(Load(variant, answer.status_code, sent_ns, ended_ns, resident))
            print(found[-1], flush=True)
    return found


async def _until_it_may_be_loaded(client: httpx.AsyncClient, variant: str) -> None:
    """What was loaded a moment ago stays for a while: a budget that is far too small is told for how long."""
    while True:
        refused = await client.post("/classify", params={"variant": variant, "budget_ms": 1}, content=PHOTOGRAPHS[0])
        wait_s = refused.json().get("smallest_feasible_budget_ms", 0) / 1000
        if wait_s <= LOAD_S_MAX:
            return
        await asyncio.sleep(wait_s)  # with a load's time for good measure


def _turns(names: Sequence[str]) -> Iterator[str]:
    while True:
        yield from names


def document(found: Sequence[Found], refused: Sequence[tuple[int, str]], duration_s: float, command: str) -> str:
    """The Markdown."""
    said = "".join(f"\n\nWith `--memory-limit-mib {limit}` the start is refused: {text}" for limit, text in refused)
    held = ("limit", "loaded at the start", "at rest", "at most", "loads", "a load, s", "after a load")
    others = ("limit", "requests that", "number", "in time", "p50 ms", "p99 ms", "top-1, late ones 0")
    return (
        f"# A limit on memory\n\n{origin(command, ('onnxruntime', 'uvicorn'))}\n\n"
        "## What is resident\n\nMiB. At rest: three seconds after the start. At most: while the others below were "
        "served and variants were loaded for callers who named them. A load: seconds from its request to the answer, "
        "median with the lowest and highest. After a load: the most that was resident when one was answered.\n\n"
        + table(held, map(_held, found))
        + said
        + f"\n\n## Others during a load\n\n{PER_S:g} requests a second for {duration_s:g} s, Poisson, budgets "
        f"{MIX.budget_ms_low:g} to {MIX.budget_ms_high:g} ms, which name no variant; beside them one caller names "
        "variants that are not loaded, one after the other, with a budget of a minute, as soon as what makes room has "
        "stayed for as long as it must. All on the same cores. In time: answered within the budget and 5 ms for the "
        "way. Top-1: of the variant that answered.\n\n"
        + table(others, (row for one in found for row in _others(one)))
        + "\n"
    )  # fmt: skip


def _held(one: Found) -> tuple[str, ...]:
    took = [(load.ended_ns - load.sent_ns) / NS_PER_S for load in one.loads if load.status == 200]
    return (
        str(one.limit_mib or "none"),
        ", ".join(one.loaded),
        _mib(one.rest_bytes),
        _mib(one.most_bytes),
        str(len(took)),
        spread(took) if took else "",
        _mib(max(load.resident_bytes for load in one.loads)) if one.loads else "",
    )


def _others(one: Found) -> Iterator[tuple[str, ...]]:
    met, alone = one.split()
    for name, outcomes in (("met a load", met), ("met none", alone)):
        if outcomes:
            took = sorted(outcome.latency_ns / NS_PER_MS for outcome in outcomes if outcome.status == 200)
            in_time = [o for o in outcomes if o.status == 200 and o.latency_ns <= o.request.budget_ns + 5 * NS_PER_MS]
            p99 = took[-(-len(took) * 99 // 100) - 1] if took else float("nan")
            yield (
                str(one.limit_mib or "none"),
                name,
                str(len(outcomes)),
                f"{100 * len(in_time) / len(outcomes):.1f} %",
                f"{statistics.median(took):.0f}" if took else "",
                f"{p99:.0f}",
                f"{sum(_top1(outcome) for outcome in in_time) / len(outcomes):.1f}",
            )


def _top1(outcome: Outcome) -> float:
    return float(orjson.loads(outcome.body)["variant"]["top1"])


def _mib(size: int) -> str:
    return f"{size / MIB:.0f}"


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks memory_limit`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory_limit", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, and one limit, to see that it works")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    options = parser.parse_args(argv)
    limits, duration_s = ((0, 320), 20.0) if options.quick else (LIMITS_MIB, 45.0)
    results = [(limit, measure(options.store, limit, duration_s)) for limit in limits]
    found = [one for _, one in results if isinstance(one, Found)]
    refused = [(limit, text) for limit, text in results if isinstance(text, str)]
    text = document(found, refused, duration_s, "python -m benchmarks memory_limit" + " --quick" * options.quick)
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "memory_limit.md").write_text(text)
