"""expected_inputs.py: what batch norms say of a layer's mean input is what inputs so distributed have."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.architecture import build_architecture
from model_store.compound_scaling import Scaling, released
from model_store.expected_inputs import expected_inputs
from model_store.sources import from_wheel
from model_store.weights import untrained


def tiny(family):
    return build_architecture(Scaling("tiny", family, 0.25, 1.0, 32, 0.875), class_count=5)


@pytest.mark.parametrize("family", ["b", "lite"])
def test_every_quantised_layer_has_a_mean_for_each_input(family):
    """All convolutions with a batch norm and the classifier are there, each with one mean an input channel."""
    architecture = tiny(family)
    expected = expected_inputs(architecture, untrained(architecture, seed=1))
    sizes = {conv.name: conv.in_channels for conv in architecture.convs}
    assert {name: len(means) for name, means in expected.items()} == sizes | {
        "classifier": architecture.head.out_channels
    }
    assert not expected["stem"].any()
    assert all(np.isfinite(means).all() for means in expected.values())


@pytest.mark.parametrize("family", ["b", "lite"])
def test_a_mean_is_that_of_normal_values_through_the_activation(family):
    """A million draws with a batch norm's mean and deviation, activated, have the stated mean."""
    architecture = tiny(family)
    weights = untrained(architecture, seed=1)
    conv = architecture.blocks[1].expand
    expected = expected_inputs(architecture, weights)[architecture.blocks[1].depthwise.name]
    draws = np.random.default_rng(0).normal(size=1_000_000)
    for channel in range(3):
        values = weights[f"{conv.name}.norm.beta"][channel] + weights[f"{conv.name}.norm.gamma"][channel] * draws
        activated = values / (1 + np.exp(-values)) if family == "b" else values.clip(0, 6)
        assert expected[channel] == pytest.approx(activated.mean(), abs=0.01)


def test_skips_add_up():
    """What enters a layer after a skip is the sum of what the joined branches give on average."""
    architecture = build_architecture(released("lite0"))
    weights = from_wheel("lite0").load(architecture).weights
    expected = expected_inputs(architecture, weights)
    first, second, after = (architecture.blocks[index] for index in (1, 2, 3))
    assert second.has_skip
    branches = sum(weights[f"{block.project.name}.norm.beta"].astype(np.float64) for block in (first, second))
    np.testing.assert_allclose(expected[after.expand.name], branches, rtol=1e-12)
