"""Weights to integers, per output channel: sums that cannot overflow, and a bias that takes back what rounding shifts.

Processors without VNNI multiply bytes by `vpmaddubsw`, which adds two neighbouring products of an activation (0 to 255)
and a weight in 16 bits, and saturates. So no two neighbours of one sign may sum to more than 128 (128 * 255 < 2**15).
Scales are chosen for that here: in the median channel one a fifth wider than its largest weight alone asks for. int8 is
then exact at full speed on every processor; kernels that widen first take 1.4 times as long.

Knows arrays only: no graph and no file.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Number = TypeVar("_Number", bound=np.generic)

PAIRED_PIXELS = 4
"""Pixels in a group of the paired stem."""

_WEIGHT_MAX = 127
_PAIR_MAX = 128
"""What two neighbouring weights of one sign may sum to."""
_BIAS_MAX = 2**30
"""Half of what int32 holds, so that corrections and sums have room."""
_SCALE_MIN = 1e-10
"""Of weights that are all zero: a channel that training switched off."""


def widest_pairs(kernel: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """The largest sum of two neighbours of one sign in each output channel of `kernel` [out, in, ...], as a size.

    Neighbours are what ONNX Runtime's kernels multiply with one instruction: input channels change fastest, then
    columns, then rows; the first two are a pair, the next two, and so on.
    """
    in_memory = np.moveaxis(kernel.astype(np.float64), 1, -1).reshape(len(kernel), -1)
    pairs = np.pad(in_memory, ((0, 0), (0, in_memory.shape[1] % 2))).reshape(len(kernel), -1, 2)
    one, other = pairs[:, :, 0], pairs[:, :, 1]
    # Of two signs, each counts as if the other were zero: an activation may be.
    above, below = np.maximum(one, 0) + np.maximum(other, 0), np.minimum(one, 0) + np.minimum(other, 0)
    return np.asarray(np.maximum(above, -below).max(axis=1), np.float64)


def quantised_weights(
    kernel: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    input_scale: float,
    expected_input: npt.NDArray[np.float64],
    *,
    other_order: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Integers and scale of `kernel` [out, in or 1, ...] per output channel, and the bias in units of input x scale.

    A scale is wide enough for its weights, for its widest pair, and for its bias, which would overflow beside weights
    close to zero. `other_order` [out]: the widest pairs of another order in which the same integers are used too. The
    bias takes back the mean shift that rounding the weights causes for inputs of mean `expected_input` [in].
    """
    exact, across = kernel.astype(np.float64), (-1,) + (1,) * (kernel.ndim - 1)
    depthwise = kernel.shape[1] == 1 and len(expected_input) == len(kernel)
    scale = np.abs(exact.reshape(len(exact), -1)).max(axis=1) / _WEIGHT_MAX
    if not depthwise:  # those kernels multiply and add in 32 bits everywhere
        pairs = widest_pairs(kernel) if other_order is None else np.maximum(widest_pairs(kernel), other_order)
        scale = np.maximum(scale, pairs / (_PAIR_MAX - 1))  # rounding may add a half to each
    scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_MAX))
    scale = np.maximum(scale, _SCALE_MIN).astype(np.float32)
    wide = scale.astype(np.float64)
    integers = np.clip(np.rint(exact / wide.reshape(across)), -_WEIGHT_MAX, _WEIGHT_MAX)
    rounding = integers * wide.reshape(across) - exact
    per_input = rounding.reshape(*rounding.shape[:2], -1).sum(axis=2)
    shift = per_input[:, 0] * expected_input if depthwise else per_input @ expected_input
    corrected = np.rint((bias - shift) / (wide * input_scale))
    return integers.astype(np.int8), scale, corrected.astype(np.int32)


def paired_kernel(kernel: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Stem weights [out, 3, 3, 3], stride 2, as [2 * out, 12, 3, 2] over groups of four pixels, stride (2, 1).

    Outputs 0 to out-1 are the even columns of what the stem gives, the others the odd ones.
    """
    out = len(kernel)
    paired = np.zeros((2, out, 2, PAIRED_PIXELS, 3, 3), kernel.dtype)  # column, out, group, pixel, channel, row
    for column in range(2):
        for tap in range(3):
            group, pixel = divmod(2 * column + tap, PAIRED_PIXELS)
            paired[column, :, group, pixel] = kernel[:, :, :, tap]
    return paired.transpose(0, 1, 3, 4, 5, 2).reshape(2 * out, 3 * PAIRED_PIXELS, 3, 2)
