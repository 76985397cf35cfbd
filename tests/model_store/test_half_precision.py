"""half_precision.py: fp16 inside, the same input and outputs, the same answers, and the same file every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from model_store.architecture import build_architecture
from model_store.builder import build_float
from model_store.compound_scaling import Scaling
from model_store.half_precision import HalfPrecisionError, to_half
from model_store.onnx_graph import Normalisation, build_onnx_graph
from model_store.sources import from_wheel
from model_store.weights import untrained
from service.runtime.decode import decode_rgb
from service.runtime.preprocess import preprocess
from tests.fakes.colour_models import variant_of

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
SIDE = 33
IMAGENET = Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def tiny(family: str) -> onnx.ModelProto:
    """A network of `family` with every kind of block, and few channels."""
    architecture = build_architecture(Scaling("tiny", family, 0.25, 1.0, SIDE, 0.875), class_count=30)
    return build_onnx_graph(architecture, untrained(architecture, seed=0), IMAGENET)


def run(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["probabilities", "top_probabilities", "top_classes"], {"image": pixels})


@pytest.mark.parametrize("family", ["b", "lite"])
def test_everything_inside_is_half_precision(family):
    """No weight and no tensor before the scores is float32; input and outputs are declared as they were."""
    exact = tiny(family)
    half = to_half(exact)
    assert not [tensor.name for tensor in half.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    inferred = onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    floats = [
        value.name for value in inferred.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    assert floats == ["logits.exact"]
    assert (half.graph.input, half.graph.output) == (exact.graph.input, exact.graph.output)
    assert len(half.SerializeToString()) < 0.6 * len(exact.SerializeToString())


@pytest.mark.parametrize("family", ["b", "lite"])
def test_the_best_classes_are_sorted_by_what_goes_out(family):
    """Probabilities of fp16 sum to one, and the best of them are those of a stable sort."""
    probabilities, best, classes = run(to_half(tiny(family)), np.full((2, SIDE, SIDE, 3), 99, np.uint8))
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])
    expected = np.argsort(-probabilities, axis=1, kind="stable")[:, : classes.shape[1]]
    assert np.array_equal(classes, expected)
    assert np.array_equal(best, np.take_along_axis(probabilities, expected, axis=1))


def test_photographs_get_the_same_answer():
    """Lite0 in fp16 puts real photographs into the class that fp32 does, and is as sure of it within a hundredth."""
    network = build_float(from_wheel("lite0"))
    side = network.architecture.scaling.resolution
    paths = sorted(PHOTOGRAPHS.glob("*.jpg"))
    batch = np.empty((len(paths), side, side, 3), np.uint8)
    for path, row in zip(paths, batch, strict=True):
        preprocess(decode_rgb(path.read_bytes(), 300, 50_000_000), variant_of(resolution=side), row)
    exact, half = run(network.graph, batch)[0], run(to_half(network.graph), batch)[0]
    assert np.array_equal(exact.argmax(axis=1), half.argmax(axis=1))
    assert np.abs(exact - half).max() < 0.01


def test_equal_graphs_give_equal_bytes():
    """What is built follows from the fp32 graph alone, and leaves it as it was."""
    exact = tiny("b")
    before = exact.SerializeToString(deterministic=True)
    first, second = (to_half(exact).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert exact.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("value", [7e4, -1e9, np.nan])
def test_weights_that_do_not_fit_are_refused(value):
    """A weight that half precision cannot hold is an error that names it, not an infinity in the file."""
    exact = tiny("lite")
    tensor = next(t for t in exact.graph.initializer if t.name == "classifier.bias")
    values = numpy_helper.to_array(tensor).copy()
    values[3] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(HalfPrecisionError, match=r"classifier\.bias"):
        to_half(exact)
