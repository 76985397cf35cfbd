"""Small versions of variants, with everything a real one has but a graph, for tests of the store itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

from model_store.labels import Label, LabelSet
from model_store.manifest import SCHEMA_VERSION, Accuracy, FileDigest, Manifest, ModelVariant, Provenance
from model_store.store_writer import StoreDisk, VersionContent, open_writer

LABELS = LabelSet("test", (Label(0, None, "cat"), Label(1, None, "dog")))


def version(name: str, model: bytes = b"model", *, source: str = "published", trained: bool = True) -> VersionContent:
    files = {"model.onnx": model, "labels.json": LABELS.to_json().encode()}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        variant=ModelVariant(name, "b0", "fp32", 224, 0.875, "bicubic", 2, 77.5 if trained else None, trained),
        accuracy=Accuracy(77.5 if trained else None, None, source, "test", None),
        provenance=Provenance("file", "test", None, "Apache-2.0", None, "0" * 64),
        opset=17,
        ir_version=8,
        parameters=1,
        flops=1,
        files={file: FileDigest(hashlib.sha256(data).hexdigest(), len(data)) for file, data in files.items()},
    )
    return VersionContent(manifest, files, hashlib.sha256(model).hexdigest())


def write(root: Path, *contents: VersionContent, disk: StoreDisk | None = None) -> list[Path]:
    with open_writer(root, disk) as writer:
        folders = [writer.add(content) for content in contents]
        writer.commit()
        writer.clean()
    return folders


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` and its content, the lock aside."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
