"""untrained_tensors.py: batch norms that fit what they see, and scores that depend on the picture."""

from dataclasses import replace

import numpy as np
import pytest

from model_store.architecture import build_architecture
from model_store.compound_scaling import released
from model_store.untrained_tensors import untrained_tensors
from tests.model_store.fakes.numpy_network import NumpyNetwork
from tests.parity.golden import graph_logits, picture


class ObservedNetwork(NumpyNetwork):
    """Notes, at each batch norm, how much of the stored deviation is there, and how far off the stored mean is."""

    def __init__(self, architecture, weights):
        super().__init__(architecture, weights, mean=127.5, std=73.9)
        self.observed = []

    def summed(self, features, conv):
        summed = super().summed(features, conv)
        deviation = np.sqrt(self.weights[f"{conv.name}.norm.variance"])
        off = np.abs(summed.mean((0, 2, 3)) - self.weights[f"{conv.name}.norm.mean"])
        self.observed.append((np.median(summed.std((0, 2, 3)) / deviation), np.median(off / deviation)))
        return summed


@pytest.mark.parametrize("member", ["b0", "b2", "lite0"])
def test_there_is_one_float32_tensor_of_each_name_and_shape(member):
    """Every tensor of the architecture is drawn once, in float32 and in its shape."""
    architecture = build_architecture(released(member))
    tensors = untrained_tensors(architecture, 0)
    assert {name: array.shape for name, array in tensors.items()} == architecture.tensor_shapes()
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(array).all() for array in tensors.values())


def test_class_counts_share_the_features():
    """With one seed, networks for 3 and for 1000 classes differ in nothing but the classifier."""
    three, thousand = (untrained_tensors(build_architecture(released("b0"), count), 0) for count in (3, 1000))
    same = {name for name in three if np.array_equal(three[name], thousand[name])}
    assert set(three) - same == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("member", ["b0", "b3", "lite0"])
def test_batch_norms_expect_what_they_get(member):
    """From the first layer to the last, real deviations are a tenth to twice the stored ones, and means within one."""
    # Smaller than the member's own side, for speed: statistics do not depend on it.
    architecture = build_architecture(replace(released(member), resolution=96))
    network = ObservedNetwork(architecture, untrained_tensors(architecture, 0))
    network.logits(np.stack([picture(96, seed) for seed in range(4)]))
    assert len(network.observed) == len(architecture.convs)
    for deviation, off in network.observed:
        assert 0.1 < deviation < 2
        assert off < 1


@pytest.mark.parametrize("member", ["b0", "b2", "lite0", "lite4"])
def test_scores_depend_on_the_picture(member):
    """Two pictures get scores that differ by more than a tenth of their size: no picture is lost on the way."""
    architecture = build_architecture(released(member))
    pictures = np.stack([picture(architecture.scaling.resolution, seed) for seed in (1, 2)])
    first, second = graph_logits(architecture, untrained_tensors(architecture, 0), pictures)
    assert np.abs(first - second).max() > 0.1 * np.abs(first).max()
    assert np.abs(first).max() < 100
