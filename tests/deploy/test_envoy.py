"""Envoy's configuration agrees with the server's settings: who closes first, who waits longer, what is tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service import grpc_server
from service.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = Settings()


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())["static_resources"]


@pytest.fixture(scope="module")
def clusters(resources) -> dict[str, Any]:
    return {cluster["name"]: cluster for cluster in resources["clusters"]}


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def protocol(cluster: dict[str, Any]) -> dict[str, Any]:
    (options,) = cluster["typed_extension_protocol_options"].values()
    return options


def routes(resources: dict[str, Any], listener: str) -> list[dict[str, Any]]:
    (found,) = (one for one in resources["listeners"] if one["name"] == listener)
    manager = found["filter_chains"][0]["filters"][0]["typed_config"]
    return manager["route_config"]["virtual_hosts"][0]["routes"]


def test_envoy_leaves_connections_before_the_server_closes_them(clusters) -> None:
    """Envoy's idle time is shorter than the server's, so that no request goes into a connection that is closing."""
    idle_s = seconds(protocol(clusters["phiserve-rest"])["common_http_protocol_options"]["idle_timeout"])
    assert idle_s < SETTINGS.http_keepalive_s


def test_envoy_asks_no_more_often_than_grpc_allows(clusters) -> None:
    """Envoy's pings are rarer than the server takes without hanging up."""
    http2 = protocol(clusters["phiserve-grpc"])["explicit_http_config"]["http2_protocol_options"]
    assert seconds(http2["connection_keepalive"]["interval"]) * 1000 > grpc_server._PING_INTERVAL_MIN_MS


def test_a_route_waits_for_every_budget(resources) -> None:
    """No answer that the server may still give is cut off: neither at the largest budget nor for one that is late."""
    (rest,) = routes(resources, "rest")
    longest_s = (SETTINGS.budget_ms_max + SETTINGS.late_wait_ms_max) / 1000
    assert seconds(rest["route"]["timeout"]) > longest_s
    assert all(seconds(route["route"]["timeout"]) == 0 for route in routes(resources, "grpc"))


def test_refusals_eject_nobody_and_are_not_tried_again(resources, clusters) -> None:
    """By status only 503 is sent elsewhere, and none takes a server out."""
    for listener in ("rest", "grpc"):
        for route in routes(resources, listener):
            policy = route["route"]["retry_policy"]
            assert policy["retriable_status_codes"] == [503]
            assert set(policy["retry_on"].split(",")).isdisjoint({"5xx", "gateway-error", "retriable-4xx"})
    for cluster in clusters.values():
        outliers = cluster["outlier_detection"]
        assert outliers["split_external_local_origin_errors"] is True
        by_status = ("consecutive_5xx", "consecutive_gateway_failure", "success_rate")
        assert [outliers[f"enforcing_{kind}"] for kind in by_status] == [0, 0, 0]


def test_a_drain_is_noticed_while_the_server_still_serves(clusters) -> None:
    """The notice that pods give is longer than Envoy's health checks take to see it."""
    (generator,) = yaml.safe_load((ROOT / "deploy/kubernetes/base/kustomization.yaml").read_text())[
        "configMapGenerator"
    ]
    notice_s = float(dict(line.split("=", 1) for line in generator["literals"])["PHISERVE_DRAIN_NOTICE_S"])
    for cluster in clusters.values():
        (check,) = cluster["health_checks"]
        assert seconds(check["no_traffic_interval"]) <= seconds(check["interval"])
        assert notice_s > seconds(check["interval"]) + seconds(check["timeout"])


def test_envoy_finds_pods_and_their_ports(clusters) -> None:
    """Both clusters resolve the headless service, each at the port that the pods serve its protocol on."""
    services = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/service.yaml").read_text())
    headless = [service["metadata"]["name"] for service in services if service["spec"].get("clusterIP") == "None"]
    ports = {"phiserve-rest": SETTINGS.port, "phiserve-grpc": SETTINGS.grpc_port}
    for name, cluster in clusters.items():
        ((endpoint,),) = (group["lb_endpoints"] for group in cluster["load_assignment"]["endpoints"])
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert (cluster["type"], [address["address"]]) == ("STRICT_DNS", headless)
        assert address["port_value"] == ports[name]
