"""The write side of the store: versions are staged, moved into place, and become current by one atomic swap.

Killed at any moment, the store is the old one or the new one: nothing that an index names is ever changed, and
`store.json` is replaced whole, after everything it names is on disk. One writer at a time holds the lock, which
the system releases if the writer dies. What the files mean is not known here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_store.manifest import Manifest
from model_store.store_index import (
    CONTENT_FILES,
    EMPTY_INDEX,
    INDEX_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    IndexEntry,
    StoreError,
    StoreIndex,
    is_variant_name,
    is_version,
    read_index,
)

LOCK_FILE = ".lock"
STAGING_PREFIX = ".staging-"


class StoreDisk:
    """Every change the writer makes to the disk, one method each, so that a test can stop the process at any."""

    def make_folder(self, path: Path) -> None:
        """Create `path` and its parents; one that is there already is fine."""
        path.mkdir(parents=True, exist_ok=True)

    def write_file(self, path: Path, content: bytes) -> None:
        """Write a new file and wait until its content is on disk."""
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in `path` are on disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def move(self, source: Path, target: Path) -> None:
        """Rename within one file system; a file at `target` is replaced atomically."""
        source.replace(target)

    def remove_folder(self, path: Path) -> None:
        """Delete a folder that no index names."""
        shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class VersionContent:
    """What one version consists of: the manifest and the content of every file that it lists.

    `recipe_sha256`: see `IndexEntry`.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    recipe_sha256: str


class StoreWriter:
    """Adds versions to the store at `root` while it holds the store's lock; `open_writer` makes one."""

    def __init__(self, root: Path, disk: StoreDisk) -> None:
        self._root = root
        self._disk = disk
        self._staging: Path | None = None
        self._added: dict[str, IndexEntry] = {}
        self.index = _index_or_empty(root)
        """The index as it is on disk."""

    def add(self, content: VersionContent) -> Path:
        """Put a version on disk, under its final name but not current yet, and return its folder.

        Raises:
            StoreError: a malformed variant name, or files that are not the ones the manifest lists.
        """
        name, manifest_text = content.manifest.variant.name, content.manifest.to_json().encode()
        _check_content(content)
        manifest_sha256 = hashlib.sha256(manifest_text).hexdigest()
        version = manifest_sha256[:12]
        files = {**content.files, MANIFEST_FILE: manifest_text}
        folder = self._root / name / version
        if not _holds(folder, files):
            self._place(folder, files)
        self._added[name] = IndexEntry(version, manifest_sha256, content.recipe_sha256)
        return folder

    def commit(self) -> None:
        """Make every added version the current one of its variant, all at once."""
        changed = {name: entry for name, entry in self._added.items() if self.index.variants.get(name) != entry}
        if not changed:
            return
        variants = {**self.index.variants, **changed}
        kept = {f"{name}/{entry.version}" for name, entry in variants.items()}
        replaced = {f"{name}/{self.index.variants[name].version}" for name in changed if name in self.index.variants}
        index = StoreIndex(SCHEMA_VERSION, variants, tuple(sorted(replaced - kept)))
        draft = self._staging_folder() / INDEX_FILE
        self._disk.write_file(draft, index.to_json().encode())
        self._disk.move(draft, self._root / INDEX_FILE)
        self._disk.sync_folder(self._root)
        self.index, self._added = index, {}

    def clean(self) -> None:
        """Remove what earlier writers left half done, and versions that no index of this or the last change names."""
        for folder in sorted(self._root.iterdir()):
            if folder.name.startswith(STAGING_PREFIX) and folder != self._staging:
                self._disk.remove_folder(folder)
            elif is_variant_name(folder.name) and folder.is_dir():
                for version in sorted(folder.iterdir()):
                    if is_version(version.name) and f"{folder.name}/{version.name}" not in self.index.folders:
                        self._disk.remove_folder(version)

    def close(self) -> None:
        """Remove this writer's own staging folder."""
        if self._staging is not None:
            self._disk.remove_folder(self._staging)
            self._staging = None

    def _place(self, folder: Path, files: Mapping[str, bytes]) -> None:
        draft = self._staging_folder() / f"{folder.parent.name}-{folder.name}"
        self._disk.make_folder(draft)
        for name, data in sorted(files.items()):
            self._disk.write_file(draft / name, data)
        self._disk.sync_folder(draft)
        self._disk.make_folder(folder.parent)
        if folder.exists():  # damaged, or left by a writer that was killed before its commit
            self._disk.move(folder, self._staging_folder() / f"{draft.name}-damaged")
        self._disk.move(draft, folder)
        self._disk.sync_folder(folder.parent)
        self._disk.sync_folder(self._root)

    def _staging_folder(self) -> Path:
        if self._staging is None:
            self._staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self._root))
        return self._staging


@contextmanager
def open_writer(root: Path, disk: StoreDisk | None = None) -> Iterator[StoreWriter]:
    """Lock the store at `root` (made if it is not there) and clean up after writers that died.

    Raises:
        StoreError: another process is writing this store, or `root` cannot be written.
    """
    disk = disk or StoreDisk()
    try:
        disk.make_folder(root)
        lock = (root / LOCK_FILE).open("w")
    except OSError as error:
        raise StoreError(f"cannot write a store at {root}: {error.strerror}; choose another with --store") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"another build is writing the store at {root}; run this again when it is done") from None
        writer = StoreWriter(root, disk)
        writer.clean()
        try:
            yield writer
        finally:
            writer.close()


def _index_or_empty(root: Path) -> StoreIndex:
    return read_index(root) if (root / INDEX_FILE).exists() else EMPTY_INDEX


def _check_content(content: VersionContent) -> None:
    name, listed = content.manifest.variant.name, content.manifest.files
    if not is_variant_name(name):
        raise StoreError(
            f"{name!r} cannot name a variant; use up to 64 lower-case letters and digits with single hyphens, "
            "such as b2 or b2-flowers"
        )
    actual = {file: (hashlib.sha256(data).hexdigest(), len(data)) for file, data in content.files.items()}
    if set(listed) != CONTENT_FILES or actual != {file: (own.sha256, own.size_bytes) for file, own in listed.items()}:
        raise StoreError(f"the manifest of {name} does not list exactly the files {sorted(CONTENT_FILES)} as they are")


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == data for name, data in files.items())
    except OSError:
        return False
