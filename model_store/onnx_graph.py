"""Architecture and weights to an ONNX graph: the export, built node by node, with no framework in between.

Input `image`: uint8 [batch, side, side, 3], RGB. Outputs `probabilities`: float32 [batch, classes], and the most
probable of them, falling: `top_probabilities`, float32, and `top_classes`, int64, both [batch, `TOP_CLASSES`]. So
normalisation, softmax and the sorting are inside: pixels travel as bytes, and nothing is computed on what comes out.
Batch norms are folded into their convolutions, in float64. TensorFlow's SAME padding is explicit, since the input's
side is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.architecture import BATCH_NORM_EPSILON, Architecture, Block, Conv, SqueezeExcite
from model_store.weights import Weights

OPSET = 17
"""The newest that every ONNX Runtime since 1.13, TensorRT since 8.6 and OpenVINO since 2023 run whole; later opsets
add nothing that these networks use."""

IR_VERSION = 8
"""The file format that goes with opset 17."""

OnnxGraph: TypeAlias = onnx.ModelProto
"""A whole model file in memory, for those who hand one on and need no onnx for that."""

INPUT_NAME = "image"
OUTPUT_NAME = "probabilities"
LOGITS_NAME = "logits"
TOP_NAMES = ("top_probabilities", "top_classes")

TOP_CLASSES = 20
"""How many classes are sorted inside the graph, or all where there are fewer."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """(pixel - mean) / std per RGB channel, in units of 0..255 pixels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def build_onnx_graph(
    architecture: Architecture, weights: Weights, normalisation: Normalisation, *, with_logits: bool = False
) -> onnx.ModelProto:
    """The network as a checked ONNX model; `with_logits` adds the scores before softmax as another output.

    Raises:
        ValueError: a standard deviation that is not positive.
        onnx.checker.ValidationError: never, unless this module is wrong.
    """
    if not all(deviation > 0 for deviation in normalisation.std):  # a NaN is not above 0 either
        raise ValueError(f"standard deviations must be positive, got {normalisation.std}")
    builder = _Builder(weights)
    pixels = _input(builder, normalisation)
    features = builder.activated(pixels, architecture.stem, architecture.activation, stem=normalisation)
    for block in architecture.blocks:
        features = _block(builder, features, block, architecture.activation)
    features = builder.activated(features, architecture.head, architecture.activation)
    pooled = builder.node(
        "Flatten", [builder.node("GlobalAveragePool", [features], "head.pool")], "head.flatten", axis=1
    )
    dense = [builder.constant("classifier.weight", weights["classifier.weight"])]
    dense.append(builder.constant("classifier.bias", weights["classifier.bias"]))
    builder.node("Gemm", [pooled, *dense], LOGITS_NAME, transB=1)
    builder.node("Softmax", [LOGITS_NAME], OUTPUT_NAME, axis=1)
    builder.top_classes(OUTPUT_NAME, _top_count(architecture))
    return _model(builder, architecture, with_logits=with_logits)


def _input(builder: _Builder, normalisation: Normalisation) -> str:
    """NHWC bytes to NCHW floats with the mean taken off, padded for the stem.

    The division by the standard deviation is folded into the stem. The mean is not: SAME pads with the normalised
    zero, so a folded mean would be wrong along the border.
    """
    floats = builder.node("Cast", [INPUT_NAME], "image.float", to=TensorProto.FLOAT)
    planes = builder.node("Transpose", [floats], "image.planes", perm=[0, 3, 1, 2])
    mean = np.array(normalisation.mean, np.float32).reshape(1, 3, 1, 1)
    return builder.node("Sub", [planes, builder.constant("image.mean", mean)], "image.centred")


def _block(builder: _Builder, features: str, block: Block, activation: str) -> str:
    inner = features
    if block.expand is not None:
        inner = builder.activated(inner, block.expand, activation)
    inner = builder.activated(inner, block.depthwise, activation)
    if block.squeeze_excite is not None:
        inner = _squeeze_excite(builder, inner, block.squeeze_excite)
    projected = builder.conv(inner, block.project)
    if not block.has_skip:
        return projected
    return builder.node("Add", [projected, features], f"{block.project.name}.skip")


def _squeeze_excite(builder: _Builder, features: str, layer: SqueezeExcite) -> str:
    """Scale each channel by a gate computed from all channel means."""
    means = builder.node("GlobalAveragePool", [features], f"{layer.name}.pool")
    reduced = builder.dense_conv(means, f"{layer.name}.reduce")
    gate = builder.dense_conv(builder.swish(reduced, f"{layer.name}.reduce"), f"{layer.name}.expand")
    scale = builder.node("Sigmoid", [gate], f"{layer.name}.gate")
    return builder.node("Mul", [features, scale], f"{layer.name}.out")


class _Builder:
    """Collects nodes and initialisers; each method adds some and returns the name of their output."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add one node with one output; its name is its output's."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: npt.NDArray[np.float32]) -> str:
        """Add an initialiser."""
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def conv(self, features: str, conv: Conv, *, stem: Normalisation | None = None) -> str:
        """A convolution with its batch norm folded in, and for the stem the normalisation's scale too."""
        kernel, bias = fold_batch_norm(self.weights, conv.name)
        if stem is not None:
            kernel = kernel / np.array(stem.std, np.float64).reshape(1, 3, 1, 1)
        inputs = [
            features,
            self.constant(f"{conv.name}.kernel", kernel.astype(np.float32)),
            self.constant(f"{conv.name}.bias", bias.astype(np.float32)),
        ]
        before, after = conv.padding
        return self.node(
            "Conv",
            inputs,
            f"{conv.name}.out",
            kernel_shape=[conv.kernel, conv.kernel],
            strides=[conv.stride, conv.stride],
            pads=[before, before, after, after],
            group=conv.groups,
        )

    def activated(self, features: str, conv: Conv, activation: str, *, stem: Normalisation | None = None) -> str:
        """`conv`, then the network's activation."""
        out = self.conv(features, conv, stem=stem)
        return self.swish(out, conv.name) if activation == "swish" else self.relu6(out, conv.name)

    def swish(self, features: str, name: str) -> str:
        """Sigmoid(x) * x, as two nodes: the fastest of the forms on ONNX Runtime's CPU provider."""
        return self.node("Mul", [features, self.node("Sigmoid", [features], f"{name}.sigmoid")], f"{name}.swish")

    def relu6(self, features: str, name: str) -> str:
        """Clip to 0..6."""
        if not any(tensor.name == "relu6.low" for tensor in self.initialisers):
            self.constant("relu6.low", np.array(0, np.float32))
            self.constant("relu6.high", np.array(6, np.float32))
        return self.node("Clip", [features, "relu6.low", "relu6.high"], f"{name}.relu6")

    def top_classes(self, probabilities: str, count: int) -> None:
        """The `count` largest with their indices; of equal ones the lower index comes first, as the operator says."""
        self.initialisers.append(numpy_helper.from_array(np.array([count], np.int64), "top.count"))
        inputs = [probabilities, "top.count"]
        self.nodes.append(helper.make_node("TopK", inputs, list(TOP_NAMES), name=TOP_NAMES[0], axis=1))

    def dense_conv(self, features: str, name: str) -> str:
        """A 1x1 convolution with a bias and no batch norm."""
        inputs = [self.constant(f"{name}.{part}", self.weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.node("Conv", [features, *inputs], f"{name}.out", kernel_shape=[1, 1])


def fold_batch_norm(weights: Weights, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Kernel and bias, float64, of the convolution `name` followed by its batch norm in inference mode."""
    gamma, beta, mean, variance = (
        weights[f"{name}.norm.{part}"].astype(np.float64) for part in ("gamma", "beta", "mean", "variance")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    kernel = weights[f"{name}.weight"].astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    return kernel, beta - mean * scale


def _top_count(architecture: Architecture) -> int:
    return min(TOP_CLASSES, architecture.class_count)


def _model(builder: _Builder, architecture: Architecture, *, with_logits: bool) -> onnx.ModelProto:
    side, classes = architecture.scaling.resolution, architecture.class_count
    image = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", side, side, 3])
    scores = [OUTPUT_NAME, LOGITS_NAME] if with_logits else [OUTPUT_NAME]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes]) for name in scores]
    for name, kind in zip(TOP_NAMES, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
        outputs.append(helper.make_tensor_value_info(name, kind, ["batch", _top_count(architecture)]))
    graph = helper.make_graph(
        builder.nodes,
        f"efficientnet_{architecture.scaling.member}",
        [image],
        outputs,
        builder.initialisers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="phiserve",
    )
    helper.set_model_props(model, {"member": architecture.scaling.member, "resolution": str(side)})
    onnx.checker.check_model(model, full_check=True)
    return model
