"""catalogue.py: nothing of a store is used before its sha256 was compared."""

import json

import pytest

from model_store.catalogue import Catalogue, StoreError
from tests.model_store.fakes.store_content import LABELS, version, write


@pytest.fixture
def store(tmp_path):
    """A store of two variants, and the folder of the first."""
    folder, _ = write(tmp_path, version("b1", b"the b1 graph"), version("b0"))
    return tmp_path, folder


def test_entries_are_the_variants_by_name(store):
    """A whole store opens to its variants in the order of their names, with manifest, labels and model bytes."""
    root, folder = store
    entries = Catalogue.open(root).entries
    assert list(entries) == ["b0", "b1"]
    entry = entries["b1"]
    assert entry.folder == folder
    assert entry.variant is entry.manifest.variant
    assert entry.labels == LABELS.labels
    assert entry.read_model() == b"the b1 graph"


def test_a_catalogue_cannot_be_changed(store):
    """The mapping of a catalogue is read-only: it is a snapshot others rely on."""
    with pytest.raises(TypeError):
        Catalogue.open(store[0]).entries["b2"] = None


@pytest.mark.parametrize("file", ["model.onnx", "labels.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["changed", "grown", "cut", "missing", "folder"])
def test_a_tampered_file_is_refused_by_name(store, file, damage):
    """A file with one byte changed, added or removed, or missing, is refused: which file, and what mends it."""
    root, folder = store
    path = folder / file
    content = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    else:
        path.write_bytes({"changed": content[:-1] + b"!", "grown": content + b"!", "cut": content[:-1]}[damage])
    with pytest.raises(StoreError) as refusal:
        Catalogue.open(root)
    assert str(path) in str(refusal.value)
    assert "phiserve store build b1" in str(refusal.value)
    assert list(Catalogue.open(root, only=["b0"]).entries) == ["b0"]


def test_a_model_changed_after_opening_is_not_read(store):
    """The bytes are compared again when they are read, so a later change never reaches a session."""
    root, folder = store
    entry = Catalogue.open(root).entries["b1"]
    (folder / "model.onnx").write_bytes(b"the B1 graph")
    with pytest.raises(StoreError, match=r"model\.onnx does not have the sha256"):
        entry.read_model()


def test_unknown_variants_are_refused_with_the_known_ones(store):
    """Asking for a variant that is not there names what is there and how to add the other."""
    with pytest.raises(StoreError, match=r"holds no b9; it holds b0, b1.*phiserve store build b9"):
        Catalogue.open(store[0], only=["b0", "b9"])


def test_no_store_says_how_to_make_one(tmp_path):
    """Where there is no store, the error names the folder and the command."""
    with pytest.raises(StoreError, match=rf"no store at {tmp_path}.*phiserve store build"):
        Catalogue.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["variants"].update({"../../etc": index["variants"]["b0"]}),
        lambda index: index["variants"]["b0"].update(version="../../../tmp"),
        lambda index: index["variants"]["b0"].update(version="0123456789AB"),
        lambda index: index["variants"]["b0"].update(manifest_sha256="0"),
        lambda index: index["variants"]["b0"].update(extra=1),
        lambda index: index["variants"]["b0"].pop("recipe_sha256"),
        lambda index: index.update(schema_version=2),
        lambda index: index.update(variants=[]),
    ],
)
def test_a_malformed_index_is_refused(store, change):
    """An index with a path in it, another schema, or a key missing or unknown is refused, and nothing else is read."""
    root, _ = store
    path = root / "store.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(StoreError, match=r"store\.json.*phiserve store build"):
        Catalogue.open(root)


def test_a_manifest_in_the_wrong_place_is_refused(store):
    """One variant's genuine version passed off as another's is refused: its manifest says who it is."""
    root, folder = store
    folder.rename(root / "b0" / folder.name)
    path = root / "store.json"
    index = json.loads(path.read_text())
    index["variants"]["b0"] = index["variants"]["b1"]
    path.write_text(json.dumps(index))
    with pytest.raises(StoreError, match="describes 'b1'"):
        Catalogue.open(root, only=["b0"])
