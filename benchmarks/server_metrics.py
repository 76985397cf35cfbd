"""What the server's own metrics say of a run: the difference between its metrics page before and after."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"^([a-z_]+)(\{[^}]*\})? ([0-9eE.+-]+|NaN|\+Inf)$", re.MULTILINE)

Samples = Mapping[str, float]
"""A sample's name with its labels, as on the page, to its value."""


def read_samples(page: str) -> Samples:
    """Every sample of a page in the Prometheus text format (without timestamps and exemplars, which ours has not)."""
    return {name + labels: float(value) for name, labels, value in _SAMPLE.findall(page)}


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """One run by the server's clock.

    `refused`: budgets found infeasible at the door. `door_ms_mean`: how long the door took to refuse, for whatever
    reason, from when the request had been received whole. `runs`, `measured_over_planned_mean`,
    `overshot_share`: model runs, how long they took by how long the planner had predicted, and how many took longer.
    """

    refused: int
    door_ms_mean: float
    runs: int
    measured_over_planned_mean: float
    overshot_share: float


def account(before: Samples, after: Samples) -> ServerAccount:
    """What happened between two pages."""

    def grown(name: str, label: str = "") -> float:
        return math.fsum(
            value - before.get(key, 0.0)
            for key, value in after.items()
            if key.partition("{")[0] == name and label in key
        )

    at_door = grown("phiserve_request_duration_seconds_count", 'outcome="refused"')
    runs = grown("phiserve_prediction_error_ratio_count")
    held = grown("phiserve_prediction_error_ratio_bucket", 'le="1.0"')
    return ServerAccount(
        refused=round(grown("phiserve_budget_total", 'result="refused"')),
        door_ms_mean=_ratio(1000 * grown("phiserve_request_duration_seconds_sum", 'outcome="refused"'), at_door),
        runs=round(runs),
        measured_over_planned_mean=_ratio(grown("phiserve_prediction_error_ratio_sum"), runs),
        overshot_share=_ratio(runs - held, runs),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
