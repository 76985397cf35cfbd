"""The server as load grows: 1 to 256 callers, 0.1 to 24 megapixels, a queue from empty to its limit, and overload.

No step should be a cliff: each is printed as a ratio to the one before. Every caller here has one address, so the bound
of requests for one client is raised to that for all. Writes `results/growth.md` and a plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import growth_report
from benchmarks.growth_report import Growth, Overload
from benchmarks.growth_steps import Load, Step, by_queue
from benchmarks.http_connection import Address, post_bytes
from benchmarks.load_generator import Outcome
from benchmarks.pictures import photograph_of
from benchmarks.replay import light_footed
from benchmarks.scores import Percentiles
from benchmarks.server_process import serving
from benchmarks.traffic import NS_PER_MS, NS_PER_S, Mix, ScheduledRequest, Stretch, gamma_bursts, schedule

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
VARIANTS = ("lite0-int8", "lite1-int8", "lite2-int8", "lite2")
PINNED = VARIANTS[0]
CALLERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MEGAPIXELS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0)
QUEUE_MAX = 512
QUEUE_BOUNDS = (0, 2, 4, 8, 16, 32, 64, 128, 256, 384, QUEUE_MAX)
OVERLOADS = (0.5, 1.0, 2.0, 4.0, 8.0)
OVERLOAD_S, LEARNING_S = 4.0, 1.0
"""How long each lasts, and of that, how long the server may take to see it: what falls due then is not judged."""

BUDGET_MS = 250
PICTURE_BUDGET_MS = 1000
PICTURE_CALLERS = 8
FILLING = 4.0
PATIENT = Mix(budget_ms_low=60_000, budget_ms_high=60_000, photographs=len(PHOTOGRAPHS))
MIXED = Mix(budget_ms_low=25, budget_ms_high=500, photographs=len(PHOTOGRAPHS))


class Bench:
    """A server that is up."""

    def __init__(self, url: str, turn_s: float) -> None:
        """`turn_s`: seconds of one step."""
        self._url = url
        self._turn_s = turn_s
        self._photographs = [path.read_bytes() for path in PHOTOGRAPHS]
        self.capacity_per_s = 0.0

    def _load(self, pictures: Sequence[bytes], *, pinned: bool) -> Load:
        """Requests with their budget, or with one variant and all the time they take."""

        def message(address: Address, request: ScheduledRequest) -> bytes:
            budget = f"budget_ms={request.budget_ns / NS_PER_MS:.3f}"
            target = f"/classify?variant={PINNED}&budget_ms=60000" if pinned else f"/classify?{budget}"
            return post_bytes(address, target, pictures[request.photograph], "image/jpeg")

        return Load(self._url, message)

    def callers(self, *, pinned: bool) -> Iterator[Step]:
        """The ladder of callers: of one variant with all the time it takes, or with a budget."""
        turns = len(self._photographs)
        for count in CALLERS:
            # Where callers queue, each must have had more than one answer.
            served_s = 2 * count / self.capacity_per_s if pinned and self.capacity_per_s else 0.0
            found = self._load(self._photographs, pinned=pinned).closed_loop(
                count, callers=count, duration_s=max(self._turn_s, served_s), budget_s=BUDGET_MS / 1000, turns=turns
            )
            if pinned:
                self.capacity_per_s = max(self.capacity_per_s, found.per_s)
            yield found

    def pictures(self, megapixels: float) -> tuple[Step, Step, int]:
        """One size: alone with a variant pinned, from several callers with a budget, and the bytes of a file."""
        pictures = [photograph_of(content, megapixels) for content in self._photographs]
        budget_s, turns = PICTURE_BUDGET_MS / 1000, len(pictures)
        alone = self._load(pictures, pinned=True).closed_loop(
            megapixels, callers=1, duration_s=self._turn_s, budget_s=budget_s, turns=turns
        )
        several = self._load(pictures, pinned=False).closed_loop(
            megapixels, callers=PICTURE_CALLERS, duration_s=self._turn_s, budget_s=budget_s, turns=turns
        )
        return alone, several, sum(map(len, pictures)) // turns

    def fill(self) -> tuple[list[Outcome], list[float]]:
        """Requests with all the time they take, at a multiple of capacity until there are more than have room."""
        count = 1.5 * QUEUE_MAX * FILLING / (FILLING - 1)
        per_s = FILLING * self.capacity_per_s
        requests = schedule(gamma_bursts(1.0), [Stretch(per_s, count / per_s)], PATIENT, seed=0)
        return self._load(self._photographs, pinned=True).offer(requests)

    def overload(self, times: float) -> Overload:
        """Mixed budgets at `times` capacity."""
        requests = schedule(gamma_bursts(1.0), [Stretch(times * self.capacity_per_s, OVERLOAD_S)], MIXED, seed=0)
        outcomes, livez_ms = self._load(self._photographs, pinned=False).offer(requests)
        judged = [outcome for outcome in outcomes if outcome.request.at_ns >= LEARNING_S * NS_PER_S]
        return overloaded(times, judged, livez_ms, OVERLOAD_S - LEARNING_S)


def overloaded(times: float, outcomes: Sequence[Outcome], livez_ms: Sequence[float], duration_s: float) -> Overload:
    """What a load of `times` capacity came to in `duration_s`."""
    answered = [outcome for outcome in outcomes if outcome.status == 200]
    over = Percentiles(outcome.latency_from_sent_ns / outcome.request.budget_ns for outcome in answered)
    in_time = sum(outcome.latency_from_sent_ns <= outcome.request.budget_ns for outcome in answered)
    refusals = Percentiles(outcome.latency_from_sent_ns / NS_PER_MS for outcome in outcomes if outcome.status != 200)
    probes = Percentiles(livez_ms)
    return Overload(
        times,
        in_time_per_s=in_time / duration_s,
        in_time=in_time / len(outcomes),
        in_time_of_answers=in_time / max(1, len(answered)),
        over_budget_p99=over.at(99),
        refusal_p50_ms=refusals.at(50),
        refusal_p99_ms=refusals.at(99),
        livez_p50_ms=probes.at(50),
        livez_p99_ms=probes.at(99),
    )


@contextmanager
def up(store: Path, turn_s: float) -> Iterator[Bench]:
    """A bench over a fresh server."""
    room = ("--queue-size-max", str(QUEUE_MAX), "--admitted-max", str(2 * QUEUE_MAX))
    with serving(store, VARIANTS, *room, "--admitted-per-client-max", str(2 * QUEUE_MAX)) as server, light_footed():
        yield Bench(server.url, turn_s)


def measure(store: Path, rounds: int, turn_s: float) -> Growth:
    """Every ladder, `rounds` times."""
    found = Growth()
    with up(store, turn_s) as bench:
        for _ in range(rounds):
            for pinned, rows in ((True, found.pinned), (False, found.by_budget)):
                for step in bench.callers(pinned=pinned):
                    print(f"{'pinned' if pinned else 'by budget'}: {step}", flush=True)
                    rows.append(step)
            for megapixels in MEGAPIXELS:
                alone, several, found.file_bytes[megapixels] = bench.pictures(megapixels)
                print(f"pictures: {alone} {several}", flush=True)
                found.alone.append(alone)
                found.several.append(several)
            for times in OVERLOADS:
                found.overloads.append(bench.overload(times))
                print(found.overloads[-1], flush=True)
        outcomes, found.filling_livez_ms = bench.fill()
        found.queue = by_queue(outcomes, QUEUE_BOUNDS)
        found.capacity_per_s = bench.capacity_per_s
    return found


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks growth`; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works; figures are rough")
    parser.add_argument("--rounds", type=int, default=2, metavar="N")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store" / "artifacts", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    options = parser.parse_args(argv)
    rounds, turn_s = (1, 0.5) if options.quick else (options.rounds, 1.2)
    found = measure(options.store, rounds, turn_s)
    command = "python -m benchmarks growth" + (" --quick" if options.quick else "")
    options.results.mkdir(parents=True, exist_ok=True)
    growth_report.write(found, options.results, command)
    print(f"written: {options.results / 'growth.md'}")
