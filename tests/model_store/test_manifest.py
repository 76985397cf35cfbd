"""Manifests: strict both ways."""

from __future__ import annotations

import dataclasses

import pytest

from model_store.manifest import (
    SCHEMA_VERSION,
    Accuracy,
    FileDigest,
    Manifest,
    ManifestError,
    ModelVariant,
    Provenance,
)

MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    variant=ModelVariant("lite0", "lite0", "fp32", 224, 0.875, "bicubic", 1000, 75.1, trained=True),
    accuracy=Accuracy(75.1, None, "published", "the release table", None),
    provenance=Provenance("wheel", "some-wheel", "0.1.0", "Apache-2.0", None, "ab" * 32),
    opset=17,
    ir_version=8,
    parameters=4_652_008,
    flops=407_000_000,
    files={"model.onnx": FileDigest("cd" * 32, 18_000_000)},
)


def test_what_is_written_is_read_back() -> None:
    """A manifest survives the way to JSON and back."""
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema_version": 1', '"schema_version": 2', "schema_version is 2, this phiserve reads 1"),
        ('"precision": "fp32"', '"precision": "fp31"', "manifest.variant.precision must be one of"),
        ('"trained": true', '"trained": "yes"', "manifest.variant.trained must be bool"),
        ('"top1": 75.1,\n    "trained"', '"top1": "75.1",\n    "trained"', "manifest.variant.top1 must be float"),
        ('"opset": 17', '"opset": 17, "surprise": 1', "unknown keys"),
    ],
)
def test_a_manifest_of_another_shape_is_refused_with_what_to_do(old: str, new: str, message: str) -> None:
    """A wrong key, type or version is named, with the command that rebuilds the store."""
    text = MANIFEST.to_json()
    assert old in text
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.from_json(text.replace(old, new))
    assert "phiserve store build" in str(caught.value)


def test_a_manifest_is_immutable() -> None:
    """What describes a hashed file cannot be changed in memory."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        MANIFEST.opset = 18  # type: ignore[misc]
