"""onnx_graph.py: what the file promises to runtimes, and that it computes the network and nothing else."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from model_store.architecture import build_architecture
from model_store.compound_scaling import Scaling, released, scale
from model_store.onnx_graph import IR_VERSION, OPSET, TOP_CLASSES, Normalisation, build_onnx_graph, fold_batch_norm
from model_store.weights import Weights, untrained
from tests.model_store.fakes.numpy_network import NumpyNetwork, convolved

# An odd side, padded on both ends at first; further in come 17, 9, 5, 3 and 2.
SIDE = 33
CLASSES = 5
NORMALISATION = Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
FAMILIES = ["b", "lite"]


def tiny(family, side=SIDE):
    """A network of `family` with every kind of block, and few enough channels to be computed by hand."""
    return build_architecture(Scaling("tiny", family, 0.25, 1.0, side, 0.875), class_count=CLASSES)


def pictures(count, side=SIDE):
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)


def build(architecture, *, seed=0, normalisation=NORMALISATION, with_logits=True):
    return build_onnx_graph(architecture, untrained(architecture, seed=seed), normalisation, with_logits=with_logits)


def session_of(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(model, pixels):
    """Probabilities and logits of `pixels`."""
    return session_of(model).run(["probabilities", "logits"], {"image": pixels})


def declared(value):
    """Name, element type and shape of a graph's input or output."""
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [size.dim_param or size.dim_value for size in tensor.shape.dim]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_states_its_versions_and_passes_the_checker(family):
    """The model states one opset and the format version that goes with it, and ONNX's full check accepts it."""
    model = build(tiny(family))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    assert onnx.helper.find_min_ir_version_for(model.opset_import) <= IR_VERSION
    onnx.checker.check_model(model, full_check=True)


def test_inputs_and_outputs_are_declared_as_documented():
    """Bytes in NHWC come in; probabilities and the best of them go out, for any batch; logits only when asked for."""
    graph = build(tiny("b"), with_logits=False).graph
    image = ("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    probabilities = ("probabilities", TensorProto.FLOAT, ["batch", CLASSES])
    assert [declared(value) for value in graph.input] == [image]
    best = [
        ("top_probabilities", TensorProto.FLOAT, ["batch", min(TOP_CLASSES, CLASSES)]),
        ("top_classes", TensorProto.INT64, ["batch", min(TOP_CLASSES, CLASSES)]),
    ]
    assert [declared(value) for value in graph.output] == [probabilities, *best]
    logits = ("logits", TensorProto.FLOAT, ["batch", CLASSES])
    assert [declared(value) for value in build(tiny("b")).graph.output] == [probabilities, logits, *best]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_most_probable_classes_come_sorted(family):
    """The best classes are those of a stable sort of the probabilities, with equals in the order of their index."""
    pixels = np.random.default_rng(3).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    names = ["probabilities", "top_probabilities", "top_classes"]
    probabilities, highest, classes = session_of(build(tiny(family))).run(names, {"image": pixels})
    expected = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_CLASSES]
    assert np.array_equal(classes, expected)
    assert np.array_equal(highest, np.take_along_axis(probabilities, expected, axis=1))


def test_the_file_says_which_network_it_is():
    """Member and resolution stand in the model's metadata, readable without the manifest."""
    model = build(tiny("b"))
    assert {entry.key: entry.value for entry in model.metadata_props} == {"member": "tiny", "resolution": str(SIDE)}


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_norms_are_folded_and_padding_is_explicit(family):
    """No batch norm is left to run, and no padding is left to a runtime's reading of SAME."""
    nodes = build(tiny(family)).graph.node
    assert not any(node.op_type in {"BatchNormalization", "Pad"} for node in nodes)
    assert "auto_pad" not in {attribute.name for node in nodes for attribute in node.attribute}


@pytest.mark.parametrize("side", [32, 33, 47])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_computes_the_network(family, side):
    """Logits agree with a float64 network written from the definitions, for even and odd sides, to float32 rounding."""
    architecture = tiny(family, side)
    weights = untrained(architecture, seed=1)
    pixels = pictures(2, side)
    _, logits = run(build_onnx_graph(architecture, weights, NORMALISATION, with_logits=True), pixels)
    expected = NumpyNetwork(architecture, weights, NORMALISATION.mean, NORMALISATION.std).logits(pixels)
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["stem", "stages.1.0.depthwise", "stages.1.0.project", "head"])
def test_a_folded_convolution_is_the_convolution_and_its_batch_norm(name):
    """Kernel and bias from folding give, on random features, what convolving and then normalising gives."""
    architecture = tiny("b")
    weights = untrained(architecture, seed=2)
    (conv,) = (conv for conv in architecture.convs if conv.name == name)
    features = np.random.default_rng(0).normal(size=(1, conv.in_channels, 9, 9))
    kernel, bias = fold_batch_norm(weights, name)
    folded = convolved(features, kernel, conv.stride, conv.groups) + bias[:, None, None]
    expected = NumpyNetwork(architecture, weights, 0, 1).normed(features, conv)
    np.testing.assert_allclose(folded, expected, rtol=1e-12, atol=1e-12)


def test_the_border_is_padded_with_the_mean():
    """A picture of the mean colour is zero to the stem up to its border, so the stem's kernel changes nothing."""
    architecture = tiny("b")
    mean = Normalisation(mean=(127, 64, 200), std=(128, 100, 50))
    pixels = np.broadcast_to(np.array(mean.mean, np.uint8), (1, SIDE, SIDE, 3))
    weights = untrained(architecture, seed=0)
    other = Weights({**weights, "stem.weight": 3 - weights["stem.weight"]}, architecture)
    plain, changed = (build_onnx_graph(architecture, found, mean, with_logits=True) for found in (weights, other))
    np.testing.assert_array_equal(run(plain, pixels)[1], run(changed, pixels)[1])
    assert not np.array_equal(run(plain, pictures(1))[1], run(changed, pictures(1))[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_each_picture_what_it_gets_alone(family):
    """One session takes batches of one and of three, and a picture's answer does not depend on its batch-mates."""
    session = session_of(build(tiny(family)))
    pixels = pictures(3)
    (together,) = session.run(["logits"], {"image": pixels})
    for index in range(3):
        (alone,) = session.run(["logits"], {"image": pixels[index : index + 1]})
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, SIDE, SIDE), np.uint8),
        np.zeros((1, SIDE + 1, SIDE + 1, 3), np.uint8),
        np.zeros((1, SIDE, SIDE, 3), np.float32),
    ],
)
def test_what_is_not_bytes_of_the_right_side_is_refused(wrong):
    """Channels first, another resolution or floats do not run at all."""
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT|Unexpected input data type"):
        run(build(tiny("b")), wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_the_softmax_of_the_logits(family):
    """Each row of probabilities is positive, sums to one, and is the softmax of its logits."""
    probabilities, logits = run(build(tiny(family)), pictures(3))
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    odds = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities, odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("class_count", [1, 3, 1001])
def test_any_number_of_classes_works(class_count):
    """The output is as wide as there are classes."""
    architecture = build_architecture(released("lite0"), class_count=class_count)
    probabilities, _ = run(build(architecture), pictures(1, 224))
    assert probabilities.shape == (1, class_count)
    assert probabilities.sum() == pytest.approx(1)


def test_a_network_between_the_released_ones_runs():
    """A custom phi gives a network of its own resolution that builds and answers."""
    scaling = scale(0.4)
    architecture = build_architecture(scaling, class_count=3)
    probabilities, _ = run(build(architecture), pictures(2, scaling.resolution))
    assert scaling.resolution == 236
    assert probabilities.shape == (2, 3)


@pytest.mark.parametrize("std", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan"))])
def test_a_deviation_that_divides_by_nothing_is_refused(std):
    """A standard deviation that is not above zero is refused, and shown."""
    with pytest.raises(ValueError, match="must be positive"):
        build(tiny("b"), normalisation=Normalisation(mean=(0, 0, 0), std=std))


def test_the_bytes_of_a_graph_depend_on_its_inputs_alone():
    """Another process with another hash seed writes the same file to the byte; other weights write another file."""
    script = (
        "import hashlib; from tests.model_store.test_onnx_graph import build, tiny;"
        "print(hashlib.sha256(build(tiny('b')).SerializeToString()).hexdigest())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    assert hashlib.sha256(build(tiny("b")).SerializeToString()).hexdigest() == elsewhere
    assert hashlib.sha256(build(tiny("b"), seed=1).SerializeToString()).hexdigest() != elsewhere
