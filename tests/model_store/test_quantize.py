"""quantize.py: the int8 graph runs in integers, agrees with fp32, and is the same file every time."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_store.activation_ranges import committed_ranges
from model_store.architecture import build_architecture
from model_store.builder import build_float
from model_store.compound_scaling import Scaling
from model_store.expected_inputs import expected_inputs
from model_store.int8_weights import widest_pairs
from model_store.onnx_graph import Normalisation, build_onnx_graph
from model_store.quantize import (
    measured_tensors,
    quantize,
    scale_and_zero,
    with_extremes,
)
from model_store.sources import from_wheel
from model_store.weights import untrained
from service.runtime.decode import decode_rgb
from service.runtime.preprocess import crop_box
from service.runtime.synthetic_picture import synthetic_picture

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
LITE = ["lite0", "lite1", "lite2"]
IMAGENET = Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def session_of(model, optimised: Path | None = None, *, widened: bool = False):
    """A session as the server has it; `widened` has every product of int8 summed in 32 bits, whatever the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if widened:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model, pixels):
    return session_of(model).run(["probabilities"], {"image": pixels})[0]


class Network:
    """A Lite network of the wheels: its fp32 graph and what makes it int8."""

    def __init__(self, member: str) -> None:
        source = from_wheel(member)
        built = build_float(source)
        self.side = built.architecture.scaling.resolution
        self.normalisation = Normalisation(source.facts.preprocessing.mean, source.facts.preprocessing.std)
        self.exact = built.graph
        self.expected = expected_inputs(built.architecture, built.loaded.weights)
        self.ranges = committed_ranges(member).ranges
        self.int8 = self.quantised()
        self.session = session_of(self.int8)
        self.pixels = pictures(self.side)

    def quantised(self, **options):
        return quantize(self.exact, self.normalisation, self.ranges, self.expected, **options)

    @functools.cached_property
    def plain(self):
        """The int8 graph with the stem as it is written in fp32."""
        return self.quantised(paired_stem=False)

    @functools.cached_property
    def answers(self):
        """What int8 makes of `pixels`."""
        return self.session.run(["probabilities"], {"image": self.pixels})[0]


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {member: Network(member) for member in LITE}


def pictures(side: int):
    """The bundled photographs and a made-up picture, cropped and resized: uint8 [4, side, side, 3]."""
    images = [decode_rgb(path.read_bytes(), side, 10**7) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    images.append(synthetic_picture(400, 300))
    pictures = [(Image.fromarray(image.pixels), crop_box(image.width, image.height, 0.875)) for image in images]
    crops = [picture.crop(box) for picture, box in pictures]
    return np.stack([np.asarray(crop.resize((side, side))) for crop in crops])


def tiny(family: str, side: int, seed: int = 1):
    """A small network of `family` as fp32 graph, expected inputs, pixels, and the ranges that those pixels give."""
    architecture = build_architecture(Scaling("tiny", family, 0.25, 1.0, side, 0.875), class_count=5)
    weights = untrained(architecture, seed=seed)
    model = build_onnx_graph(architecture, weights, IMAGENET, with_logits=True)
    expected = expected_inputs(architecture, weights)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, side, side, 3), np.uint8)
    tensors = measured_tensors(model, expected)
    outputs = session_of(with_extremes(model, tensors)).run(None, {"image": pixels})
    lows, highs = outputs[::2], outputs[1::2]
    ranges = {t: (float(low.min()), float(high.max())) for t, low, high in zip(tensors, lows, highs, strict=True)}
    return model, expected, pixels, ranges


@pytest.mark.parametrize("member", LITE)
def test_int8_agrees_with_fp32(member, networks):
    """On photographs and a made-up picture no probability is off by a tenth, and the best class is the same."""
    network = networks[member]
    exact, int8 = run(network.exact, network.pixels), network.answers
    assert np.abs(exact - int8).max() < 0.1
    assert (exact.argmax(axis=1) == int8.argmax(axis=1))[:3].all()
    np.testing.assert_allclose(int8.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("member", LITE)
def test_everything_between_pixels_and_logits_runs_in_integers(member, networks, tmp_path):
    """ONNX Runtime fuses every convolution, skip, pooling and dense layer; not one value is converted on the way."""
    network = networks[member]
    session_of(network.int8, tmp_path / "optimised.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    written = Counter(node.op_type for node in network.exact.graph.node)
    assert kinds["QLinearConv"] == written["Conv"]
    assert kinds["QLinearAdd"] == written["Add"]
    assert kinds["QGemm"] == kinds["QLinearGlobalAveragePool"] == 1
    assert not kinds.keys() & {"Conv", "FusedConv", "QuantizeLinear", "DequantizeLinear", "Cast", "Clip", "Gemm"}


@pytest.mark.parametrize("member", LITE)
def test_no_sum_of_two_products_overflows_16_bits(member, networks):
    """Weights that are neighbours in memory sum to 128 at most, but for depthwise layers, in both forms of the stem."""
    network = networks[member]
    for graph in (network.int8, network.plain):
        kernels = [onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name.endswith("kernel.integers")]
        dense = [kernel for kernel in kernels if kernel.shape[1] > 1]
        assert len(dense) > len(kernels) / 2
        assert max(widest_pairs(kernel).max() for kernel in dense) <= 128


@pytest.mark.parametrize("member", LITE)
def test_every_processor_gives_the_same_answer(member, networks):
    """The fast kernels give what those give that widen first, to the bit, for photographs, white, noise and stripes."""
    network, rng = networks[member], np.random.default_rng(0)
    shape = (1, network.side, network.side, 3)
    hard = [np.full(shape, 255), rng.integers(0, 256, shape), 255 * rng.integers(0, 2, shape)]
    pixels = np.concatenate([network.pixels, *(picture.astype(np.uint8) for picture in hard)])
    exact, inputs = session_of(network.int8, widened=True), {"image": pixels}
    fast = network.session.run(["probabilities"], inputs)[0]
    np.testing.assert_array_equal(fast, exact.run(["probabilities"], inputs)[0])


def test_a_batch_gives_each_picture_what_it_gets_alone(networks):
    """A picture's answer does not depend on its batch-mates, to the last bit: sums of integers have no order."""
    network = networks["lite0"]
    for index, together in enumerate(network.answers):
        (alone,) = network.session.run(["probabilities"], {"image": network.pixels[index : index + 1]})
        np.testing.assert_array_equal(alone[0], together)


@pytest.mark.parametrize("member", LITE)
def test_the_paired_stem_is_the_stem(member, networks):
    """Making two pixels at once gives exactly what making one at a time does."""
    network = networks[member]
    np.testing.assert_array_equal(network.answers, run(network.plain, network.pixels))


@pytest.mark.parametrize("side", [32, 33, 34])
@pytest.mark.parametrize("family", ["b", "lite"])
def test_any_side_and_family_can_be_quantised(family, side):
    """Swish, squeeze-excite, means that are no integers and sides that come in no fours: logits stay close.

    As close as layers of a few channels let them; and they are the same on every processor.
    """
    model, expected, pixels, ranges = tiny(family, side)
    int8, inputs = quantize(model, IMAGENET, ranges, expected), {"image": pixels}
    exact, close = (session_of(graph).run(["logits"], inputs)[0] for graph in (model, int8))
    assert np.abs(exact - close).max() < 0.2 * np.abs(exact).max()
    np.testing.assert_array_equal(close, session_of(int8, widened=True).run(["logits"], inputs)[0])


def test_squeeze_excite_stays_float():
    """Of a B network every convolution is quantised but the two on pooled means, which cost next to nothing."""
    model, expected, _, ranges = tiny("b", 32)
    nodes = quantize(model, IMAGENET, ranges, expected).graph.node
    quantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    floats = {node.name for node in nodes if node.op_type == "Conv" and not quantised.issuperset(node.input[1:2])}
    assert floats == {node.name for node in nodes if node.op_type == "Conv" and "squeeze_excite" in node.name}
    assert floats


def test_extremes_are_those_of_the_tensors():
    """The outputs for measuring are each tensor's lowest and highest value in each picture."""
    model, expected, pixels, _ = tiny("lite", 32)
    tensors = measured_tensors(model, expected)
    names = [output.name for output in with_extremes(model, tensors).graph.output]
    found = dict(zip(names, session_of(with_extremes(model, tensors)).run(None, {"image": pixels}), strict=True))
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(t, onnx.TensorProto.FLOAT, None) for t in tensors)
    for tensor, values in zip(tensors, session_of(shown).run(list(tensors), {"image": pixels}), strict=True):
        np.testing.assert_allclose(found[f"{tensor}.low"], values.min(axis=(1, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(found[f"{tensor}.high"], values.max(axis=(1, 2, 3)), atol=1e-4)


def test_a_tensor_without_a_range_is_named():
    """Leaving out a range does not quietly leave a tensor in float."""
    model, expected, _, ranges = tiny("lite", 32)
    del ranges["head.pool"]
    with pytest.raises(KeyError, match=r"head\.pool"):
        quantize(model, IMAGENET, ranges, expected)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_zero_is_on_every_grid(one, other):
    """Whatever the range, 0 is a level of its own, and the levels reach both ends to within half a step."""
    low, high = min(one, other), max(one, other) + 1e-3
    scale, zero = scale_and_zero(low, high)
    assert scale > 0
    lowest, highest = ((level - float(zero)) * float(scale) for level in (0, 255))
    assert lowest <= 0 <= highest
    assert lowest <= low + 0.51 * float(scale)
    assert highest >= high - 0.51 * float(scale)


def test_the_bytes_of_a_graph_depend_on_its_inputs_alone():
    """Another process with another hash seed writes the same file to the byte; other ranges write another file."""

    def digest(change: float = 0.0) -> str:
        model, expected, _, ranges = tiny("b", 32)
        ranges["head.pool"] = (ranges["head.pool"][0], ranges["head.pool"][1] + change)
        return hashlib.sha256(quantize(model, IMAGENET, ranges, expected).SerializeToString()).hexdigest()

    script = (
        "import hashlib; from tests.model_store.test_quantize import IMAGENET, quantize, tiny;"
        "model, expected, _, ranges = tiny('b', 32);"
        "print(hashlib.sha256(quantize(model, IMAGENET, ranges, expected).SerializeToString()).hexdigest())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    assert digest() == elsewhere
    assert digest(1.0) != elsewhere
