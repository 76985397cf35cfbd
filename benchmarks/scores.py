"""What the outcomes of a run are worth: attainment, effective accuracy, goodput, percentiles, recovery.

By the client's clock: an answer is in time if it is there within its budget, counted from when its request was due.
That is stricter than the server's own account, which starts when it has the request whole. Measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from benchmarks.load_generator import NOT_SENT, Outcome
from benchmarks.traffic import NS_PER_MS

# How the server words a refusal at the door (`Scheduler.infeasible`); every other 504 had been admitted, also one
# that is worded in a new way: a mistake here can only make the server look worse.
_DOOR = ("no allowed variant can make the budget", "the queue ahead takes")


class Fate(StrEnum):
    """How a request ended, by what the client saw."""

    ANSWERED = "answered"
    REFUSED = "refused at the door"
    EXPIRED = "expired after admission"
    OVERLOADED = "overloaded"
    LOST = "no usable answer"
    NOT_SENT = "not sent"


@dataclass(frozen=True, slots=True)
class Ending:
    """One request's end. `variant`, `top1`, `met_by_server` and `stages_ms` only of those answered."""

    outcome: Outcome
    fate: Fate
    variant: str = ""
    top1: float = 0.0
    met_by_server: bool = False
    stages_ms: Mapping[str, float] | None = None

    @property
    def in_time(self) -> bool:
        """Answered within its budget by the client's clock, counted from when it was due."""
        return self.fate is Fate.ANSWERED and self.outcome.latency_ns <= self.outcome.request.budget_ns


def ending(outcome: Outcome) -> Ending:
    """Read an outcome's body."""
    if outcome.status == 200:
        content = orjson.loads(outcome.body)
        variant = content["variant"]
        return Ending(
            outcome, Fate.ANSWERED, variant["name"], variant["top1"], content["budget_met"], content["timings_ms"]
        )
    if outcome.status == NOT_SENT:
        return Ending(outcome, Fate.NOT_SENT)
    if outcome.status == 429:
        return Ending(outcome, Fate.OVERLOADED)
    if outcome.status == 504:
        detail: str = orjson.loads(outcome.body)["detail"]
        return Ending(outcome, Fate.REFUSED if detail.startswith(_DOOR) else Fate.EXPIRED)
    return Ending(outcome, Fate.LOST)


@dataclass(frozen=True, slots=True)
class Score:
    """One run in figures. Shares are 0..1, accuracies top-1 percent, latencies of answers in milliseconds.

    `admitted_in_time`: in time, of those that were neither refused at the door nor told that there is no room.
    `admitted_in_time_by_server`: the same by the server's clock. `effective_accuracy`: published top-1 of the
    answering variant, 0 for what was late, refused or lost, over all requests. `mean_accuracy`: over in-time answers.
    """

    requests: int
    fates: dict[str, int]
    answers_by_variant: dict[str, int]
    attainment: float
    admitted_in_time: float
    admitted_in_time_by_server: float
    effective_accuracy: float
    mean_accuracy: float
    goodput_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    latency_from_sent_p50_ms: float
    latency_from_sent_p99_ms: float
    send_lag_p99_ms: float


def score(endings: Sequence[Ending], duration_s: float) -> Score:
    """Judge one run of `duration_s` seconds."""
    in_time = [end for end in endings if end.in_time]
    answered = [end for end in endings if end.fate is Fate.ANSWERED]
    admitted = sum(end.fate not in (Fate.REFUSED, Fate.OVERLOADED, Fate.NOT_SENT) for end in endings)
    accuracy = math.fsum(end.top1 for end in in_time)
    latency = Percentiles(end.outcome.latency_ns / NS_PER_MS for end in answered)
    from_sent = Percentiles(end.outcome.latency_from_sent_ns / NS_PER_MS for end in answered)
    return Score(
        requests=len(endings),
        fates=_counted(end.fate.value for end in endings),
        answers_by_variant=_counted(end.variant for end in answered),
        attainment=_share(len(in_time), len(endings)),
        admitted_in_time=_share(len(in_time), admitted),
        admitted_in_time_by_server=_share(sum(end.met_by_server for end in answered), admitted),
        effective_accuracy=_share(accuracy, len(endings)),
        mean_accuracy=_share(accuracy, len(in_time)),
        goodput_per_s=len(in_time) / duration_s,
        latency_p50_ms=latency.at(50),
        latency_p99_ms=latency.at(99),
        latency_from_sent_p50_ms=from_sent.at(50),
        latency_from_sent_p99_ms=from_sent.at(99),
        send_lag_p99_ms=Percentiles(end.outcome.send_lag_ns / NS_PER_MS for end in endings).at(99),
    )


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan


def _counted(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


class Percentiles:
    """Percentiles by the nearest rank: always a value that was seen, never one between two."""

    def __init__(self, values: Iterable[float]) -> None:
        self._sorted = sorted(values)

    def __len__(self) -> int:
        return len(self._sorted)

    def at(self, percent: float) -> float:
        """The smallest value that at least `percent` percent of all do not exceed; NaN without values."""
        if not self._sorted:
            return math.nan
        rank = math.ceil(len(self._sorted) * percent / 100)
        return self._sorted[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Around a burst: in-time share before and during it, and how long after its end until the share was back.

    `after_ms` is the start of the first window whose share, and that of all that follows it, is at least
    `RECOVERED_SHARE` of what it was before; infinite if there is none.
    """

    before: float
    during: float
    after_ms: float


RECOVERED_SHARE = 0.95


def recovery(endings: Sequence[Ending], *, burst_s: tuple[float, float], window_s: float = 0.25) -> Recovery:
    """Judge one or several runs of the same burst together; `burst_s` is its start and end."""
    starts_s, ends_s = burst_s
    timed = sorted((end.outcome.request.at_ns / 1e9, end.in_time) for end in endings)
    before = _in_time_share(timed, 0.0, starts_s)
    after_ms, at_s = math.inf, ends_s
    last_s = timed[-1][0] if timed else 0.0
    while at_s < last_s:
        window = _in_time_share(timed, at_s, at_s + window_s)
        rest = _in_time_share(timed, at_s, math.inf)
        if min(window, rest) >= RECOVERED_SHARE * before:
            after_ms = (at_s - ends_s) * 1000
            break
        at_s += window_s
    return Recovery(before, _in_time_share(timed, starts_s, ends_s), after_ms)


def _in_time_share(timed: Sequence[tuple[float, bool]], from_s: float, to_s: float) -> float:
    within = [in_time for at_s, in_time in timed if from_s <= at_s < to_s]
    return _share(sum(within), len(within))


def stage_values(endings: Iterable[Ending]) -> dict[str, Percentiles]:
    """Where answered requests spent their time, in milliseconds, stage by stage.

    The server's own stages, and two that it does not name: `between stages` is its total minus the stages it timed
    (hand-overs to and from threads, waiting for the event loop), `outside` what the client saw beyond that total
    (the request's way in, waiting to be read, the answer's way out).
    """
    found: dict[str, list[float]] = {}
    for end in endings:
        if end.stages_ms is None:
            continue
        stages: dict[str, Any] = dict(end.stages_ms)
        total = stages.pop("total")
        stages["between stages"] = total - sum(stages.values())
        stages["outside"] = end.outcome.latency_from_sent_ns / NS_PER_MS - total
        for name, value in stages.items():
            found.setdefault(name, []).append(value)
    return {name: Percentiles(values) for name, values in found.items()}
