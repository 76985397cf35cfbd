"""What each layer's input channels are on average, told by the batch norms in front of it and not by pictures.

Rounding weights to eight bits shifts a layer's output by (rounded - exact weights) times its mean input: the same
shift for every picture, which the bias can take back. The analytic bias correction of Nagel et al. 2019 (Data-Free
Quantization, arXiv 1906.04721, section 4.2.1) needs no data for that mean: a batch norm's output is taken as a normal
distribution with mean beta and deviation gamma, and carried through the activation. Knows no graph and no ranges.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from model_store.architecture import Activation, Architecture, Conv, SqueezeExcite
from model_store.weights import Weights

Vector: TypeAlias = npt.NDArray[np.float64]

# Expectations under a standard normal distribution, by Gauss-Hermite quadrature (weights for exp(-x^2 / 2)).
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_NODE_WEIGHTS = _NODE_WEIGHTS / np.sqrt(2 * np.pi)


def expected_inputs(architecture: Architecture, weights: Weights) -> dict[str, Vector]:
    """Mean of each input channel of every layer that gets quantised, by the layer's name: float64 [in_channels].

    The stem's are zero, as if its pictures had exactly the mean that is taken off. The classifier's are those of the
    pooled head.
    """
    means: dict[str, Vector] = {}

    def after(conv: Conv, inputs: Vector) -> Vector:
        means[conv.name] = inputs
        return _activated_mean(weights, conv, architecture.activation)

    features = after(architecture.stem, np.zeros(architecture.stem.in_channels))
    for block in architecture.blocks:
        inner = features if block.expand is None else after(block.expand, features)
        inner = after(block.depthwise, inner)
        if block.squeeze_excite is not None:
            inner = inner * _gate(weights, block.squeeze_excite, inner)
        means[block.project.name] = inner
        projected = _part(weights, block.project, "beta")
        features = projected + features if block.has_skip else projected
    means["classifier"] = after(architecture.head, features)
    return means


def _activated_mean(weights: Weights, conv: Conv, activation: Activation) -> Vector:
    beta, gamma = _part(weights, conv, "beta"), _part(weights, conv, "gamma")
    values = beta[:, None] + gamma[:, None] * _NODES
    activated = values * _sigmoid(values) if activation == "swish" else np.clip(values, 0, 6)
    mean: Vector = activated @ _NODE_WEIGHTS
    return mean


def _gate(weights: Weights, layer: SqueezeExcite, means: Vector) -> Vector:
    """The gate that a picture of mean features would get: squeeze-excite sees channel means and nothing else."""
    reduced = _dense(weights, f"{layer.name}.reduce", means)
    return _sigmoid(_dense(weights, f"{layer.name}.expand", reduced * _sigmoid(reduced)))


def _dense(weights: Weights, name: str, inputs: Vector) -> Vector:
    kernel = weights[f"{name}.weight"].astype(np.float64)
    result: Vector = kernel.reshape(len(kernel), -1) @ inputs + weights[f"{name}.bias"]
    return result


def _part(weights: Weights, conv: Conv, part: str) -> Vector:
    return weights[f"{conv.name}.norm.{part}"].astype(np.float64)


def _sigmoid(values: Vector) -> Vector:
    result: Vector = 1 / (1 + np.exp(-values))
    return result
