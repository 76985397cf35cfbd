"""Tiny real networks that tell red, green and blue pictures apart, as graphs and as catalogue entries over files.

They keep the house's graph conventions, so everything that runs an EfficientNet runs them, in microseconds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.catalogue import CatalogueEntry
from model_store.labels import Label
from model_store.manifest import Accuracy, FileDigest, Manifest, ModelVariant, Provenance

SORTED_COUNT = 4
"""So few, that tests also ask for more classes than the graph sorts."""


def variant_of(
    name: str = "tiny", resolution: int = 16, crop_fraction: float = 0.875, class_count: int = 3
) -> ModelVariant:
    return ModelVariant(
        name=name,
        member=name,
        precision="fp32",
        resolution=resolution,
        crop_fraction=crop_fraction,
        interpolation="bicubic",
        class_count=class_count,
        top1=None,
        trained=False,
    )


def colour_graph(resolution: int = 16, class_count: int = 3, sharpness: float = 40.0) -> bytes:
    """Red, green and blue are classes 0, 1, 2; further classes come after them, the lower index first."""
    weights = np.tile(-np.arange(class_count, dtype=np.float32), (3, 1))
    weights[:, :3] = np.eye(3) * sharpness
    sorted_count = min(SORTED_COUNT, class_count)
    shape = ["batch", resolution, resolution, 3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["values", "sides"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "scale"], ["unit"]),
            helper.make_node("MatMul", ["unit", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
            helper.make_node("TopK", ["probabilities", "count"], ["top_probabilities", "top_classes"]),
        ],
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", class_count]),
            helper.make_tensor_value_info("top_probabilities", TensorProto.FLOAT, ["batch", sorted_count]),
            helper.make_tensor_value_info("top_classes", TensorProto.INT64, ["batch", sorted_count]),
        ],
        [
            numpy_helper.from_array(np.array([sorted_count], np.int64), "count"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "sides"),
            numpy_helper.from_array(np.array([255], np.float32), "scale"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def colour_entry(root: Path, name: str = "tiny", resolution: int = 16, class_count: int = 3) -> CatalogueEntry:
    """Write such a network under `root` and describe it as the catalogue would."""
    model = colour_graph(resolution, class_count)
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    variant = variant_of(name, resolution, class_count=class_count)
    manifest = Manifest(
        schema_version=1,
        variant=variant,
        accuracy=Accuracy(None, None, "unknown", "made by a test", None),
        provenance=Provenance("file", "test", None, "CC0-1.0", None, "0" * 64),
        opset=18,
        ir_version=10,
        parameters=3 * class_count,
        flops=1,
        files={"model.onnx": FileDigest(hashlib.sha256(model).hexdigest(), len(model))},
    )
    labels = tuple(Label(index, None, f"class {index}") for index in range(class_count))
    return CatalogueEntry(variant, manifest, folder, labels)
