"""The pod that KServe makes of a ServingRuntime, near enough to be checked against Kubernetes' own schema of pods.

KServe adds to it and changes nothing of it; what it adds is not here. Reads manifests from a file, prints one Pod.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

# What an InferenceService may say of the pod beside the runtime, of all that phiserve's says.
_OF_THE_SERVICE = ("automountServiceAccountToken", "enableServiceLinks", "terminationGracePeriodSeconds")


def as_pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The runtime's containers and volumes with the pod's fields of the predictor that uses it."""
    by_kind = {manifest["kind"]: manifest for manifest in manifests}
    runtime, service = by_kind["ServingRuntime"], by_kind["InferenceService"]
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    predictor = service["spec"]["predictor"]
    spec |= {key: predictor[key] for key in _OF_THE_SERVICE if key in predictor}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": runtime["metadata"]["name"]}, "spec": spec}


def main() -> int:
    """Read, print."""
    manifests = list(yaml.safe_load_all(Path(sys.argv[1]).read_text()))
    sys.stdout.write(yaml.safe_dump(as_pod(manifests)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
