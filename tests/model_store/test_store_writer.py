"""store_writer.py: killed at any change to the disk, the store is the old one or the new one."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model_store.catalogue import Catalogue
from model_store.store_index import StoreError, read_index
from model_store.store_writer import StoreDisk, open_writer
from tests.model_store.fakes.killed_build import NEW
from tests.model_store.fakes.store_content import tree, version, write

KILLED_BUILD = Path(__file__).parent / "fakes" / "killed_build.py"
OLD = (version("b0", b"old b0"), version("b2", b"b2"))


def manifests(root):
    return {name: entry.manifest for name, entry in Catalogue.open(root).entries.items()}


@pytest.mark.parametrize("when", ["before", "within"])
def test_killed_at_any_moment_it_is_the_old_store_or_the_new(tmp_path, when):
    """A build killed before or within each of its changes leaves the old store or the new one, whole."""
    pristine = tmp_path / "pristine"
    write(pristine, version("b0", b"older b0"))
    write(pristine, *OLD)
    old = manifests(pristine)
    new = {**old, **{content.manifest.variant.name: content.manifest for content in NEW}}
    seen = []
    for step in range(100):
        root = tmp_path / f"{step}"
        shutil.copytree(pristine, root)
        child = subprocess.run([sys.executable, KILLED_BUILD, root, str(step), when], check=False)
        assert child.returncode in (0, -signal.SIGKILL)
        found = manifests(root)
        assert found in (old, new)
        seen.append(found == new)
        write(root, *NEW)
        assert manifests(root) == new
        assert {file.split("/")[0] for file in tree(root)} == {"b0", "b1", "b2", "store.json"}
        assert len(list((root / "b0").iterdir())) == 2, "the current version of b0 and the one it replaced"
        if child.returncode == 0:
            break
    assert seen == sorted(seen), "once the new store is there, it stays"
    assert not seen[0]
    assert seen[-1]
    assert len(seen) > 20, "the build makes at least this many changes"


def test_everything_is_on_disk_before_the_index_names_it(tmp_path):
    """Files and folders are synced before the index is moved into place, so that not even a power cut shows a gap."""
    calls = []

    class Recorder(StoreDisk):
        def write_file(self, path, content):
            calls.append(("write", path.name))
            super().write_file(path, content)

        def sync_folder(self, path):
            calls.append(("sync", path.name))
            super().sync_folder(path)

        def move(self, source, target):
            calls.append(("move", target.name))
            super().move(source, target)

    (folder,) = write(tmp_path / "store", version("b0"), disk=Recorder())
    swap = calls.index(("move", "store.json"))
    placed = calls.index(("move", folder.name))
    assert {name for call, name in calls[:placed] if call == "write"} == {"model.onnx", "labels.json", "manifest.json"}
    assert calls[placed - 1][0] == "sync"
    assert {("sync", "b0"), ("sync", "store"), ("write", "store.json")} <= set(calls[placed:swap])
    assert calls[swap + 1] == ("sync", "store")


def test_two_builds_do_not_interleave(tmp_path):
    """While one build writes, another is refused at once; when it is done, the next one may."""
    with open_writer(tmp_path), pytest.raises(StoreError, match="another build"), open_writer(tmp_path):
        pass
    with open_writer(tmp_path):
        pass


def test_the_replaced_version_stays_until_the_next_change(tmp_path):
    """A reader that opened the index just before a build still finds its files; the build after removes them."""
    first, second, third = (version("b0", model) for model in (b"1", b"2", b"3"))
    (old_folder,) = write(tmp_path, first)
    reader = Catalogue.open(tmp_path).entries["b0"]
    (new_folder,) = write(tmp_path, second)
    write(tmp_path, second)
    assert reader.read_model() == b"1"
    write(tmp_path, third)
    assert not old_folder.exists()
    assert new_folder.exists()


def test_other_folders_are_left_alone(tmp_path):
    """Latency profiles and anything else that is no version of a variant survive every build."""
    for path in ("profiles/machine.json", "b0/notes.txt", "README", "profiles/0123456789ab/x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("keep")
    write(tmp_path, version("b0"))
    write(tmp_path, version("b0", b"changed"))
    kept = tree(tmp_path)
    assert {"profiles/machine.json", "b0/notes.txt", "README", "profiles/0123456789ab/x"} <= set(kept)


def test_adding_the_same_version_again_changes_nothing(tmp_path):
    """A version that is already there, whole, is neither written nor recorded as a change."""
    write(tmp_path, version("b0"), version("b1"))
    before = tree(tmp_path)
    write(tmp_path, version("b0"))
    assert tree(tmp_path) == before


def test_a_damaged_version_is_replaced(tmp_path):
    """Adding a version whose folder is damaged puts a whole one in its place."""
    (folder,) = write(tmp_path, version("b0"))
    (folder / "model.onnx").write_bytes(b"damaged")
    write(tmp_path, version("b0"))
    assert Catalogue.open(tmp_path).entries["b0"].read_model() == b"model"


def test_nothing_becomes_current_without_a_commit(tmp_path):
    """A build that ends before its commit leaves the index as it was, and its leftovers go with the next build."""
    write(tmp_path, version("b0"))
    before = tree(tmp_path)
    with open_writer(tmp_path) as writer:
        writer.add(version("b1"))
    assert set(read_index(tmp_path).variants) == {"b0"}
    write(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["", "../b0", "b0/x", "B0", "b0-", "-b0", "b--0", "profiles", "b0\n", "b" * 65, "ü"])
def test_malformed_variant_names_are_refused(tmp_path, name):
    """A name that could leave the store, or that a URL or metric label would have to quote, is refused."""
    with pytest.raises(StoreError, match="cannot name a variant"):
        write(tmp_path / "store", version(name))
    assert not [path for path in tree(tmp_path) if path.endswith(".onnx")]


def test_files_that_the_manifest_does_not_list_are_refused(tmp_path):
    """The content must be exactly what the manifest lists, so that a store can never be born damaged."""
    whole = version("b0")
    for files in ({**whole.files, "model.onnx": b"other"}, {**whole.files, "x": b""}, {"model.onnx": b"model"}):
        with pytest.raises(StoreError, match="does not list exactly"):
            write(tmp_path, replace(whole, files=files))


def test_a_root_that_cannot_be_made_is_a_store_error(tmp_path):
    """A root below a file is refused with the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="--store"):
        write(tmp_path / "file" / "store", version("b0"))
