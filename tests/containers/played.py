"""The Deployment of the CPU overlay, run by podman's own reading of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.containers.engine import IMAGE, ROOT, STOP_TIMEOUT_S, Engine, run, say
from tests.containers.server import Server

OVERLAY = ROOT / "deploy/kubernetes/overlays/cpu"


def playable(manifests: str, variables: dict[str, str]) -> str:
    """The Deployment and its ConfigMap as one machine can run them.

    This image, these settings, the host's network and its cores. The probes go: they ask by name a port of a network
    of the pod's own, which it does not have here; `Server.check_serves` asks what they ask.
    """
    kept = [one for one in yaml.safe_load_all(manifests) if one["kind"] in {"ConfigMap", "Deployment"}]
    for one in kept:
        if one["kind"] == "ConfigMap":
            one["data"] |= variables
        else:
            one["spec"]["replicas"] = 1
            _make_local(one["spec"]["template"]["spec"])
    return yaml.safe_dump_all(kept)


def _make_local(pod: dict[str, Any]) -> None:
    pod["hostNetwork"] = True
    (container,) = pod["containers"]
    container |= {"image": f"localhost/{IMAGE}", "imagePullPolicy": "Never"}
    container["resources"] = {"limits": {"memory": container["resources"]["limits"]["memory"]}}
    for gone in ("startupProbe", "readinessProbe", "livenessProbe", "ports"):
        del container[gone]


def run_played(engine: Engine, kubectl: str, folder: Path) -> None:
    """Build the overlay, play it, ask it, drain it, and take it away.

    Raises:
        Failed: anything was not as it must be.
    """
    server = Server.on_free_ports()
    manifests = folder / "deployment.yaml"
    manifests.write_text(playable(run(kubectl, "kustomize", OVERLAY), server.variables))
    say("Deployment: the CPU overlay's, by podman kube play")
    try:
        engine("kube", "play", manifests)
        container = engine("ps", "--filter", f"ancestor=localhost/{IMAGE}", "--filter", "name=phiserve", "--quiet")
        server.check_serves()
        server.check_drains(
            lambda: engine("stop", "--time", str(STOP_TIMEOUT_S), container), lambda: engine.exit_status(container)
        )
    finally:
        engine("kube", "down", manifests)
