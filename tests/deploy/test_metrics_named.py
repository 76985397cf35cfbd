"""What rules, dashboard and autoscalers ask for is what the server's registry exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.telemetry.metrics import (
    BUDGET_RESULTS,
    FORECAST_BUCKETS,
    OUTCOMES,
    PrometheusInstrument,
    create_registry,
    render,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana/dashboards/phiserve.json"
METRIC = re.compile(r"(?<![:\w])(?:phiserve|process)_\w+")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    registry = create_registry("1.2.3")
    PrometheusInstrument(registry).variants_served({"lite0": 75.1})
    return registry


@pytest.fixture(scope="module")
def series(registry) -> set[str]:
    """The name of every series the server can export, whether or not it has one now."""
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in SUFFIXES.get(family.type, ("_info",) if family.type == "info" else ("",))
    }


def rules() -> list[dict]:
    groups = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def autoscaler_expressions() -> list[str]:
    components = DEPLOY / "kubernetes/components"
    adapter = yaml.safe_load((components / "hpa-accuracy/adapter-values.yaml").read_text())
    scaled = yaml.safe_load((components / "keda/scaledobject.yaml").read_text())
    return [rule["metricsQuery"] for rule in adapter["rules"]["custom"]] + [
        trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]
    ]


EXPRESSIONS = [*(rule["expr"] for rule in rules()), *dashboard_expressions(), *autoscaler_expressions()]


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_queries_name_series_that_are_exported(expr, series) -> None:
    """Each metric in a query is a series of the server's registry, with the suffix of its type."""
    assert set(METRIC.findall(expr)) <= series


def test_queries_use_the_server_s_metrics() -> None:
    """The pattern above finds metrics at all: it sees the ones that the objectives are made of."""
    named = {name for expr in EXPRESSIONS for name in METRIC.findall(expr)}
    assert {"phiserve_budget_total", "phiserve_errors_total", "phiserve_given_up_accuracy_ratio_sum"} <= named


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_queries_select_by_values_that_exist(expr, registry) -> None:
    """Each result, outcome and reason that a query selects is one that the server counts by."""
    reasons = {
        sample.labels["reason"]
        for family in registry.collect()
        if family.name == "phiserve_errors"
        for sample in family.samples
    }
    known = {"result": set(BUDGET_RESULTS), "outcome": set(OUTCOMES), "reason": reasons}
    for label, values in re.findall(r'\b(result|outcome|reason)[!=]~?"([^"]*)"', expr):
        assert set(values.split("|")) <= known[label]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on the path; Debian's prometheus has it")
def test_the_page_has_no_finding(registry) -> None:
    """Prometheus' own lint of names, types and help has nothing to say of the page."""
    page, _ = render(registry)
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_forecast_rule_uses_a_bucket_that_exists() -> None:
    """Every bucket bound that a rule selects is a bound of the histogram of forecasts."""
    bounds = {bound for rule in rules() for bound in re.findall(r'le="([^"]*)"', rule["expr"])}
    assert bounds == {"1.0"}
    assert bounds <= {str(float(bound)) for bound in FORECAST_BUCKETS}


def test_alerts_use_recorded_series_that_exist() -> None:
    """Every recorded series that an expression uses is recorded by a rule."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for rule in rules() for name in re.findall(r"job:\w+:\w+", rule["expr"])}
    assert used
    assert used <= recorded


def test_alerts_can_be_acted_on() -> None:
    """Every alert has a severity, says what is wrong and where to look, and has its heading in the runbook."""
    runbook = (DEPLOY.parent / "docs/operations.md").read_text()
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert f"\n### {alert['alert']}\n" in runbook
    headings = set(re.findall(r"^### (Phiserve\w+)$", runbook, re.MULTILINE))
    assert headings == {alert["alert"] for alert in alerts}


def test_dashboard_file_is_what_its_source_makes(dashboard_source: ModuleType) -> None:
    """The JSON that Grafana reads is what `deploy/grafana/dashboard.py` writes."""
    assert DASHBOARD.read_text() == dashboard_source.rendered()


def test_panels_do_not_overlap() -> None:
    """No two panels share a place, and none leaves the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_read_the_provisioned_source() -> None:
    """Every panel's source is the one that is provisioned."""
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels if "datasource" in panel} == uids
