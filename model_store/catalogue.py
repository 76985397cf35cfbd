"""The read side of the store: every file's sha256 is checked before anything of it is used.

A `Catalogue` is a snapshot of the current versions. It builds nothing, changes nothing and downloads nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from model_store.labels import Label, LabelsError, LabelSet
from model_store.manifest import FileDigest, Manifest, ManifestError, ModelVariant
from model_store.store_index import (
    CONTENT_FILES,
    LABELS_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    IndexEntry,
    StoreError,
    read_index,
)

__all__ = ["Catalogue", "CatalogueEntry", "StoreError"]

MANIFEST_BYTES_MAX = 1024**2


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One variant that was found whole: its manifest, its folder and its labels by class index."""

    variant: ModelVariant
    manifest: Manifest
    folder: Path
    labels: tuple[Label, ...]

    @property
    def model_sha256(self) -> str:
        """The digest of `model.onnx`: names the graph with its weights."""
        return self.manifest.files[MODEL_FILE].sha256

    def read_model(self) -> bytes:
        """The bytes of `model.onnx`: exactly those whose sha256 was just compared, read once.

        Raises:
            StoreError: the file is gone or was changed since the catalogue was opened.
        """
        return _read_verified(self.folder / MODEL_FILE, self.manifest.files[MODEL_FILE], self.variant.name)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The variants of a store, by name, in the order of their names."""

    root: Path
    entries: Mapping[str, CatalogueEntry]

    @classmethod
    def open(cls, root: Path, only: Collection[str] | None = None) -> Catalogue:
        """Verify the store at `root`, or the variants named in `only`, and list them.

        Raises:
            StoreError: no store there, a variant of `only` that it does not hold, or a file that is missing,
                malformed or does not have the recorded sha256. The message names the file and what mends it.
        """
        index = read_index(root)
        wanted = set(index.variants) if only is None else set(only)
        if unknown := sorted(wanted - set(index.variants)):
            raise StoreError(
                f"the store at {root} holds no {', '.join(unknown)}; it holds {', '.join(sorted(index.variants))}. "
                f"Add with `phiserve store build {' '.join(unknown)}`"
            )
        entries = {name: _open_variant(root, name, index.variants[name]) for name in sorted(wanted)}
        return cls(root, MappingProxyType(entries))


def _open_variant(root: Path, name: str, pinned: IndexEntry) -> CatalogueEntry:
    folder = root / name / pinned.version
    path = folder / MANIFEST_FILE
    text = _read_bounded(path, MANIFEST_BYTES_MAX, name)
    if hashlib.sha256(text).hexdigest() != pinned.manifest_sha256:
        raise _changed(path, name)
    try:
        manifest = Manifest.from_json(text)
    except ManifestError as error:
        raise StoreError(f"{path}: {error}") from error
    if manifest.variant.name != name or set(manifest.files) != CONTENT_FILES:
        raise StoreError(
            f"{path} describes {manifest.variant.name!r} with the files {sorted(manifest.files)}; expected {name!r} "
            f"with {sorted(CONTENT_FILES)}; {_mend(name)}"
        )
    # Verified now rather than at first use, so that a damaged store is found at start-up and by name.
    _verify(folder / MODEL_FILE, manifest.files[MODEL_FILE], name)
    labels_text = _read_verified(folder / LABELS_FILE, manifest.files[LABELS_FILE], name)
    try:
        labels = LabelSet.from_json(labels_text).labels
    except LabelsError as error:
        raise StoreError(f"{folder / LABELS_FILE}: {error}; {_mend(name)}") from error
    if len(labels) != manifest.variant.class_count:
        raise StoreError(f"{path}: {manifest.variant.class_count} classes but {len(labels)} labels; {_mend(name)}")
    return CatalogueEntry(manifest.variant, manifest, folder, labels)


def _verify(path: Path, digest: FileDigest, name: str) -> None:
    """As `_read_verified`, in pieces: a family of models need not fit in memory to be checked."""
    try:
        with path.open("rb") as file:
            same_size = os.fstat(file.fileno()).st_size == digest.size_bytes
            if not same_size or hashlib.file_digest(file, "sha256").hexdigest() != digest.sha256:
                raise _changed(path, name)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; {_mend(name)}") from error


def _read_verified(path: Path, digest: FileDigest, name: str) -> bytes:
    data = _read_bounded(path, digest.size_bytes, name)
    if len(data) != digest.size_bytes or hashlib.sha256(data).hexdigest() != digest.sha256:
        raise _changed(path, name)
    return data


def _read_bounded(path: Path, size_bytes_max: int, name: str) -> bytes:
    """At most one byte more than expected, so that a swollen file is noticed without being read whole."""
    try:
        with path.open("rb") as file:
            return file.read(size_bytes_max + 1)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; {_mend(name)}") from error


def _changed(path: Path, name: str) -> StoreError:
    return StoreError(f"{path} does not have the sha256 it was built with; {_mend(name)}")


def _mend(name: str) -> str:
    return f"build it again with `phiserve store build {name}` (or import it again, if it was imported)"
