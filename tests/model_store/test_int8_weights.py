"""int8_weights.py: rounding keeps means and biases, and no two products overflow 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.int8_weights import paired_kernel, quantised_weights, widest_pairs
from tests.model_store.fakes.numpy_network import convolved


def test_paired_weights_compute_both_columns():
    """Over groups of four pixels the paired kernel gives the even columns of a stride-2 convolution, then the odd."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-9, 10, (5, 3, 3, 3)).astype(np.int8)
    pixels = rng.integers(-9, 10, (1, 8, 8, 3)).astype(np.float64)
    expected = convolved(pixels.transpose(0, 3, 1, 2), kernel.astype(np.float64), 2, 1)
    groups = np.pad(pixels.reshape(1, 8, 2, 12), ((0, 0), (0, 1), (0, 1), (0, 0)))
    paired = paired_kernel(kernel).astype(np.float64)
    for row in range(4):
        for group in range(2):
            window = groups[0, 2 * row : 2 * row + 3, group : group + 2].transpose(2, 0, 1)
            even, odd = (paired * window).sum(axis=(1, 2, 3)).reshape(2, 5)
            np.testing.assert_array_equal(even, expected[0, :, row, 2 * group])
            np.testing.assert_array_equal(odd, expected[0, :, row, 2 * group + 1])


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 2, 3]), st.floats(0.01, 3))
def test_two_neighbouring_products_fit_into_16_bits(seed, channels, side, spread):
    """Of any rounded kernel, pair by pair in the order of memory, and for any two activations of 8 bits."""
    rng = np.random.default_rng(seed)
    kernel = np.exp(rng.normal(scale=spread, size=(3, channels, side, side))) * rng.choice([-1, 1], (3, 1, 1, 1))
    kernel = kernel.astype(np.float32)
    integers, scale, _ = quantised_weights(kernel, np.zeros(3, np.float32), 0.02, np.zeros(channels))
    assert np.abs(integers * scale.reshape(-1, 1, 1, 1) - kernel).max() <= 0.51 * scale.max()
    for weights in integers:
        in_memory = [int(weights[channel, row, column])
                     for row in range(side) for column in range(side) for channel in range(channels)]  # fmt: skip
        for first, second in zip(in_memory[::2], [*in_memory[1::2], 0], strict=False):
            sums = [255 * first, 255 * second, 255 * (first + second)]
            assert min(sums) >= -(2**15)
            assert max(sums) < 2**15


@pytest.mark.parametrize(("weights", "widest"), [
    ([3, 4, 5, 6], 11),
    ([3, -4, 5, -6], 6),
    ([-3, -4, 5, -9], 9),
    ([1, 2, 3], 3),
])  # fmt: skip
def test_neighbours_of_one_sign_count_together(weights, widest):
    """The first two are a pair, then the next two; a weight alone, or of the other sign, counts by itself."""
    assert widest_pairs(np.array(weights).reshape(1, -1, 1, 1)) == [widest]


@given(st.integers(0, 2**32 - 1), st.booleans(), st.floats(1e-4, 1))
def test_the_mean_survives_rounding(seed, depthwise, input_scale):
    """For an input of the expected mean, what rounding the weights shifts is back in the bias, to half its step."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(6, 1 if depthwise else 4, 3, 3)).astype(np.float32)
    bias, means = rng.normal(size=6).astype(np.float32), rng.normal(size=6 if depthwise else 4)
    integers, scale, offsets = quantised_weights(kernel, bias, input_scale, means)
    rounded = integers * scale.astype(np.float64).reshape(-1, 1, 1, 1)
    taps = [weights.astype(np.float64).sum(axis=(2, 3)) for weights in (kernel, rounded)]
    exact, close = (t[:, 0] * means if depthwise else t @ means for t in taps)
    step = scale * input_scale
    np.testing.assert_allclose(close + offsets * step, exact + bias, atol=0.51 * step.max(), rtol=1e-6)
    assert np.abs(rounded - kernel).max() <= 0.51 * scale.max()


def test_a_dead_channel_keeps_its_bias():
    """Weights of zero get a scale wide enough for the bias beside them, where one of their own would overflow it."""
    kernel, bias = np.zeros((2, 3, 1, 1), np.float32), np.array([5.0, 0.0], np.float32)
    integers, scale, offsets = quantised_weights(kernel, bias, 0.02, np.zeros(3))
    assert not integers.any()
    np.testing.assert_allclose(offsets * (scale * np.float32(0.02)), bias, rtol=1e-6)
