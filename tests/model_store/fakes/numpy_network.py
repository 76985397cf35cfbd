"""An EfficientNet in float64 numpy, straight from the definitions: batch norm unfolded, padding applied, no ONNX."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

BATCH_NORM_EPSILON = 0.001


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def convolved(features, kernel, stride, groups):
    """TensorFlow's SAME convolution of [batch, channels, side, side], in one group or depthwise."""
    side, size = features.shape[-1], kernel.shape[-1]
    needed = max((-(-side // stride) - 1) * stride + size - side, 0)
    around = (needed // 2, needed - needed // 2)
    padded = np.pad(features, ((0, 0), (0, 0), around, around))
    windows = sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride]
    if groups == 1:
        return np.einsum("bchwij,ocij->bohw", windows, kernel)
    return np.einsum("bchwij,cij->bchw", windows, kernel[:, 0])


class NumpyNetwork:
    """The network of `architecture` with `weights`, for pixels normalised by `mean` and `std`."""

    def __init__(self, architecture, weights, mean, std):
        self.architecture = architecture
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self.mean, self.std = np.array(mean), np.array(std)

    def logits(self, pixels):
        """[batch, classes] for uint8 pixels [batch, side, side, 3]."""
        network = self.architecture
        features = self.activated(((pixels - self.mean) / self.std).transpose(0, 3, 1, 2), network.stem)
        for block in network.blocks:
            features = self.block(features, block)
        return self.dense(self.activated(features, network.head).mean((2, 3)), "classifier")

    def block(self, features, block):
        inner = features if block.expand is None else self.activated(features, block.expand)
        inner = self.activated(inner, block.depthwise)
        if (layer := block.squeeze_excite) is not None:
            squeezed = self.dense(inner.mean((2, 3)), f"{layer.name}.reduce")
            gate = sigmoid(self.dense(squeezed * sigmoid(squeezed), f"{layer.name}.expand"))
            inner = inner * gate[:, :, None, None]
        projected = self.normed(inner, block.project)
        return projected + features if projected.shape == features.shape else projected

    def activated(self, features, conv):
        normed = self.normed(features, conv)
        return normed * sigmoid(normed) if self.architecture.activation == "swish" else np.clip(normed, 0, 6)

    def normed(self, features, conv):
        """A convolution and then its batch norm, one after the other."""
        summed = self.summed(features, conv)
        gamma, beta, mean, variance = (
            self.weights[f"{conv.name}.norm.{part}"][:, None, None] for part in ("gamma", "beta", "mean", "variance")
        )
        return gamma * (summed - mean) / np.sqrt(variance + BATCH_NORM_EPSILON) + beta

    def summed(self, features, conv):
        """The convolution alone."""
        return convolved(features, self.weights[f"{conv.name}.weight"], conv.stride, conv.groups)

    def dense(self, vectors, name):
        weight = self.weights[f"{name}.weight"].reshape(-1, vectors.shape[1])
        return vectors @ weight.T + self.weights[f"{name}.bias"]
