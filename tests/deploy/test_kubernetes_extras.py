"""Gateway routes and KServe's runtime agree with the base, the server's routes and its settings."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from service.app import end_s_max
from service.frontends import grpc_classifier, oip_grpc
from service.frontends.rest_api import RestLimits, create_rest_api
from service.settings import Settings, environment_variable, knobs
from tests.deploy.conftest import load
from tests.fakes.engine import ScriptedEngine

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"


def document(path: str) -> dict[str, Any]:
    return yaml.safe_load((KUBERNETES / path).read_text())


@pytest.fixture(scope="module")
def services() -> dict[str, int]:
    """The port of each service of the base."""
    found = yaml.safe_load_all((KUBERNETES / "base/service.yaml").read_text())
    return {service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in found}


@pytest.fixture(scope="module")
def runtime() -> dict[str, Any]:
    return document("kserve/servingruntime.yaml")


@pytest.fixture(scope="module")
def container(runtime) -> dict[str, Any]:
    (container,) = runtime["spec"]["containers"]
    return container


@pytest.mark.parametrize("route", ["httproute", "grpcroute"])
def test_routes_lead_to_services_that_exist(route, services) -> None:
    """Each route's backends are services of the base, at their ports."""
    for rule in document(f"components/gateway/{route}.yaml")["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            assert services[backend["name"]] == backend["port"]


def test_the_gateway_shows_callers_what_they_need_and_no_more() -> None:
    """REST routes are prefixes of paths that exist, and neither probes nor metrics are among them."""
    (rule,) = document("components/gateway/httproute.yaml")["spec"]["rules"]
    prefixes = [match["path"]["value"] for match in rule["matches"]]
    app = create_rest_api(
        ScriptedEngine(), limits=RestLimits(), metrics_page=lambda *_: (b"", "text/plain"), version="1.2.3"
    )
    paths = set(app.openapi()["paths"])
    assert all(any(path.startswith(prefix) for path in paths) for prefix in prefixes if prefix != "/v2")
    assert not [prefix for prefix in prefixes for path in ("/metrics", "/livez", "/readyz") if path.startswith(prefix)]
    settings = Settings()
    longest_s = (settings.budget_ms_max + settings.late_wait_ms_max) / 1000
    assert float(rule["timeouts"]["request"].removesuffix("s")) > longest_s


def test_the_gateway_knows_both_grpc_services() -> None:
    """The methods of the gRPC route are those of services that the server has."""
    (rule,) = document("components/gateway/grpcroute.yaml")["spec"]["rules"]
    named = {match["method"]["service"] for match in rule["matches"]}
    assert named == {grpc_classifier.SERVICE_NAME, oip_grpc.SERVICE_NAME}


def test_the_runtime_sets_settings_that_exist(container) -> None:
    """Each variable is a setting's, and the grace period outlasts the drain that they make."""
    variables = {environment_variable(name) for name in knobs()}
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert set(given) <= variables
    predictor = document("kserve/inferenceservice.yaml")["spec"]["predictor"]
    notice_s, timeout_s = float(given["PHISERVE_DRAIN_NOTICE_S"]), float(given["PHISERVE_DRAIN_TIMEOUT_S"])
    settings = Settings(drain_notice_s=notice_s, drain_timeout_s=timeout_s)
    assert predictor["terminationGracePeriodSeconds"] >= end_s_max(settings) + 5
    assert predictor["enableServiceLinks"] is False


def test_the_runtime_is_the_base_s_container(container) -> None:
    """Ports, probes, restrictions and places to write are those of the base's deployment."""
    (base,) = document("base/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in base["ports"]}
    assert [port["containerPort"] for port in container["ports"]] == list(ports.values())
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        expected = dict(base[probe], httpGet=dict(base[probe]["httpGet"], port=ports["http"]))
        assert container[probe] == expected
    assert base["securityContext"].items() <= container["securityContext"].items()
    mounts = {mount["mountPath"] for mount in base["volumeMounts"]}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} <= mounts


def test_the_service_uses_the_runtime(runtime) -> None:
    """The inference service asks for this runtime, by a protocol and a format that it has."""
    model = document("kserve/inferenceservice.yaml")["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in {entry["name"] for entry in runtime["spec"]["supportedModelFormats"]}


def test_the_pod_to_check_holds_what_both_say(runtime) -> None:
    """The pod that is checked offline has the runtime's containers and the service's fields of the pod."""
    script: ModuleType = load("kubernetes/kserve/as_pod.py")
    pod = script.as_pod([runtime, document("kserve/inferenceservice.yaml")])
    assert pod["kind"] == "Pod"
    assert pod["spec"]["containers"] == runtime["spec"]["containers"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 45
