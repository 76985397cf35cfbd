"""Our graphs against the logits that reference implementations gave, for every member and without torch.

`make parity` reruns the references; `tests/parity/parity.py --write-goldens` writes the files that are read here.
"""

import numpy as np
import pytest

from model_store import onnx_graph
from model_store.architecture import Conv, build_architecture
from model_store.compound_scaling import MEMBERS, released
from model_store.weights import untrained
from tests.parity.golden import (
    GOLDENS,
    PICTURE_SEEDS,
    RELATIVE_ERROR_MAX,
    WEIGHTS_SEED,
    graph_logits,
    picture,
    picture_digest,
    read_golden,
    relative_error,
    weights_digest,
)


def golden_case(member):
    """The architecture, weights and one-picture batch that the reference answered for."""
    architecture = build_architecture(released(member))
    pictures = picture(architecture.scaling.resolution, PICTURE_SEEDS[0])[np.newaxis]
    return architecture, untrained(architecture, seed=WEIGHTS_SEED), pictures


@pytest.mark.parametrize("member", MEMBERS)
def test_every_graph_answers_as_the_reference_does(member):
    """On the weights and the picture that the reference was given, the graph's logits agree within 1e-4."""
    architecture, weights, pictures = golden_case(member)
    golden = read_golden(member)
    inputs_changed = "the inputs changed, not the network: run tests/parity/parity.py --write-goldens"
    assert weights_digest(weights) == golden.weights_sha256, inputs_changed
    assert picture_digest(pictures[0]) == golden.picture_sha256, inputs_changed
    assert relative_error(graph_logits(architecture, weights, pictures), [golden.logits]) <= RELATIVE_ERROR_MAX


def test_there_is_a_golden_for_each_member_and_no_other():
    """No member goes unproven and no file is left behind, and each says which reference under which torch wrote it."""
    assert {path.stem for path in GOLDENS.iterdir()} == set(MEMBERS)
    for member in MEMBERS:
        golden = read_golden(member)
        assert golden.member == member
        assert golden.reference.startswith(("geffnet ", "efficientnet-lite-pytorch "))
        assert golden.torch_version
        assert len(golden.logits) == 1000


@pytest.mark.parametrize("member", ["b0", "lite0"])
@pytest.mark.parametrize("mistake", ["epsilon", "padding", "channels"])
def test_the_goldens_notice_the_usual_mistakes(member, mistake, monkeypatch):
    """PyTorch's batch-norm epsilon, its centred padding or swapped colours miss the limit a hundredfold."""
    architecture, weights, pictures = golden_case(member)
    if mistake == "epsilon":
        monkeypatch.setattr(onnx_graph, "BATCH_NORM_EPSILON", 1e-5)
    elif mistake == "padding":
        monkeypatch.setattr(Conv, "padding", property(lambda conv: (conv.kernel // 2, conv.kernel // 2)))
    else:
        pictures = pictures[..., ::-1]
    error = relative_error(graph_logits(architecture, weights, pictures), [read_golden(member).logits])
    assert error > 100 * RELATIVE_ERROR_MAX


def test_logits_that_are_not_numbers_agree_with_nothing():
    """A NaN or an infinity on either side is an infinite error, and never a comparison that passes."""
    for bad in (np.nan, np.inf):
        assert relative_error([1.0, bad], [1.0, 2.0]) == np.inf
        assert relative_error([1.0, 2.0], [1.0, bad]) == np.inf


def test_the_relative_error_is_of_the_largest_reference():
    """The error is the largest difference over the largest reference value, and shapes that differ are refused."""
    assert relative_error([1.0, -4.5], [1.0, -4.0]) == 0.125
    with pytest.raises(ValueError, match="compare"):
        relative_error([1.0], [1.0, 2.0])
