"""Image, compose file and manifests agree with the server's settings, and pods are as restricted as they can be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.app import end_s_max
from service.frontends.rest_api import RestLimits, create_rest_api
from service.runtime.profile_cache import PROFILES_FOLDER
from service.settings import Settings, environment_variable, knobs
from tests.fakes.engine import ScriptedEngine

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = ("cpu", "gpu")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
YAML_FILES = [ROOT / "docker-compose.yml", *sorted((ROOT / "deploy").rglob("*.y*ml"))]
STORE = "/var/lib/phiserve/store"
VARIABLES = {environment_variable(name): name for name in knobs()}


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / path).read_text()))


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    return documents("base/deployment.yaml")[0]["spec"]


@pytest.fixture(scope="module")
def pod(deployment) -> dict[str, Any]:
    return deployment["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def literals(path: str) -> dict[str, str]:
    """The variables that a kustomization sets for the server."""
    (generator,) = documents(path)[0]["configMapGenerator"]
    return dict(line.split("=", 1) for line in generator["literals"])


def settings_of(variables: dict[str, str]) -> Settings:
    """The settings that these variables make, every one of which must be a setting's."""
    defaults = Settings()
    values = {}
    for variable, text in variables.items():
        name = VARIABLES[variable]
        default = getattr(defaults, name)
        values[name] = text if default is None else type(default)(text)
    return Settings(**values)


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_parses(path) -> None:
    """Every YAML file parses and holds something."""
    assert all(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_set_settings_that_exist(overlay) -> None:
    """Base and overlay together make settings that the server accepts."""
    settings = settings_of(literals("base/kustomization.yaml") | literals(f"overlays/{overlay}/kustomization.yaml"))
    assert settings.provider == {"cpu": "cpu", "gpu": "cuda"}[overlay]


def test_pod_is_killed_only_after_its_drain(pod) -> None:
    """The grace period outlasts notice, drain and last spans by 5 s, and a preStop hook takes none of it."""
    settings = settings_of(literals("base/kustomization.yaml"))
    assert pod["terminationGracePeriodSeconds"] >= end_s_max(settings) + 5
    assert all("lifecycle" not in container for container in pod["containers"])


def test_drain_notice_is_longer_than_readiness_takes(container) -> None:
    """A pod that drains is seen not ready while it still serves."""
    probe = container["readinessProbe"]
    seen_s = probe["failureThreshold"] * (probe["periodSeconds"] + probe["timeoutSeconds"])
    assert settings_of(literals("base/kustomization.yaml")).drain_notice_s > seen_s


def test_compose_stops_only_after_the_drain(compose) -> None:
    """The engine waits for 5 s longer than a server takes to end by default; the image says how to tell it so."""
    grace_s = int(compose["services"]["phiserve"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= end_s_max(Settings()) + 5
    advised = re.search(r"--stop-timeout (\d+)", DOCKERFILE)
    assert advised is not None
    assert int(advised[1]) == grace_s


def test_probes_ask_what_the_server_answers(container) -> None:
    """Every probe asks a route that exists, readiness asks /readyz, and what restarts a pod does not."""
    app = create_rest_api(
        ScriptedEngine(), limits=RestLimits(), metrics_page=lambda _: (b"", "text/plain"), version="1.2.3"
    )
    paths = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    assert paths == {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    assert set(paths.values()) | {"/metrics"} <= set(app.openapi()["paths"])


def test_ports_agree_everywhere(deployment, container, compose) -> None:
    """Image, pod, services and compose file use the default ports of the settings."""
    settings = Settings()
    ports = {"http": settings.port, "grpc": settings.grpc_port}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed is not None
    assert [int(port) for port in exposed[1].split()] == list(ports.values())
    for service in documents("base/service.yaml"):
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
    published = [int(mapping.rsplit(":", 1)[1]) for mapping in compose["services"]["phiserve"]["ports"]]
    assert published == list(ports.values())
    assert deployment["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(settings.port)
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": [f"phiserve:{settings.port}"]}]


def test_grpc_is_found_by_pod(container) -> None:
    """The gRPC service has no cluster address, so that a client sees every pod."""
    services = {service["metadata"]["name"]: service["spec"] for service in documents("base/service.yaml")}
    assert services["phiserve-grpc"]["clusterIP"] == "None"
    assert "clusterIP" not in services["phiserve"]


def test_services_do_not_become_settings(pod) -> None:
    """The cluster puts no PHISERVE_PORT of its own, an address, into the pod's environment."""
    assert "PHISERVE_PORT" in VARIABLES
    assert pod["enableServiceLinks"] is False


def test_pod_keeps_to_the_restricted_level(pod, container) -> None:
    """The pod satisfies the restricted Pod Security level, cannot write to its root and has no token."""
    assert pod["automountServiceAccountToken"] is False
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(key for key in volume if key != "name") for volume in pod["volumes"]} == {"emptyDir"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_image_and_pod_are_the_same_user(pod) -> None:
    """The pod runs as the user that owns the image's writable folders."""
    last = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    security = pod["securityContext"]
    assert last == (str(security["runAsUser"]), str(security["runAsGroup"]))
    assert security["fsGroup"] == security["runAsGroup"]


def test_what_is_measured_has_a_place(container, compose) -> None:
    """The folders of the store that the server writes to are writable in the pod, and profiles are kept by compose."""
    assert f"PHISERVE_STORE={STORE}" in DOCKERFILE
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {f"{STORE}/{PROFILES_FOLDER}", f"{STORE}/provider-cache", "/tmp"} <= mounted
    assert compose["services"]["phiserve"]["volumes"] == [f"profiles:{STORE}/{PROFILES_FOLDER}"]


def test_tracing_opens_the_way_to_the_collector_it_names() -> None:
    """With the component settings are accepted, and the policy lets pods ask DNS and reach that port alone."""
    component = literals("components/tracing/kustomization.yaml")
    settings = settings_of(literals("base/kustomization.yaml") | component)
    assert settings.tracing_endpoint is not None
    spec = documents("components/tracing/networkpolicy.yaml")[0]["spec"]
    assert spec["policyTypes"] == ["Egress"]
    opened = [{port["port"] for port in rule["ports"]} for rule in spec["egress"]]
    assert opened == [{httpx.URL(settings.tracing_endpoint).port}, {53}]
    assert all(rule["to"] for rule in spec["egress"])


@pytest.mark.parametrize(
    "path", ["base/poddisruptionbudget.yaml", "base/networkpolicy.yaml", "components/tracing/networkpolicy.yaml"]
)
def test_policies_select_these_pods_alone(path) -> None:
    """Budget and network policy name the pods they are for: empty ones would mean none, or every pod around."""
    spec = documents(path)[0]["spec"]
    selector = spec["podSelector"] if "podSelector" in spec else spec["selector"]
    assert selector == {"matchLabels": {"app.kubernetes.io/name": "phiserve"}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_resources_are_whole_cores_of_its_own(overlay) -> None:
    """Processor and memory are requested as they are limited, in whole cores."""
    (container,) = documents(f"overlays/{overlay}/resources.yaml")[0]["spec"]["template"]["spec"]["containers"]
    resources = container["resources"]
    for kind in ("cpu", "memory"):
        assert resources["requests"][kind] == resources["limits"][kind]
    assert int(resources["limits"]["cpu"]) >= 1
    assert resources["limits"].get("nvidia.com/gpu") == {"cpu": None, "gpu": "1"}[overlay]


def test_autoscalers_go_by_what_the_machine_shows() -> None:
    """Pods that run models on cores are scaled by these, those of a GPU by accuracy and queue, in the same bounds."""
    chosen = {overlay: documents(f"overlays/{overlay}/kustomization.yaml")[0]["components"] for overlay in OVERLAYS}
    assert chosen == {"cpu": ["../../components/hpa"], "gpu": ["../../components/hpa-accuracy"]}
    by_cores, by_accuracy = (
        documents(f"components/{name}/horizontalpodautoscaler.yaml")[0]["spec"] for name in ("hpa", "hpa-accuracy")
    )
    assert {metric["type"] for metric in by_cores["metrics"]} == {"Resource"}
    assert {metric["type"] for metric in by_accuracy["metrics"]} == {"Pods"}
    assert by_cores | {"metrics": None} == by_accuracy | {"metrics": None}


def test_both_autoscalers_by_accuracy_agree() -> None:
    """The two ways to scale by it have the same bounds and the same two targets."""
    horizontal = documents("components/hpa-accuracy/horizontalpodautoscaler.yaml")[0]["spec"]
    keda = documents("components/keda/scaledobject.yaml")[0]["spec"]
    assert (horizontal["minReplicas"], horizontal["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    share, depth = (metric["pods"]["target"]["averageValue"] for metric in horizontal["metrics"])
    thresholds = [float(trigger["metadata"]["threshold"]) for trigger in keda["triggers"]]
    assert [int(share.removesuffix("m")) / 1000, float(depth)] == thresholds


def test_autoscaled_metrics_are_served_by_the_adapter() -> None:
    """Every metric of the autoscaler is one that the adapter's rules make."""
    horizontal = documents("components/hpa-accuracy/horizontalpodautoscaler.yaml")[0]["spec"]
    rules = documents("components/hpa-accuracy/adapter-values.yaml")[0]["rules"]["custom"]
    made = {rule["name"]["as"] for rule in rules}
    assert {metric["pods"]["metric"]["name"] for metric in horizontal["metrics"]} == made


def test_image_builds_the_store_that_make_builds() -> None:
    """The image's default variants, and those of the compose file, are the Makefile's."""
    made = re.search(r"^VARIANTS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    built = re.search(r'^ARG VARIANTS="(.*)"$', DOCKERFILE, re.MULTILINE)
    composed = re.search(r"VARIANTS:-(.*)}", (ROOT / "docker-compose.yml").read_text())
    assert made is not None
    assert built is not None
    assert composed is not None
    assert made[1] == built[1] == composed[1]


def test_version_label_is_the_package_s() -> None:
    """The version that the image says is the one that is built."""
    package = re.search(r'^__version__ = "(.*)"$', (ROOT / "phiserve/__init__.py").read_text(), re.MULTILINE)
    assert package is not None
    assert f"ARG VERSION={package[1]}\n" in DOCKERFILE


def test_build_sees_only_what_it_copies() -> None:
    """Whatever the Dockerfile copies from the checkout, `.dockerignore` lets in, and nothing else."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for words in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied.update(words.split()[:-1])
    covered = {path for path in copied if any(path == rule or path.startswith(rule + "/") for rule in allowed)}
    assert covered == copied
    assert all((ROOT / path).exists() for path in allowed)


def test_compose_grants_no_more_than_needed(compose) -> None:
    """Every service drops all capabilities, and no port is open beyond this machine."""
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(mapping.startswith("127.0.0.1:") for mapping in service.get("ports", ())), name


def test_compose_mounts_files_that_exist(compose) -> None:
    """Every file or folder of the checkout that a service mounts is there."""
    sources = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
