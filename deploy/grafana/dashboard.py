"""The Grafana dashboard as data: run this file to write `dashboards/phiserve.json` anew, which Grafana reads.

Only panels, their queries and their places are decided here. Each query must find something on a server under load:
`deploy/check_queries.py` runs all of them against a real Prometheus.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "dashboards" / "phiserve.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24
HEIGHT = 8

_JOB = 'job="$job"'
_RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and what its series are called in the legend."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph over time; `unit` is Grafana's name of it, `width` in columns of 24."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    is_stacked: bool = False


def _quantile(metric: str, selector: str, q: float) -> Query:
    expr = f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{{_JOB}{selector}}}{_RATE})))"
    return Query(expr, f"p{q:.0%}"[:-1])


def _quantiles(metric: str, selector: str) -> tuple[Query, ...]:
    return tuple(_quantile(metric, selector, q) for q in (0.5, 0.95, 0.99))


PROMISES = (
    Panel(
        "Attainment and promises",
        "In time over all that asked for a budget, and over those that were let in. Objectives: 99 % and 99.9 %.",
        "percentunit",
        (
            Query(
                f'sum(rate(phiserve_budget_total{{{_JOB}, result="met"}}{_RATE}))'
                f" / sum(rate(phiserve_budget_total{{{_JOB}}}{_RATE}))",
                "in time of all",
            ),
            Query(
                f'sum(rate(phiserve_budget_total{{{_JOB}, result="met"}}{_RATE}))'
                f' / sum(rate(phiserve_budget_total{{{_JOB}, result=~"met|missed|expired"}}{_RATE}))',
                "in time of those let in",
            ),
        ),
    ),
    Panel(
        "What became of budgets",
        "refused: no variant could make it, said at the door; overloaded: no room; expired: let in and not served.",
        "reqps",
        (Query(f"sum by (result) (rate(phiserve_budget_total{{{_JOB}}}{_RATE}))", "{{result}}"),),
        is_stacked=True,
    ),
    Panel(
        "Errors by reason",
        "inference_failed and unexpected are the server's own fault.",
        "reqps",
        (Query(f"sum by (reason) (rate(phiserve_errors_total{{{_JOB}}}{_RATE}))", "{{reason}}"),),
        is_stacked=True,
    ),
)

ACCURACY = (
    Panel(
        "Accuracy served",
        "Mean top-1 of the variants behind in-time answers; effective counts a late or refused request as 0.",
        "percentunit",
        (
            Query(
                f"sum(rate(phiserve_served_accuracy_ratio_sum{{{_JOB}}}{_RATE}))"
                f" / sum(rate(phiserve_served_accuracy_ratio_count{{{_JOB}}}{_RATE}))",
                "of answers in time",
            ),
            Query(
                f"sum(rate(phiserve_served_accuracy_ratio_sum{{{_JOB}}}{_RATE}))"
                f" / sum(rate(phiserve_budget_total{{{_JOB}}}{_RATE}))",
                "effective, of all",
            ),
        ),
    ),
    Panel(
        "Given up to load",
        "Top-1 that answers lack of what an idle server would have used: the signal to scale by. Degraded: the share "
        "of answers that lack any, which is near 1 long before a server is full.",
        "percentunit",
        (
            Query(
                f"sum(rate(phiserve_given_up_accuracy_ratio_sum{{{_JOB}}}{_RATE}))"
                f" / sum(rate(phiserve_given_up_accuracy_ratio_count{{{_JOB}}}{_RATE}))",
                "accuracy",
            ),
            Query(
                f"sum(rate(phiserve_degraded_answers_total{{{_JOB}}}{_RATE}))"
                f' / sum(rate(phiserve_requests_total{{{_JOB}, outcome="answered"}}{_RATE}))',
                "degraded",
            ),
        ),
    ),
    Panel(
        "Answers by variant",
        "Which network answered.",
        "reqps",
        (
            Query(
                f'sum by (variant) (rate(phiserve_requests_total{{{_JOB}, outcome="answered"}}{_RATE}))', "{{variant}}"
            ),
        ),
        is_stacked=True,
    ),
)

TIME = (
    Panel(
        "Time to answer",
        "From received whole to ended, answered requests.",
        "s",
        _quantiles("phiserve_request_duration_seconds", ', outcome="answered"'),
        width=6,
    ),
    Panel(
        "Time by stage",
        "Mean seconds an answered request spends in each stage.",
        "s",
        (
            Query(
                f"sum by (stage) (rate(phiserve_stage_duration_seconds_sum{{{_JOB}}}{_RATE}))"
                f" / sum by (stage) (rate(phiserve_stage_duration_seconds_count{{{_JOB}}}{_RATE}))",
                "{{stage}}",
            ),
        ),
        width=6,
        is_stacked=True,
    ),
    Panel(
        "Budget left when the run begins",
        "What decoding and queueing left of budgets: of the median request, and of the one in 20 that has least.",
        "percentunit",
        tuple(_quantile("phiserve_dispatch_slack_ratio", "", q) for q in (0.5, 0.05)),
        width=6,
    ),
    Panel(
        "Measured over planned",
        "A run above 1 took longer than it was planned to; many of them break promises.",
        "none",
        _quantiles("phiserve_prediction_error_ratio", ""),
        width=6,
    ),
)

MACHINE = (
    Panel(
        "Waiting and in flight",
        "Queued: decoded and waiting for a worker. Admitted: everything between door and answer.",
        "short",
        (
            Query(f"sum(phiserve_queue_depth{{{_JOB}}})", "queued"),
            Query(f"sum(phiserve_in_flight{{{_JOB}}})", "in flight"),
            Query(f"sum(phiserve_admitted{{{_JOB}}})", "admitted"),
        ),
    ),
    Panel(
        "Images in a run",
        "Mean batch size by variant; near 1 on a CPU, where batches save nothing.",
        "none",
        (
            Query(
                f"sum by (variant) (rate(phiserve_batch_size_sum{{{_JOB}}}{_RATE}))"
                f" / sum by (variant) (rate(phiserve_batch_size_count{{{_JOB}}}{_RATE}))",
                "{{variant}}",
            ),
        ),
    ),
    Panel(
        "Cores in use",
        "Processor seconds a second, of each server.",
        "none",
        (Query(f"sum by (instance) (rate(process_cpu_seconds_total{{{_JOB}}}{_RATE}))", "{{instance}}"),),
        width=4,
    ),
    Panel(
        "Memory",
        "Resident, of each server.",
        "bytes",
        (Query(f"sum by (instance) (process_resident_memory_bytes{{{_JOB}}})", "{{instance}}"),),
        width=4,
    ),
)

ROWS = {
    "Budgets": PROMISES,
    "Accuracy": ACCURACY,
    "Time": TIME,
    "Machine": MACHINE,
}


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana's JSON model."""
    limits = {"min": 0, "max": 1} if panel.unit == "percentunit" else {"min": 0}
    stacking = {"mode": "normal" if panel.is_stacked else "none"}
    custom = {"fillOpacity": 30 if panel.is_stacked else 5, "showPoints": "never", "stacking": stacking}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, **limits, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend}
            for i, query in enumerate(panel.queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """The whole dashboard: a heading and its panels, row by row."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, row in ROWS.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "gridPos": place})
        x = 0
        for panel in row:
            panels.append(panel_json(panel, len(panels) + 1, x, y + 1))
            x += panel.width
        y += 1 + HEIGHT
    job = {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": SOURCE,
        "query": "label_values(phiserve_build_info, job)",
        "refresh": 2,
        "sort": 1,
    }
    return {
        "uid": "phiserve",
        "title": "phiserve",
        "description": "Budgets kept, accuracy served, and what the machine does for it.",
        "tags": ["phiserve"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [job]},
        "panels": panels,
    }


def rendered() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.write_text(rendered())
