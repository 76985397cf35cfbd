"""The parts of `make image-test` that need no engine: what it changes of the files it runs, and that it skips."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.containers.engine import ROOT, base_image
from tests.containers.played import playable
from tests.containers.server import Server, probe_paths

BASE = ROOT / "deploy/kubernetes/base"
SERVER = Server(8100, 8101, 0.0)


def deployed() -> list[dict]:
    """The base's Deployment with the overlay's resources, and a ConfigMap, as kustomize puts them together."""
    (deployment,) = yaml.safe_load_all((BASE / "deployment.yaml").read_text())
    overlay = yaml.safe_load((ROOT / "deploy/kubernetes/overlays/cpu/resources.yaml").read_text())
    (patch,) = overlay["spec"]["template"]["spec"]["containers"]
    deployment["spec"]["template"]["spec"]["containers"][0] |= patch
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"PHISERVE_LOG_FORMAT": "json"}}
    return [config, deployment, {"kind": "Service"}]


def test_what_is_played_is_the_deployment_as_restricted_as_it_is() -> None:
    """Beside image, network, probes and cores nothing of the pod is changed: user, read-only root, volumes, drain."""
    (_, before, _) = deployed()
    config, after = yaml.safe_load_all(playable(yaml.safe_dump_all(deployed()), SERVER.variables))
    assert config["data"] == {"PHISERVE_LOG_FORMAT": "json"} | SERVER.variables
    old, new = (one["spec"]["template"]["spec"] for one in (before, after))
    assert {key for key in old if old[key] != new[key]} == {"containers"}
    assert set(new) - set(old) == {"hostNetwork"}
    (old_container,), (new_container,) = old["containers"], new["containers"]
    changed = {key for key in old_container if old_container[key] != new_container.get(key)}
    assert changed == {"image", "resources", "startupProbe", "readinessProbe", "livenessProbe", "ports"}
    assert new_container["resources"]["limits"] == {"memory": old_container["resources"]["limits"]["memory"]}


def test_every_probe_is_asked() -> None:
    """What the containers are asked are the routes of the pod's three probes."""
    assert set(probe_paths()) == {"startupProbe", "readinessProbe", "livenessProbe"}


def test_the_base_image_is_the_dockerfile_s() -> None:
    """It is read from the Dockerfile, with its tag."""
    assert base_image((ROOT / "Dockerfile").read_text()).partition(":")[2]


def test_without_an_engine_it_says_so_and_passes(tmp_path: Path) -> None:
    """A machine without an engine skips everything with a line that says why."""
    command = [sys.executable, "-m", "tests.containers", "--engine", str(tmp_path / "docker")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("skipped: all of it, since")
