"""fp32 graph to an fp16 graph: the same nodes with weights and activations in half precision, for graphics processors.

Pixels still come in as bytes and probabilities still go out as float32: the classifier's scores are made float32 before
softmax, so that a thousand small probabilities keep their digits and their order. Pixel values are whole numbers up to
255, which half precision holds exactly.

Written onto our own graph, where it takes a change of types and one node; a general converter would add pairs of casts
around what it does not know. Measures nothing. Equal inputs give equal bytes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.onnx_graph import LOGITS_NAME

_EXACT_SCORES = f"{LOGITS_NAME}.exact"


class HalfPrecisionError(ValueError):
    """Weights that half precision cannot hold. The message names the tensor."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, an fp32 graph of `build_onnx_graph`, as a checked fp16 graph with the same input and outputs.

    Raises:
        HalfPrecisionError: a weight beyond 65504, the largest number there is in half precision.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    initialisers = [_to_half(tensor) for tensor in graph.initializer]
    del graph.initializer[:]
    graph.initializer.extend(initialisers)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Cast":
            node.attribute[0].CopyFrom(helper.make_attribute("to", TensorProto.FLOAT16))
        elif node.op_type == "Softmax":
            graph.node.append(
                helper.make_node("Cast", [LOGITS_NAME], [_EXACT_SCORES], name=_EXACT_SCORES, to=TensorProto.FLOAT)
            )
            node.input[0] = _EXACT_SCORES
        graph.node.append(node)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    del half.metadata_props[:]
    helper.set_model_props(half, {**properties, "precision": "fp16"})
    onnx.checker.check_model(half, full_check=True)
    return half


def _to_half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    values = numpy_helper.to_array(tensor)
    if not (np.abs(values) <= np.finfo(np.float16).max).all():  # a NaN is no smaller
        raise HalfPrecisionError(f"{tensor.name} holds {np.abs(values).max():g}, half precision ends at 65504")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)
