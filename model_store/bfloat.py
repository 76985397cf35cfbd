"""fp32 graph to one that says it is to be computed in bfloat16: the same nodes, and weights kept in fp32.

bfloat16 has the range of fp32 and seven bits of its fraction: nothing overflows, and there is nothing to calibrate. The
rounding is done by what runs the graph, in the processor's own way; a graph rounded here would be rounded twice. What
runs it must know bfloat16, or it would compute fp32 under another name: `service` refuses that.

Computes nothing. Equal inputs give equal bytes.
"""

from __future__ import annotations

import onnx
from onnx import helper


def to_bfloat(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model`, an fp32 graph of `build_onnx_graph`, whose metadata says bf16."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    del marked.metadata_props[:]
    helper.set_model_props(marked, {**properties, "precision": "bf16"})
    return marked
