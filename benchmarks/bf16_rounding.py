"""What bfloat16 does to a network's numbers, on a processor that has none: an fp32 graph that rounds as it goes.

Weights, and what every layer hands on, are rounded to bfloat16; sums are kept in fp32, as processors with bfloat16 keep
them. From the classifier's scores on all is fp32, as OpenVINO leaves the end of a graph. It tells what the format costs
in accuracy, not what one processor's kernels answer to the last bit, and nothing about time.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

_ROUND = (("bf16", TensorProto.BFLOAT16), ("fp32", TensorProto.FLOAT))
_WEIGHTED = ("Conv", "Gemm")
"""Layers that sum products with weights, their second input."""
_ON_SUMS = "Clip"
"""What is done on the sums of a layer that nothing else sees, before they are rounded."""


def rounding(model: bytes) -> bytes:
    """The fp32 graph `model`, one of ours, with every rounding that bfloat16 brings; the same input and outputs."""
    rounded = onnx.load_from_string(model)
    nodes = list(rounded.graph.node)
    scores = max(index for index, node in enumerate(nodes) if node.op_type in _WEIGHTED)
    takers: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            takers.setdefault(name, []).append(node.op_type)
    made: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}

    def round_off(name: str) -> None:
        renamed[name] = name
        for suffix, to in _ROUND:
            made.append(helper.make_node("Cast", [renamed[name]], [f"{name}.{suffix}"], to=to))
            renamed[name] = f"{name}.{suffix}"

    for index, node in enumerate(nodes):
        if node.op_type in _WEIGHTED and node.input[1] not in renamed:
            round_off(node.input[1])
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        made.append(node)
        (output, *_) = node.output
        if index < scores and not (node.op_type in _WEIGHTED and set(takers[output]) == {_ON_SUMS}):
            round_off(output)
    del rounded.graph.node[:]
    rounded.graph.node.extend(made)
    onnx.checker.check_model(rounded)
    return rounded.SerializeToString()
