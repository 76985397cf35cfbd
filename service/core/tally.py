"""Counts and sums of what became of requests, by variant, since the start: an `Instrument` that can be asked.

Holds a few numbers for each variant and batch size, so its memory is bounded by the menu.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.core.clock import Clock
from service.core.instrument import Instrument
from service.core.request import Classification, Plan, RunResult


@dataclass(slots=True)
class Total:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """It happened once more and took `ns`."""
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class RunTotals:
    """Runs of one batch size: each counts once, whatever its size."""

    preprocess: Total = field(default_factory=Total)
    inference: Total = field(default_factory=Total)


@dataclass(slots=True)
class VariantTotals:
    """What one variant did. `answered`: requests, from received to settled, and the stages they waited for.

    `failed`: requests whose run failed. `runs`: by batch size. `last_answer_ns` on the engine's clock, None before
    the first.
    """

    answered: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    preprocess: Total = field(default_factory=Total)
    inference: Total = field(default_factory=Total)
    failed: Total = field(default_factory=Total)
    runs: dict[int, RunTotals] = field(default_factory=lambda: defaultdict(RunTotals))
    last_answer_ns: int | None = None


class Tally(Instrument):
    """See the module. Read on the event loop's thread only, and not changed by the reader."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_variant: dict[str, VariantTotals] = defaultdict(VariantTotals)
        self.failed = Total()
        """Requests that ended without an answer, whoever they were for: most fail before a variant is chosen."""

    @property
    def by_variant(self) -> Mapping[str, VariantTotals]:
        """Every variant that did something."""
        return self._by_variant

    def request_settled(self, classification: Classification) -> None:
        """See `Instrument`."""
        totals = self._by_variant[classification.variant.name]
        timings = classification.timings
        totals.answered.add(timings.total_ns)
        totals.queue.add(timings.queue_ns)
        totals.preprocess.add(timings.preprocess_ns)
        totals.inference.add(timings.inference_ns)
        totals.last_answer_ns = self._clock.now_ns()

    def request_failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:  # noqa: ARG002 all count
        """See `Instrument`."""
        self.failed.add(waited_ns)

    def run_finished(self, plan: Plan, result: RunResult) -> None:
        """See `Instrument`."""
        runs = self._by_variant[plan.variant].runs[len(plan.request_ids)]
        runs.preprocess.add(result.preprocess_ns)
        runs.inference.add(result.inference_ns)

    def run_failed(self, plan: Plan, error: BaseException) -> None:  # noqa: ARG002 the core logs the error
        """See `Instrument`."""
        self._by_variant[plan.variant].failed.count += len(plan.request_ids)
