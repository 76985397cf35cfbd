"""`store.json`: which version of each variant is the current one. Swapping this small file is what a build commits.

Paths are never taken from JSON: a folder is `<root>/<variant>/<version>` from names of a fixed form, and a
version's files have fixed names. Nothing here writes; `builder.py` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from model_store import strict_json

SCHEMA_VERSION = 1
INDEX_FILE = "store.json"
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
LABELS_FILE = "labels.json"
CONTENT_FILES = frozenset({MODEL_FILE, LABELS_FILE})
"""What a manifest lists, in a folder beside it."""

RESERVED_NAMES = frozenset({"profiles"})
"""Folders of the root that hold no variant."""

_VARIANT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VARIANT_NAME_LENGTH_MAX = 64
_VERSION = re.compile(r"[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class StoreError(ValueError):
    """A store that cannot be used: missing, malformed or tampered with. The message says what mends it."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The current version of one variant.

    `version` is the start of `manifest_sha256`; the manifest holds the digests of the rest, so one hash pins all.
    `recipe_sha256` stands for everything that went into the build: if it is unchanged, so would the result be.
    """

    version: str
    manifest_sha256: str
    recipe_sha256: str


@dataclass(frozen=True, slots=True)
class StoreIndex:
    """The current versions by variant, and the ones (`<variant>/<version>`) that the last change replaced.

    The replaced ones stay on disk until the next change, for a reader that had opened the index just before.
    """

    schema_version: int
    variants: dict[str, IndexEntry]
    replaced: tuple[str, ...]

    def to_json(self) -> str:
        """Canonical JSON text."""
        return strict_json.dumps(self)

    @property
    def folders(self) -> frozenset[str]:
        """Every `<variant>/<version>` that must stay."""
        return frozenset({f"{name}/{entry.version}" for name, entry in self.variants.items()} | set(self.replaced))


EMPTY_INDEX = StoreIndex(SCHEMA_VERSION, {}, ())


def is_variant_name(name: str) -> bool:
    """Lower-case letters and digits in groups joined by single hyphens, such as `lite0` or `b3-fp16`; 64 at most."""
    return (
        len(name) <= _VARIANT_NAME_LENGTH_MAX
        and name not in RESERVED_NAMES
        and _VARIANT_NAME.fullmatch(name) is not None
    )


def is_version(name: str) -> bool:
    """Twelve lower-case hex digits."""
    return _VERSION.fullmatch(name) is not None


def read_index(root: Path) -> StoreIndex:
    """The index of the store at `root`.

    Raises:
        StoreError: there is no store, or its index is malformed or of another schema version.
    """
    path = root / INDEX_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"no store at {root}; make one with `phiserve store build`") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    try:
        index = strict_json.loads(StoreIndex, text, INDEX_FILE)
    except strict_json.StrictJsonError as error:
        raise StoreError(f"{path}: {error}; delete it and run `phiserve store build` again") from error
    if index.schema_version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {index.schema_version}, this phiserve reads {SCHEMA_VERSION}; "
            "delete it and run `phiserve store build` again"
        )
    for name, entry in index.variants.items():
        if not is_variant_name(name) or not is_version(entry.version) or not _SHA256.fullmatch(entry.manifest_sha256):
            raise StoreError(f"{path}: {name!r} is malformed; delete it and run `phiserve store build` again")
    return index
