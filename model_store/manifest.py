"""What one built variant is: a strict, versioned description that travels beside its `model.onnx`.

`Manifest` is the file on disk; `ModelVariant` is the part of it that scheduling and answers need. Reading is
strict both ways: an unknown key, a missing key or a value of the wrong type is a `ManifestError` that names
the key. Nothing here opens a file; `catalogue.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model_store import strict_json

SCHEMA_VERSION = 1

SAFE_SUMS = "safe_sums"
"""Metadata of an int8 graph that no processor overflows in; one without it is right with VNNI only."""

Precision = Literal["fp32", "fp16", "int8", "bf16"]
AccuracySource = Literal["published", "evaluated", "unknown"]
WeightsSource = Literal["wheel", "hub", "file", "untrained"]
Interpolation = Literal["bicubic", "bilinear"]


class ManifestError(ValueError):
    """A manifest that is not what this version writes. The message names the key and what was expected."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """ImageNet-style accuracy in percent (0..100) and where the figure comes from.

    `top1` is None where nobody measured it (an own checkpoint before `store evaluate`, untrained weights).
    `images` is the number of photographs when `source` is "evaluated".
    """

    top1: float | None
    top5: float | None
    source: AccuracySource
    detail: str
    images: int | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights came from. `revision` is pinned: a wheel's version, a hub commit, or None for a file."""

    source: WeightsSource
    name: str
    revision: str | None
    licence: str
    url: str | None
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Hex sha256 and size of one file in the version's folder."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ModelVariant:
    """One entry on the menu of (accuracy, latency) choices: what core and front ends see.

    `resolution` in pixels (square), `crop_fraction` of the shorter side kept by the centre crop, `top1` in
    percent or None if unknown. `trained` is False for seeded weights: such answers mean nothing and are
    marked so on every wire.
    """

    name: str
    member: str
    precision: Precision
    resolution: int
    crop_fraction: float
    interpolation: Interpolation
    class_count: int
    top1: float | None
    trained: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole description of one built version of a variant, as stored in `manifest.json`."""

    schema_version: int
    variant: ModelVariant
    accuracy: Accuracy
    provenance: Provenance
    opset: int
    ir_version: int
    parameters: int
    flops: int
    files: dict[str, FileDigest]

    def to_json(self) -> str:
        """Canonical JSON text; equal manifests give equal bytes."""
        return strict_json.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse `text` strictly.

        Raises:
            ManifestError: not JSON, another schema version, or a key missing, unknown or of a wrong type.
        """
        try:
            manifest = strict_json.loads(cls, text, "manifest")
        except strict_json.StrictJsonError as error:
            raise ManifestError(f"{error}; rebuild with `phiserve store build`") from error
        if manifest.schema_version != SCHEMA_VERSION:
            raise ManifestError(
                f"manifest.schema_version is {manifest.schema_version}, this phiserve reads {SCHEMA_VERSION}; "
                "rebuild with `phiserve store build`"
            )
        return manifest
