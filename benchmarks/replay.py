"""Replay on the real server: what phiserve makes of each load, beside every fixed variant through the same server.

One server process answers everything. First its capacity is measured with the cheapest variant pinned (closed loop);
the loads are shares of that. Then every policy gets the same requests in turn, round by round, so that whatever else
the machine does falls on all of them; and at the end phiserve and the best fixed variant of each load once more, for
many rounds, since what separates them is small. Writes `results/replay.md` and its plots through `replay_report.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvloop

from benchmarks import replay_report
from benchmarks.http_connection import ConnectionPool, get_bytes, loopback_address, post_bytes
from benchmarks.load_generator import replay, saturate
from benchmarks.replay_plan import BURSTS, MIX, PHISERVE, Amount, Scenario, full_amount, plan, plan_duels, quick_amount
from benchmarks.replay_report import Replay, Run, best_fixed
from benchmarks.scores import Ending, Fate, ending, score
from benchmarks.server_metrics import Samples, ServerAccount, account, read_samples
from benchmarks.server_process import BusyNeighbour, ServerProcess, serving
from benchmarks.traffic import NS_PER_MS, ScheduledRequest, schedule

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANTS = ("lite0-int8", "lite1-int8", "lite2-int8", "lite2")
IN_FLIGHT_MAX = 512
CONNECTIONS_READY = 64
SATURATING_CALLERS = 8
SETTLE_S = 0.3
LOOK_S = 0.5
OTHERS_MAX = 0.15
"""Cores that others may use before a run counts as disturbed."""

_AHEAD = 10


@dataclass(slots=True)
class Bench:
    """One server under test and what is sent to it."""

    server: ServerProcess
    pool: ConnectionPool
    photographs: tuple[bytes, ...]
    patience_s: float
    runs: list[Run] = field(default_factory=list)

    def message(self, request: ScheduledRequest, policy: str) -> bytes:
        """The bytes of a request under a policy: a variant's name pins it, `PHISERVE` leaves the choice open."""
        pin = "" if policy == PHISERVE else f"&variant={policy}"
        target = f"/classify?budget_ms={request.budget_ns / NS_PER_MS:.3f}{pin}"
        return post_bytes(self.pool.address, target, self.photographs[request.photograph], "image/jpeg")

    async def capacity_per_s(self, duration_s: float) -> float:
        """Answers a second at saturation, with the cheapest variant pinned and time enough for each request."""
        patient = [ScheduledRequest(0, 30_000 * NS_PER_MS, index) for index in range(len(self.photographs))]
        messages = [self.message(request, VARIANTS[0]) for request in patient]
        return await saturate(self.pool, messages, concurrency=SATURATING_CALLERS, warmup_s=1.0, duration_s=duration_s)

    async def samples(self) -> Samples:
        """The server's metrics now."""
        answer = await self.pool.exchange(get_bytes(self.pool.address, "/metrics"), 10)
        return read_samples(answer.body.decode())

    async def measure_all(self, scenarios: Sequence[Scenario], capacity_per_s: float) -> None:
        """Measure one after the other and say how each went."""
        for number, scenario in enumerate(scenarios, start=1):
            run = await self.measure(scenario, capacity_per_s)
            print(
                f"{number}/{len(scenarios)} {scenario.title}: effective accuracy {run.score.effective_accuracy:.2f}, "
                f"in time {run.score.attainment:.3f} of all, {run.score.admitted_in_time:.3f} of admitted, "
                f"{run.others:.2f} cores used by others",
                flush=True,
            )

    async def measure(self, scenario: Scenario, capacity_per_s: float) -> Run:
        """Offer one scenario, again if other work on the machine got in the way and patience lasts; keeps the last."""
        while True:
            await self.wait_for_quiet()
            started_s = time.monotonic()
            run = await self._offer(scenario, capacity_per_s)
            if run.others <= OTHERS_MAX or scenario.neighbour or self.patience_s <= 0:
                self.runs.append(run)
                return run
            self.patience_s -= time.monotonic() - started_s

    async def wait_for_quiet(self) -> None:
        """Wait until others leave the machine alone, or patience is at its end."""
        while self.patience_s > 0 and await self.server.others(LOOK_S) > OTHERS_MAX:
            self.patience_s -= LOOK_S

    async def _offer(self, scenario: Scenario, capacity_per_s: float) -> Run:
        stretches = scenario.stretches(capacity_per_s)
        duration_s = sum(stretch.duration_s for stretch in stretches)
        requests = schedule(scenario.shape, stretches, MIX, scenario.seed)
        await self.pool.open(CONNECTIONS_READY)
        before, used = await self.samples(), self.server.core_time()
        async with self._neighbour(duration_s if scenario.neighbour else None):
            outcomes = await replay(self.pool, requests, lambda request: self.message(request, scenario.policy))
        used = self.server.core_time().since(used)
        server = account(before, await self.samples())
        endings = [ending(outcome) for outcome in outcomes]
        _check_wording(endings, server)
        await asyncio.sleep(SETTLE_S)
        return Run(scenario, score(endings, duration_s), tuple(endings), used, server, duration_s)

    @contextlib.asynccontextmanager
    async def _neighbour(self, duration_s: float | None) -> AsyncIterator[None]:
        """Burn one core in the middle third of `duration_s`; do nothing if that is None."""

        async def burn(third_s: float) -> None:
            await asyncio.sleep(third_s)
            with BusyNeighbour(self.server):
                await asyncio.sleep(third_s)

        burning = None if duration_s is None else asyncio.create_task(burn(duration_s / 3))
        try:
            yield
        finally:
            if burning is not None:
                burning.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await burning


def _check_wording(endings: Sequence[Ending], server: ServerAccount) -> None:
    """What was read as a refusal at the door must be what the server counted as one, or all shares are wrong."""
    refused = sum(end.fate is Fate.REFUSED for end in endings)
    if refused != server.refused and not any(end.fate is Fate.LOST for end in endings):
        raise RuntimeError(
            f"{refused} answers read as refusals at the door, the server counted {server.refused}; "
            "benchmarks/scores.py must know how they are worded"
        )


@contextlib.contextmanager
def light_footed() -> Iterator[bool]:
    """Keep the generator on time: before others where the system allows (True), and without collector pauses.

    Its core time is small, but it shares the cores with the server: waiting behind it would be measured as latency.
    """
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, usual - _AHEAD)
        first = True
    except OSError:
        first = False
    gc.freeze()
    gc.disable()
    try:
        yield first
    finally:
        gc.enable()
        gc.unfreeze()
        if first:
            os.setpriority(os.PRIO_PROCESS, 0, usual)


async def measure(server: ServerProcess, amount: Amount, traces: Sequence[Path], patience_s: float) -> Replay:
    """Everything there is to measure on a server that is up."""
    pool = ConnectionPool(loopback_address(server.url), IN_FLIGHT_MAX)
    bench = Bench(server, pool, tuple(path.read_bytes() for path in PHOTOGRAPHS), patience_s)
    with light_footed() as first:
        await bench.wait_for_quiet()
        before = await bench.capacity_per_s(amount.capacity_s)
        print(f"capacity with {VARIANTS[0]} pinned: {before:.1f} a second", flush=True)
        await bench.measure_all(plan(amount, VARIANTS, traces), before)
        so_far = Replay(VARIANTS, MIX, before, before, tuple(bench.runs), generator_first=first)
        best = {load: best_fixed(so_far, BURSTS, load)[0] for load in so_far.loads(BURSTS)}
        await bench.measure_all(plan_duels(amount, best), before)
        after = await bench.capacity_per_s(amount.capacity_s)
        print(f"capacity afterwards: {after:.1f} a second", flush=True)
    pool.close()
    return replace(so_far, capacity_after_per_s=after, runs=tuple(bench.runs))


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks replay`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks replay", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute, to see that it works; figures are rough")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="also replay the CSV traces of this folder")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="MINUTES",
        help="at most this long, wait while other processes use the machine and repeat the runs they disturbed",
    )  # fmt: skip
    options = parser.parse_args(argv)
    traces = sorted(options.traces.glob("*.csv")) if options.traces else []
    if options.traces and not traces:
        parser.error(f"no *.csv in {options.traces}; each holds lines of arrival_ms,count,slo_ms")
    amount = quick_amount() if options.quick else full_amount()
    with serving(options.store, VARIANTS) as server:
        result = uvloop.run(measure(server, amount, traces, 60 * options.patience))
    command = "python -m benchmarks replay"
    command += " --quick" if options.quick else ""
    command += " --traces DIR" if traces else ""
    command += f" --patience {options.patience:g}" if options.patience else ""
    print(f"written: {replay_report.write(result, options.results, command)}")
