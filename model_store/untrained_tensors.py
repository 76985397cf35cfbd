"""Seeded random tensors whose batch norms fit them, so that an untrained network still looks at its picture.

Random weights with unrelated statistics lose the picture: each activation's mean grows beside its variation until,
some twenty layers on, every picture gives the same scores to the last bit. So means and variances are propagated
per channel (the mean-field view of random networks: Poole et al. 2016, arXiv 1606.05340), and each batch norm gets
what it would have measured, give or take. Runs no network; reproducible to the bit on every platform, because only
operations that IEEE 754 defines exactly are used, in a fixed order, and no BLAS and no exponential.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.architecture import BATCH_NORM_EPSILON, Activation, Architecture, Block, Conv, SqueezeExcite

Floats = npt.NDArray[np.float64]
Tensors = Iterator[tuple[str, npt.NDArray[np.float32]]]

GAIN = 0.7
"""Of a batch norm, on average. Below one, since swish passes a signal that has grown more than in proportion."""

SKIPPED_GAIN = 0.14
"""Of a projection that a skip adds to its input: with a larger one, fifty blocks would add up."""

# The standard normal distribution as sixteen fair coins: nodes and probabilities are exact in binary.
_COINS = 16
_NODES = [(2 * heads - _COINS) / math.isqrt(_COINS) for heads in range(_COINS + 1)]
_PROBABILITIES = [math.comb(_COINS, heads) / 2**_COINS for heads in range(_COINS + 1)]


def untrained_tensors(architecture: Architecture, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Every tensor of `architecture` by canonical name. Two class counts share all but the classifier."""
    return dict(_Propagation(np.random.Generator(np.random.PCG64(seed))).network(architecture))


@dataclass(frozen=True, slots=True)
class _Signal:
    """Expected mean and variance of each channel over pictures and places: float64 [channels]."""

    mean: Floats
    variance: Floats


class _Propagation:
    """Draws the tensors layer by layer and carries along the signal that they make of random pictures."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.signal = _Signal(np.zeros(3), np.ones(3))  # normalised pixels

    def network(self, architecture: Architecture) -> Tensors:
        yield from self.conv(architecture.stem, architecture.activation)
        for block in architecture.blocks:
            yield from self.block(block, architecture.activation)
        yield from self.conv(architecture.head, architecture.activation)
        classifier = self.uniform((architecture.class_count, architecture.head.out_channels))
        yield "classifier.weight", classifier.astype(np.float32)
        yield "classifier.bias", (0.1 * self.spread((architecture.class_count,))).astype(np.float32)

    def block(self, block: Block, activation: Activation) -> Tensors:
        before = self.signal
        if block.expand is not None:
            yield from self.conv(block.expand, activation)
        yield from self.conv(block.depthwise, activation)
        if block.squeeze_excite is not None:
            yield from self.squeeze_excite(block.squeeze_excite)
        yield from self.conv(block.project, None, gain=SKIPPED_GAIN if block.has_skip else GAIN)
        if block.has_skip:
            self.signal = _Signal(before.mean + self.signal.mean, before.variance + self.signal.variance)

    def conv(self, conv: Conv, activation: Activation | None, *, gain: float = GAIN) -> Tensors:
        """A kernel, and a batch norm that has seen what the kernel makes of the signal, up to a random error."""
        kernel = self.uniform(conv.weight_shape).astype(np.float32)
        yield f"{conv.name}.weight", kernel
        taps = kernel.astype(np.float64).reshape(*conv.weight_shape[:2], -1)
        sums = _sum_last(taps)
        # Neighbours in a picture are partly alike: between adding up as one and adding up as strangers.
        squares = (_sum_last(taps * taps) + sums * sums) / 2.0
        if conv.groups == 1:
            mean, variance = _apply(sums, self.signal.mean), _apply(squares, self.signal.variance)
        else:
            mean, variance = sums[:, 0] * self.signal.mean, squares[:, 0] * self.signal.variance
        norm = {
            "gamma": gain * (1.0 + 0.25 * self.spread(mean.shape)),
            "beta": 0.3 * self.spread(mean.shape),
            "mean": mean + 0.2 * self.spread(mean.shape) * np.sqrt(variance),
            "variance": variance * (1.0 + 0.25 * self.spread(mean.shape)),
        }
        stored = {part: values.astype(np.float32) for part, values in norm.items()}
        yield from ((f"{conv.name}.norm.{part}", values) for part, values in stored.items())
        gamma, beta, centre, spread = (values.astype(np.float64) for values in stored.values())
        scale = gamma / np.sqrt(spread + BATCH_NORM_EPSILON)
        self.signal = _Signal((mean - centre) * scale + beta, variance * scale * scale)
        if activation is not None:
            self.signal = _activated(self.signal, activation)

    def squeeze_excite(self, layer: SqueezeExcite) -> Tensors:
        """Two dense layers fed with the channels' means; the gate scales the signal."""
        vector = self.signal.mean
        for part, shape in (("reduce", (layer.squeezed, layer.channels)), ("expand", (layer.channels, layer.squeezed))):
            weight, bias = 0.5 * self.uniform(shape), 0.3 * self.spread(shape[:1])
            yield f"{layer.name}.{part}.weight", weight.astype(np.float32).reshape(*shape, 1, 1)
            yield f"{layer.name}.{part}.bias", bias.astype(np.float32)
            vector = _apply(weight, vector) + bias
            if part == "reduce":
                vector = vector * _sigmoid(vector)
        gate = _sigmoid(vector)
        self.signal = _Signal(self.signal.mean * gate, self.signal.variance * gate * gate)

    def uniform(self, shape: tuple[int, ...]) -> Floats:
        """Weights that keep a signal's variance: uniform, of variance 1 / fan-in."""
        return self.spread(shape) * math.sqrt(3.0 / math.prod(shape[1:]))

    def spread(self, shape: tuple[int, ...]) -> Floats:
        """Uniform from -1 to 1."""
        return 2.0 * self.random.random(shape) - 1.0


def _activated(signal: _Signal, activation: Activation) -> _Signal:
    """Moments of an activation's output where each channel is normally distributed: a sum over `_NODES`."""
    deviation = np.sqrt(signal.variance)
    mean, square = np.zeros_like(deviation), np.zeros_like(deviation)
    for node, probability in zip(_NODES, _PROBABILITIES, strict=True):
        value = signal.mean + node * deviation
        output = value * _sigmoid(value) if activation == "swish" else np.clip(value, 0.0, 6.0)
        mean, square = mean + probability * output, square + probability * output * output
    # Never below zero: a channel that ReLU6 switches off has no variance, and rounding must not make it negative.
    return _Signal(mean, np.maximum(square - mean * mean, 0.0))


def _sigmoid(value: Floats) -> Floats:
    """Lambert's continued fraction of tanh(x / 2), eight terms deep and clipped: rational, so exact everywhere."""
    half = value / 2.0
    square, denominator = half * half, np.full_like(half, 15.0)
    for odd in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        denominator = odd + square / denominator
    return 0.5 + 0.5 * np.clip(half / denominator, -1.0, 1.0)


def _apply(matrix: Floats, vector: Floats) -> Floats:
    """Matrix times vector, summed column by column: a BLAS would choose its own order on each machine."""
    # NumPy adds what is far apart in memory one after the other, and in pairs only what lies side by side: one column
    # more, of zeros, and that is never what is summed, not even of a matrix with one row.
    terms = np.zeros((matrix.shape[1], matrix.shape[0] + 1))
    np.multiply(matrix.T, vector[:, np.newaxis], out=terms[:, :-1])
    return np.asarray(np.add.reduce(terms, axis=0)[:-1], np.float64)


def _sum_last(taps: Floats) -> Floats:
    """Sum over a kernel's places, first to last."""
    total = np.zeros(taps.shape[:-1])
    for place in range(taps.shape[-1]):
        total = total + taps[..., place]
    return total
