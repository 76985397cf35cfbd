"""fp32 graph and activation ranges to an int8 graph: QuantizeLinear and DequantizeLinear around what runs in integers.

Written node by node onto our own graph, not by `onnxruntime.quantization`: that knows neither that the pixels already
are integers, nor the batch norms from which the bias is corrected, nor which form of the stem is fast.

- Pixels go into the first convolution as they are: their zero point is the mean, so no float touches a picture.
- Weights: int8, symmetric, one scale per output channel. Activations: uint8 with one scale; ReLU6 is the end of its
  range and needs no node. Biases: int32, corrected for what rounding the weights shifts (see `expected_inputs.py`).
  `int8_weights.py` rounds, so that no processor's sums overflow.
- Squeeze-excite stays float between its pooled input and its gate: a thousandth of the work, most of the risk.

Measures nothing: ranges come in. Equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.int8_weights import PAIRED_PIXELS, paired_kernel, quantised_weights, widest_pairs
from model_store.manifest import SAFE_SUMS
from model_store.onnx_graph import INPUT_NAME, Normalisation

Array = npt.NDArray[np.generic]

_LEVELS = 255
_UNIT = (0.0, 1.0)
"""What a sigmoid gives, whatever goes in."""
_USUAL_PIXEL = (0.485 * 255, 0.456 * 255, 0.406 * 255)
"""The mean red, green and blue of ImageNet's pictures: what the stem expects, whatever mean its network takes off."""


def measured_tensors(model: onnx.ModelProto, layers: Collection[str]) -> tuple[str, ...]:
    """The tensors of the fp32 `model` whose range an int8 graph needs, in order; `layers` are those to be quantised."""
    clipped = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Clip"}
    floats: set[str] = set()
    measured: list[str] = []
    for node in model.graph.node:
        out = node.output[0]
        if (node.op_type == "Conv" and _layer(node) not in layers) or (
            node.op_type in {"Sigmoid", "Mul"} and floats.issuperset(node.input)
        ):
            floats.add(out)
        elif node.op_type in {"Conv", "Mul", "Add", "GlobalAveragePool"}:
            measured.append(clipped.get(out, out))
    return tuple(measured)


def with_extremes(model: onnx.ModelProto, tensors: Collection[str]) -> onnx.ModelProto:
    """`model` with the outputs `<tensor>.low` and `<tensor>.high`, float32 [batch], and no others."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    for tensor in tensors:
        for kind, end in (("ReduceMin", "low"), ("ReduceMax", "high")):
            name = f"{tensor}.{end}"
            extended.graph.node.append(helper.make_node(kind, [tensor], [name], name=name, axes=[1, 2, 3], keepdims=0))
            extended.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]))
    onnx.checker.check_model(extended, full_check=True)
    return extended


def quantize(
    model: onnx.ModelProto,
    normalisation: Normalisation,
    ranges: Mapping[str, tuple[float, ...]],
    expected_inputs: Mapping[str, npt.NDArray[np.float64]],
    *,
    paired_stem: bool = True,
) -> onnx.ModelProto:
    """`model`, an fp32 graph of `build_onnx_graph`, as a checked int8 graph with the same input and outputs.

    `ranges`: (lowest, highest) of each of `measured_tensors`. `expected_inputs`: the layers to quantise, each with the
    mean of its input channels. `paired_stem` lets the stem make two neighbouring pixels at once from groups of four,
    the same sums in another order: ONNX Runtime's kernels for these instructions want input channels in fours, and
    pixels have three. It saves 8 % of Lite0 there and costs 30 % under OpenVINO, which reorders around it.

    Raises:
        KeyError: a tensor of `measured_tensors` without a range.
    """
    walk = _Walk(model, normalisation, ranges, expected_inputs, paired_stem=paired_stem)
    for node in model.graph.node:
        walk.take(node)
    graph = helper.make_graph(
        walk.nodes, model.graph.name, list(model.graph.input), list(model.graph.output), walk.initialisers
    )
    quantised = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name=model.producer_name
    )
    properties = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(quantised, {**properties, "precision": "int8", SAFE_SUMS: "16 bit"})
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def scale_and_zero(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 for values from `low` to `high`, widened to hold 0, which padding needs exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / _LEVELS)
    return scale, np.uint8(np.rint(-low / scale))


@dataclass(frozen=True, slots=True)
class _Activation:
    """A tensor in integers: their name, the names of scale and zero point, and the scale itself."""

    integers: str
    grid: tuple[str, str]
    scale: float


class _Walk:
    """Takes the nodes of the fp32 graph in order and collects those of the int8 graph."""

    def __init__(
        self,
        model: onnx.ModelProto,
        normalisation: Normalisation,
        ranges: Mapping[str, tuple[float, ...]],
        expected_inputs: Mapping[str, npt.NDArray[np.float64]],
        *,
        paired_stem: bool,
    ) -> None:
        self._tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._clipped = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Clip"}
        self._side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        self._mean = np.array(normalisation.mean, np.float64)
        self._ranges = ranges
        self._expected = expected_inputs
        self._paired_stem = paired_stem
        self._activations: dict[str, _Activation] = {}
        self._read: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def take(self, node: onnx.NodeProto) -> None:
        """Add what stands for `node` in integers."""
        if node.op_type in {"Cast", "Transpose", "Sub", "Clip"}:
            return  # the input's nodes, done by the stem, and ReLU6, done by its range
        if node.op_type == "Conv" and INPUT_NAME not in self._activations:
            self._stem(node)
        elif node.op_type == "Conv" and _layer(node) in self._expected:
            self._layer(node)
            self._quantise(node.output[0], self._clipped.get(node.output[0], node.output[0]))
        elif node.op_type == "Gemm":
            self._layer(node)
        elif node.op_type == "Flatten":
            self._flatten(node)
        elif node.op_type in {"Sigmoid", "Mul"} and not self._activations.keys() & set(node.input):
            self._copy(node)  # inside squeeze-excite
        elif node.op_type in {"Sigmoid", "Mul", "Add", "GlobalAveragePool"}:
            self._elementwise(node)
        else:
            self._copy(node)

    def _stem(self, node: onnx.NodeProto) -> None:
        kernel, bias = self._tensors[node.input[1]], self._tensors[node.input[2]]
        # One zero point for three channels: what is left of each mean goes into the bias, exact but for the padding.
        zero = np.uint8(np.rint(self._mean.mean()))
        bias = bias + (kernel.sum(axis=(2, 3), dtype=np.float64) @ (float(zero) - self._mean))
        grid = (self._constant("image.scale", np.float32(1)), self._constant("image.zero", zero))
        usual = np.array(_USUAL_PIXEL) - self._mean
        # Both forms of the stem are the same integers, so both orders of summing have to be safe.
        pairs = widest_pairs(paired_kernel(kernel)).reshape(2, -1).max(axis=0)
        integers, scale, offsets = quantised_weights(kernel, bias.astype(np.float32), 1.0, usual, other_order=pairs)
        attributes: dict[str, Any] = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        paired = self._paired_stem and self._side % PAIRED_PIXELS == 0 and attributes["pads"] == [0, 0, 1, 1]
        pixels = INPUT_NAME
        if paired:
            integers, scale, offsets = paired_kernel(integers), np.tile(scale, 2), np.tile(offsets, 2)
            attributes |= {"kernel_shape": [3, 2], "strides": [2, 1]}
            pixels = self._reshape(pixels, "image.fours", [0, self._side, self._side // 4, 12])
        planes = self._node("Transpose", [pixels], "image.planes", perm=[0, 3, 1, 2])
        self._activations[INPUT_NAME] = _Activation(planes, grid, 1.0)
        weights = self._weights("stem", integers, scale, offsets, 1.0)
        out, name = node.output[0], self._clipped.get(node.output[0], node.output[0])
        self._node("Conv", [self._floats(INPUT_NAME), *weights], out, **attributes)
        quantised = self._quantise(out, name)
        if paired:
            rows = self._node("Transpose", [quantised.integers], f"{name}.pairs", perm=[0, 2, 3, 1])
            side = self._side // 2
            apart = self._reshape(rows, f"{name}.rows", [0, side, side, len(kernel)])
            planes = self._node("Transpose", [apart], f"{name}.planes", perm=[0, 3, 1, 2])
            self._activations[name] = replace(quantised, integers=planes)

    def _layer(self, node: onnx.NodeProto) -> None:
        """A convolution or dense layer on integers, with its result in float."""
        source, name = self._activations[node.input[0]], _layer(node)
        expected = self._expected[name]
        kernel, bias = self._tensors[node.input[1]], self._tensors[node.input[2]]
        integers, scale, offsets = quantised_weights(kernel, bias, source.scale, expected)
        inputs = (self._floats(node.input[0]), *self._weights(name, integers, scale, offsets, source.scale))
        made = helper.make_node(node.op_type, inputs, list(node.output), name=node.output[0])
        made.attribute.extend(node.attribute)
        self.nodes.append(made)

    def _weights(
        self, name: str, integers: Array, scale: npt.NDArray[np.float32], offsets: Array, input_scale: float
    ) -> tuple[str, str]:
        def part(part: str, values: Array, grid: npt.NDArray[np.float32]) -> str:
            inputs = [
                self._constant(f"{name}.{part}.integers", values),
                self._constant(f"{name}.{part}.scale", grid),
                self._constant(f"{name}.{part}.zero", np.zeros(len(grid), values.dtype)),
            ]
            return self._node("DequantizeLinear", inputs, f"{name}.{part}", axis=0)

        return part("kernel", integers, scale), part("bias", offsets, scale * np.float32(input_scale))

    def _elementwise(self, node: onnx.NodeProto) -> None:
        inputs = []
        for tensor in node.input:
            if tensor not in self._activations:  # the gate of a squeeze-excite, which is a sigmoid
                self._quantise(tensor, tensor, _UNIT)
            inputs.append(self._floats(tensor))
        self._node(node.op_type, inputs, node.output[0])
        self._quantise(node.output[0], node.output[0], _UNIT if node.op_type == "Sigmoid" else None)

    def _flatten(self, node: onnx.NodeProto) -> None:
        source = self._activations[node.input[0]]
        flat = self._node("Flatten", [source.integers], node.output[0], axis=1)
        self._activations[node.output[0]] = replace(source, integers=flat)

    def _quantise(self, source: str, name: str, limits: tuple[float, ...] | None = None) -> _Activation:
        """Put the floats `source` on the grid of the tensor `name`."""
        low, high = limits or self._ranges[name]
        scale, zero = scale_and_zero(low, high)
        grid = (self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero", zero))
        integers = self._node("QuantizeLinear", [source, *grid], f"{name}.integers")
        self._activations[name] = _Activation(integers, grid, float(scale))
        return self._activations[name]

    def _floats(self, tensor: str) -> str:
        """The floats that the integers of `tensor` stand for: one node, made for its first reader."""
        if tensor not in self._read:
            activation = self._activations[tensor]
            inputs = [activation.integers, *activation.grid]
            self._read[tensor] = self._node("DequantizeLinear", inputs, f"{tensor}.values")
        return self._read[tensor]

    def _copy(self, node: onnx.NodeProto) -> None:
        """Keep a float node, with integers that it reads made float."""
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        for index, tensor in enumerate(node.input):
            if tensor in self._activations:
                kept.input[index] = self._floats(tensor)
            elif tensor in self._tensors:
                self._constant(tensor, self._tensors[tensor])
        self.nodes.append(kept)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _reshape(self, source: str, output: str, shape: list[int]) -> str:
        return self._node("Reshape", [source, self._constant(f"{output}.shape", np.array(shape, np.int64))], output)

    def _constant(self, name: str, values: Array | np.generic) -> str:
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name))
        return name


def _layer(node: onnx.NodeProto) -> str:
    """The architecture's name of the layer that a Conv or Gemm node computes."""
    return "classifier" if node.op_type == "Gemm" else node.output[0].removesuffix(".out")
