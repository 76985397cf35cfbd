"""The statistics extension of the Open Inference Protocol, from the counts that the core keeps.

They count every request, by whatever protocol it came. A failure mostly comes before a variant is chosen, so the model
that routes has them all, and a variant's own only those of failed runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from service.core.tally import RunTotals, Tally, Total, VariantTotals
from service.frontends.oip_models import VERSION, Model

NS_PER_MS = 1_000_000


class Statistics:
    """Shows a `Tally` as the protocol's dictionaries, whose members both wires call alike."""

    def __init__(self, tally: Tally, now_ns: Callable[[], int], epoch_ns: Callable[[], int] = time.time_ns) -> None:
        """`now_ns` is the engine's clock, `epoch_ns` the same moment since 1970."""
        self._tally = tally
        self._now_ns = now_ns
        self._epoch_ns = epoch_ns

    def of(self, models: Iterable[Model]) -> dict[str, Any]:
        """The whole answer for `models`."""
        return {"model_stats": [self._row(model) for model in models]}

    def _row(self, model: Model) -> dict[str, Any]:
        if model.variant is None:
            parts, failed = list(self._tally.by_variant.values()), self._tally.failed
        else:
            totals = self._tally.by_variant.get(model.variant, VariantTotals())
            parts, failed = [totals], totals.failed
        runs = _runs(parts)
        answered = _sum(part.answered for part in parts)
        return {
            "name": model.name,
            "version": VERSION,
            "last_inference": max((self._epoch_ms(part.last_answer_ns) for part in parts), default=0),
            "inference_count": answered["count"],
            "execution_count": sum(run.inference.count for run in runs.values()),
            "inference_stats": {
                "success": answered,
                "fail": _sum([failed]),
                "queue": _sum(part.queue for part in parts),
                "compute_input": _sum(part.preprocess for part in parts),
                "compute_infer": _sum(part.inference for part in parts),
                # Best classes are found inside the run, as the network's own last step.
                "compute_output": _sum([]),
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": _sum([run.preprocess]),
                    "compute_infer": _sum([run.inference]),
                    "compute_output": _sum([]),
                }
                for size, run in sorted(runs.items())
            ],
        }

    def _epoch_ms(self, at_ns: int | None) -> int:
        """Milliseconds since 1970; 0, as the protocol has it, for never."""
        return 0 if at_ns is None else (self._epoch_ns() - (self._now_ns() - at_ns)) // NS_PER_MS


def _runs(parts: Iterable[VariantTotals]) -> dict[int, RunTotals]:
    """The runs of all `parts` by batch size."""
    together: dict[int, RunTotals] = {}
    for part in parts:
        for size, runs in part.runs.items():
            total = together.setdefault(size, RunTotals())
            for into, more in ((total.preprocess, runs.preprocess), (total.inference, runs.inference)):
                into.count += more.count
                into.ns += more.ns
    return together


def _sum(totals: Iterable[Total]) -> dict[str, int]:
    listed = list(totals)
    return {"count": sum(total.count for total in listed), "ns": sum(total.ns for total in listed)}
