"""benchmarks/bf16_rounding.py: numbers as bfloat16 holds them between layers, sums and scores in fp32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.bf16_rounding import rounding

WIDTH = 32


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The nearest number with eight bits of its fraction, the even one of two, as fp32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return nearest.astype(np.uint32).view(np.float32)


def two_layers(first: np.ndarray, second: np.ndarray) -> bytes:
    """Pixels through two layers with a clip between them, and scores."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", ["values", "first"], ["sums"]),
            helper.make_node("Clip", ["sums", "low", "high"], ["clipped"]),
            helper.make_node("Gemm", ["clipped", "second"], ["scores"]),
        ],
        "layers",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", WIDTH])],
        [
            numpy_helper.from_array(first, "first"),
            numpy_helper.from_array(second, "second"),
            numpy_helper.from_array(np.float32(0), "low"),
            numpy_helper.from_array(np.float32(6), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_weights_and_what_layers_hand_on_are_rounded_and_nothing_else():
    """The graph gives what numpy gives with bfloat16 between layers, and scores that are no bfloat16 numbers."""
    generator = np.random.default_rng(0)
    # Of one power of two, so that sums of rounded weights are exact in whatever order: none is rounded two ways.
    first, second = (
        (generator.uniform(1, 2, (WIDTH, WIDTH)) * generator.choice([-scale, scale], (WIDTH, WIDTH))).astype(np.float32)
        for scale in (1 / 64, 1)
    )
    pixels = generator.integers(0, 256, (4, WIDTH), np.uint8)
    session = onnxruntime.InferenceSession(rounding(two_layers(first, second)), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": pixels})
    handed_on = to_bf16(np.clip(pixels.astype(np.float32) @ to_bf16(first), 0, 6))
    assert np.allclose(scores, handed_on @ to_bf16(second), rtol=1e-4, atol=1e-4)
    exact = np.clip(pixels.astype(np.float32) @ first, 0, 6) @ second
    assert np.abs(scores - exact).max() > 10 * np.abs(scores - handed_on @ to_bf16(second)).max()
    assert not np.array_equal(scores, to_bf16(scores))
