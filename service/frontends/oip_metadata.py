"""Metadata of the Open Inference Protocol as plain dictionaries, whose members both wires call alike."""

from __future__ import annotations

from typing import Any

from service.frontends.oip_models import BACKEND, EXTENSIONS, INPUTS, PLATFORM, SERVER_NAME, VERSION, Model, Models
from service.frontends.oip_tensors import TensorSpec

# How Triton's model configuration names datatypes.
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32"}


def server_metadata(version: str) -> dict[str, Any]:
    """Of the server, whose own `version` is shown."""
    return {"name": SERVER_NAME, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(model: Model) -> dict[str, Any]:
    """Of one model. Only one of its inputs is sent."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in INPUTS],
        "outputs": [_tensor(spec) for spec in model.outputs],
    }


def config(model: Model) -> dict[str, Any]:
    """What of Triton's model configuration means something here.

    `max_batch_size` 0 says that shapes hold the number of pictures: the server forms batches over requests by itself.
    """
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": 0,
        "input": [_config_tensor(spec) | {"optional": True} for spec in INPUTS],
        "output": [_config_tensor(spec) for spec in model.outputs],
    }


def index(models: Models, *, ready_only: bool) -> list[dict[str, str]]:
    """Every model with its state, or only those that answer."""
    rows = []
    for model in models.all:
        state, reason = models.state(model)
        if state == "READY" or not ready_only:
            rows.append({"name": model.name, "version": VERSION, "state": state, "reason": reason})
    return rows


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": _CONFIG_TYPES[spec.datatype], "dims": list(spec.shape)}
