"""The replay's figures as `replay.md` and two plots. Measures nothing, and says of each aim whether it was reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paired import Difference, difference
from benchmarks.replay_plan import BURSTS, DUEL, NEIGHBOUR, PHISERVE, STEP, Scenario
from benchmarks.report import Line, number, origin, plot_over_load, spread, table
from benchmarks.scores import Ending, Fate, Percentiles, Recovery, Score, recovery, stage_values
from benchmarks.server_metrics import ServerAccount
from benchmarks.server_process import CoreTime
from benchmarks.traffic import NS_PER_MS, Mix

PACKAGES = ("onnxruntime", "pillow", "uvicorn", "uvloop")
ADMITTED_AIM = 0.99


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario as it went: its score, every request's end, core seconds used, and the server's own account."""

    scenario: Scenario
    score: Score
    endings: tuple[Ending, ...]
    cores: CoreTime
    server: ServerAccount
    duration_s: float

    @property
    def others(self) -> float:
        """Cores that neither server nor generator used, on average."""
        return self.cores.others_s / self.duration_s


@dataclass(frozen=True, slots=True)
class Replay:
    """A whole replay. `generator_first`: the system let the generator go before other processes."""

    variants: tuple[str, ...]
    mix: Mix
    capacity_before_per_s: float
    capacity_after_per_s: float
    runs: tuple[Run, ...]
    generator_first: bool

    def of(self, name: str, load: float | None = None, policy: str | None = None) -> list[Run]:
        """The runs of a scenario's name, in order."""
        return [
            run
            for run in self.runs
            if run.scenario.name == name and load in (None, run.scenario.load) and policy in (None, run.scenario.policy)
        ]

    def loads(self, name: str) -> list[float]:
        """The loads a scenario was run at, rising."""
        return sorted({run.scenario.load for run in self.of(name)})

    def policies(self, name: str) -> list[str]:
        """The policies it was run with: pinned variants in the menu's order, then phiserve."""
        there = {run.scenario.policy for run in self.of(name)}
        return [policy for policy in (*self.variants, PHISERVE) if policy in there]


def median(runs: Iterable[Run], what: Callable[[Score], float]) -> float:
    """The median over rounds of one figure."""
    return statistics.median(what(run.score) for run in runs)


def best_fixed(replay: Replay, name: str, load: float) -> tuple[str, float]:
    """The pinned variant with the highest effective accuracy at this load, chosen afterwards, and that accuracy."""
    pinned = [policy for policy in replay.policies(name) if policy != PHISERVE]
    scored = {policy: median(replay.of(name, load, policy), lambda s: s.effective_accuracy) for policy in pinned}
    best = max(scored, key=lambda policy: scored[policy])
    return best, scored[best]


def duel(replay: Replay, load: float) -> tuple[str, Difference]:
    """The pinned variant that phiserve was measured against at this load, and how far phiserve's score is above it."""
    runs = {policy: replay.of(DUEL, load, policy) for policy in replay.policies(DUEL) if replay.of(DUEL, load, policy)}
    ours = [_effective(run.score) for run in runs.pop(PHISERVE)]
    ((variant, theirs),) = runs.items()
    return variant, difference(ours, [_effective(run.score) for run in theirs])


def write(replay: Replay, folder: Path, command: str) -> Path:
    """Write `replay.md` and its plots into `folder`; returns the path of the text."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "replay_effective_accuracy.svg": ("Effective accuracy", "top-1 %, late and refused as 0", _effective),
        "replay_attainment.svg": ("SLO attainment", "in time, % of all requests", _attainment_percent),
    }
    for file, (title, label, what) in plots.items():
        plot_over_load(folder / file, f"{title} on the real server ({BURSTS})", label, _lines(replay, what))
    path = folder / "replay.md"
    path.write_text("\n\n".join(_document(replay, command, list(plots))) + "\n")
    return path


def _effective(found: Score) -> float:
    return found.effective_accuracy


def _attainment_percent(found: Score) -> float:
    return 100 * found.attainment


def _lines(replay: Replay, what: Callable[[Score], float]) -> dict[str, Line]:
    lines = {}
    for policy in replay.policies(BURSTS):
        loads = replay.loads(BURSTS)
        values = [[what(run.score) for run in replay.of(BURSTS, load, policy)] for load in loads]
        lines[policy if policy == PHISERVE else f"{policy} pinned"] = Line(
            loads,
            [statistics.median(at) for at in values],
            [min(at) for at in values],
            [max(at) for at in values],
            stands_out=policy == PHISERVE,
        )
    return lines


def _document(replay: Replay, command: str, plots: Sequence[str]) -> Iterator[str]:
    yield "# Replay on the real server"
    yield origin(command, PACKAGES)
    yield _setting(replay)
    yield "## Aims"
    yield _aims(replay)
    for file in plots:
        yield f"![{file.removesuffix('.svg').replace('_', ' ')}]({file})"
    yield f"## {BURSTS.capitalize()}, at every load"
    yield _score_table(replay, BURSTS)
    yield "## phiserve and the best fixed variant in turns"
    rounds = len(replay.of(DUEL, replay.loads(DUEL)[0], PHISERVE))
    yield (
        "The same traffic with other seeds: at each load the variant that was best above, in hindsight, and phiserve, "
        f"rounds: {rounds}. *Ahead* is the mean of the differences within rounds, in points, with the interval that "
        "should hold the true one (95 %, Student)."
    )
    yield _duel_table(replay)
    yield "## Other traffic"
    for name in dict.fromkeys(run.scenario.name for run in replay.runs):
        if name not in (BURSTS, DUEL, NEIGHBOUR, STEP):
            yield f"### {name}"
            yield _score_table(replay, name)
    yield "## While another process burns one core in the middle third"
    yield _score_table(replay, NEIGHBOUR)
    yield "## After a burst"
    yield _recovery_table(replay)
    yield "## Where the time goes"
    yield "Answered requests of phiserve, milliseconds, 50th / 99th percentile."
    yield _stage_table(replay)
    yield "## Whether promises are kept"
    yield _promise_table(replay)
    yield "## Who used the cores"
    yield "Cores in use on average; *others* is everything that was neither server nor generator."
    yield _core_table(replay)


def _setting(replay: Replay) -> str:
    lag = Percentiles(run.score.send_lag_p99_ms for run in replay.runs)
    priority = "at raised priority" if replay.generator_first else "at ordinary priority"
    cheapest, mix = replay.variants[0], replay.mix
    return (
        f"One server over {', '.join(replay.variants)} (fp32), profiled freshly at its start; the generator, "
        f"{priority}, shares its cores. Load is a share of capacity with {cheapest} pinned, measured in a closed loop "
        f"at saturation: {replay.capacity_before_per_s:.1f} answers a second before, "
        f"{replay.capacity_after_per_s:.1f} after. Budgets are log-uniform from {mix.budget_ms_low:g} to "
        f"{mix.budget_ms_high:g} ms, photographs the {mix.photographs} of `tests/photographs`. Pinned policies go "
        "through the same server, so they too have its door, its earliest-deadline-first queue and its thread widths: "
        "they are stronger than a server without. Every policy gets the same requests in turn; figures are medians "
        "over rounds, with the lowest and highest.\n\n"
        "In time: by the client's clock, from when the request was due. Requests are sent when due, whatever the "
        f"server does; the 99th percentile of sending late was {lag.at(50):.1f} ms in the median run and "
        f"{lag.at(100):.1f} ms in the worst. Effective accuracy: published top-1 of the answering variant, 0 if late "
        "or refused, over all requests. Admitted: neither refused at the door nor told that there is no room."
    )


def _aims(replay: Replay) -> str:
    rows = [_aim_best_fixed(replay, load) for load in replay.loads(DUEL)]
    rows += [_aim_admitted(replay, load) for load in replay.loads(NEIGHBOUR) if load <= 1.0]
    rows += [_aim_goodput(replay), _aim_recovery(replay)]
    return table(("aim", "wanted", "measured", "reached"), rows)


def _aim_best_fixed(replay: Replay, load: float) -> tuple[str, ...]:
    variant, ahead = duel(replay, load)
    aim = f"effective accuracy at load {load:g}, points ahead of the best fixed variant in hindsight"
    reached = _reached(ahead.mean >= 0.0) + (", within noise" if ahead.may_be_none else "")
    return aim, f"≥ 0 ({variant})", _with_interval(ahead), reached


def _with_interval(found: Difference) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _aim_admitted(replay: Replay, load: float) -> tuple[str, ...]:
    runs = replay.of(NEIGHBOUR, load, PHISERVE)
    by_client = median(runs, lambda s: s.admitted_in_time)
    by_server = median(runs, lambda s: s.admitted_in_time_by_server)
    aim = f"of admitted in time at load {load:g} with a busy neighbour"
    measured = f"{by_client:.4f} ({by_server:.4f} by the server's clock)"
    return aim, f"≥ {ADMITTED_AIM}", measured, _reached(by_client >= ADMITTED_AIM)


def _aim_goodput(replay: Replay) -> tuple[str, ...]:
    highest = max(replay.loads(BURSTS))
    base = max((load for load in replay.loads(BURSTS) if load <= 1.0), default=highest)
    at_base = median(replay.of(BURSTS, base, PHISERVE), lambda s: s.goodput_per_s)
    at_highest = median(replay.of(BURSTS, highest, PHISERVE), lambda s: s.goodput_per_s)
    aim = f"goodput at load {highest:g}, in-time answers a second"
    return aim, f"≥ {at_base:.1f} (at load {base:g})", f"{at_highest:.1f}", _reached(at_highest >= at_base)


def _aim_recovery(replay: Replay) -> tuple[str, ...]:
    after_ms = _recovery(replay, PHISERVE).after_ms
    return "in-time share is back after a burst", "≤ 1000 ms", f"{after_ms:.0f} ms", _reached(after_ms <= 1000)


def _reached(yes: bool) -> str:  # noqa: FBT001 - a word for a truth value
    return "yes" if yes else "**no**"


def _score_table(replay: Replay, name: str) -> str:
    header = (
        "load, policy", "effective accuracy", "in time, of all", "in time, of admitted", "same, server's clock",
        "goodput /s", "mean accuracy", "refused %", "expired %", "no room %", "p50 / p99 ms", "from sending",
    )  # fmt: skip
    cases = [(load, policy) for load in replay.loads(name) for policy in replay.policies(name)]
    return table(
        header,
        (
            (f"{load:g} {policy}", *_score_cells([run.score for run in replay.of(name, load, policy)]))
            for load, policy in cases
        ),
    )


def _duel_table(replay: Replay) -> str:
    rows = []
    for load in replay.loads(DUEL):
        variant, ahead = duel(replay, load)
        scores = {policy: [run.score for run in replay.of(DUEL, load, policy)] for policy in (PHISERVE, variant)}
        rows.append(
            (
                f"{load:g}, {variant}",
                *(spread([_effective(score) for score in found]) for found in scores.values()),
                _with_interval(ahead),
                *(spread([score.admitted_in_time for score in found], 3) for found in scores.values()),
            )
        )
    header = (
        "load, best fixed", "phiserve, effective accuracy", "fixed", "ahead", "phiserve, in time of admitted", "fixed",
    )  # fmt: skip
    return table(header, rows)


def _score_cells(scores: Sequence[Score]) -> Iterator[str]:
    yield spread([score.effective_accuracy for score in scores])
    yield spread([score.attainment for score in scores], 3)
    yield spread([score.admitted_in_time for score in scores], 3)
    yield spread([score.admitted_in_time_by_server for score in scores], 3)
    yield spread([score.goodput_per_s for score in scores], 1)
    yield number(statistics.median(score.mean_accuracy for score in scores), 2)
    for fate in (Fate.REFUSED, Fate.EXPIRED, Fate.OVERLOADED):
        yield number(statistics.median(100 * score.fates.get(fate.value, 0) / score.requests for score in scores))
    yield _pair(scores, lambda s: s.latency_p50_ms, lambda s: s.latency_p99_ms)
    yield _pair(scores, lambda s: s.latency_from_sent_p50_ms, lambda s: s.latency_from_sent_p99_ms)


def _pair(scores: Sequence[Score], first: Callable[[Score], float], second: Callable[[Score], float]) -> str:
    return f"{statistics.median(map(first, scores)):.1f} / {statistics.median(map(second, scores)):.1f}"


def _recovery(replay: Replay, policy: str) -> Recovery:
    runs = replay.of(STEP, policy=policy)
    before_s, burst_s, _ = runs[0].scenario.durations_s
    return recovery([end for run in runs for end in run.endings], burst_s=(before_s, before_s + burst_s))


def _recovery_table(replay: Replay) -> str:
    rows = []
    for policy in replay.policies(STEP):
        found = _recovery(replay, policy)
        rows.append((policy, f"{found.before:.3f}", f"{found.during:.3f}", f"{found.after_ms:.0f}"))
    return table(("policy", "in time before", "during the burst", "back after, ms"), rows)


def _stage_table(replay: Replay) -> str:
    names = ("decode", "queue", "preprocess", "inference", "between stages", "outside")
    rows = []
    for name, load in _cases(replay):
        values = stage_values(end for run in replay.of(name, load, PHISERVE) for end in run.endings)
        cells = [f"{values[stage].at(50):.1f} / {values[stage].at(99):.1f}" for stage in names if stage in values]
        rows.append((f"{name}, load {load:g}", *cells))
    return table(("traffic", *names), rows)


def _cases(replay: Replay) -> list[tuple[str, float]]:
    """Every (scenario, load) that phiserve was measured at."""
    ours = (run.scenario for run in replay.runs if run.scenario.policy == PHISERVE)
    return list(dict.fromkeys((scenario.name, scenario.load) for scenario in ours))


def _promise_table(replay: Replay) -> str:
    header = (
        "traffic, phiserve", "admitted", "late, server's clock", "late, client's clock only", "expired", "refused",
        "ms at the door", "refusal p50 / p99 ms", "runs", "measured / planned", "overshot %",
    )  # fmt: skip
    return table(header, (_promise_row(replay, name, load) for name, load in _cases(replay)))


def _promise_row(replay: Replay, name: str, load: float) -> tuple[str, ...]:
    runs = replay.of(name, load, PHISERVE)
    endings = [end for run in runs for end in run.endings]
    answered = [end for end in endings if end.fate is Fate.ANSWERED]
    refusals = Percentiles(end.outcome.latency_from_sent_ns / NS_PER_MS for end in endings if end.fate is Fate.REFUSED)
    expired = sum(end.fate is Fate.EXPIRED for end in endings)
    return (
        f"{name}, load {load:g}",
        str(len(answered) + expired),
        str(sum(not end.met_by_server for end in answered)),
        str(sum(end.met_by_server and not end.in_time for end in answered)),
        str(expired),
        str(len(refusals)),
        spread([run.server.door_ms_mean for run in runs]),
        f"{number(refusals.at(50))} / {number(refusals.at(99))}",
        str(sum(run.server.runs for run in runs)),
        spread([run.server.measured_over_planned_mean for run in runs]),
        spread([100 * run.server.overshot_share for run in runs], 1),
    )


def _core_table(replay: Replay) -> str:
    rows = []
    for name, load in _cases(replay):
        runs = replay.of(name, load, PHISERVE)
        rows.append(
            (
                f"{name}, load {load:g}",
                spread([run.cores.server_s / run.duration_s for run in runs]),
                spread([run.cores.own_s / run.duration_s for run in runs]),
                spread([run.others for run in runs]),
            )
        )
    return table(("traffic, phiserve", "server", "generator", "others"), rows)
