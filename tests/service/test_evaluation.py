"""Accuracy is counted over labelled photographs, and a folder of anything else is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.builder import BuildRequest, build_store
from model_store.catalogue import Catalogue
from model_store.sources import from_wheel
from service.evaluation import EvaluationError, EvaluationResult, evaluate, list_photographs
from service.runtime.decode import decode_rgb
from service.runtime.preprocess import preprocess
from service.runtime.providers import SessionOptions
from service.runtime.session import Session
from tests.fakes.colour_models import colour_entry

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"


@pytest.fixture
def catalogue(tmp_path) -> Catalogue:
    store = tmp_path / "store"
    entries = {name: colour_entry(store, name, side, class_count=8) for name, side in (("small", 16), ("large", 32))}
    return Catalogue(store, entries)


@pytest.fixture
def photographs(tmp_path):
    """Writes a labelled picture: `photographs("000_apple", "red")`; gives the folder."""
    folder = tmp_path / "photographs"
    folder.mkdir()

    def write(name: str, colour: str):
        Image.new("RGB", (50, 40), colour).save(folder / f"{name}.jpg")
        return folder

    return write


def test_top_1_and_top_5_are_counted_in_percent(catalogue, photographs):
    """One right, one among the best five, and two wrong of four: 25 % and 50 %, for every variant asked."""
    photographs("000_apple", "red")
    photographs("3_second_best", "lime")
    photographs("006_sea", "blue")
    folder = photographs("007_night", "black")
    assert evaluate(catalogue, folder, ["large", "small"]) == (
        EvaluationResult("large", 4, 25.0, 50.0, ()),
        EvaluationResult("small", 4, 25.0, 50.0, ()),
    )


def test_without_names_the_whole_catalogue_is_evaluated(catalogue, photographs):
    """No selection means every variant, and progress counts over all of them."""
    photographs("000_apple", "red")
    folder = photographs("001_leaf", "lime")
    steps: list[tuple[int, int, str]] = []
    results = evaluate(catalogue, folder, progress=lambda *step: steps.append(step))
    assert [(result.variant, result.top1) for result in results] == [("small", 100.0), ("large", 100.0)]
    assert [done for done, _, _ in steps] == [0, 1, 2, 2, 3, 4]
    assert steps[-1] == (4, 4, "large")


def test_pictures_that_cannot_be_decoded_are_named_and_not_counted(catalogue, photographs):
    """A broken file neither ends the evaluation nor counts as a wrong answer."""
    folder = photographs("000_apple", "red")
    (folder / "001_broken.jpg").write_bytes(b"not a picture")
    (result,) = evaluate(catalogue, folder, ["small"])
    assert (result.images, result.top1) == (1, 100.0)
    assert result.unreadable[0].startswith("001_broken.jpg: the bytes are not a picture")


def test_only_broken_pictures_are_an_error(catalogue, tmp_path):
    """With nothing decodable there is no accuracy to state."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "001_broken.jpg").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"none of the photographs.*001_broken\.jpg"):
        evaluate(catalogue, folder, ["small"])


def test_misnamed_files_are_listed_with_the_wanted_name(catalogue, photographs):
    """Every file that does not say its class is named, and so is the form it should have."""
    photographs("000_apple", "red")
    folder = photographs("apple", "red")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(EvaluationError, match=r"NNN_name\.jpg.*apple\.jpg, notes\.txt"):
        evaluate(catalogue, folder)


def test_a_long_list_of_misnamed_files_is_cut(photographs):
    """Ten are named, the rest counted."""
    for index in range(13):
        folder = photographs(f"apple{index}", "red")
    with pytest.raises(EvaluationError, match="and 3 more"):
        list_photographs(folder)


def test_hidden_files_and_documents_are_passed_over(photographs):
    """A README beside the photographs does no harm."""
    folder = photographs("000_apple", "red")
    (folder / "README.md").write_text("where they come from")
    (folder / ".index").write_text("")
    assert [photo.class_index for photo in list_photographs(folder)] == [0]


def test_a_class_that_the_network_does_not_have_is_refused(catalogue, photographs):
    """An index beyond the variant's classes would count as wrong for ever; it is named instead."""
    folder = photographs("008_beyond", "red")
    with pytest.raises(EvaluationError, match=r"classes 0 to 7.*008_beyond\.jpg"):
        evaluate(catalogue, folder)


def test_a_folder_of_nothing_and_no_folder_are_refused(catalogue, tmp_path):
    """Both errors name the folder and what should be in it."""
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        if folder.name == "empty":
            folder.mkdir()
        with pytest.raises(EvaluationError, match="NNN_name"):
            evaluate(catalogue, folder)


def test_an_unknown_variant_is_refused_with_those_there_are(catalogue, photographs):
    """Asking for what the store does not hold names what it does."""
    folder = photographs("000_apple", "red")
    with pytest.raises(EvaluationError, match="no b9; it holds small, large"):
        evaluate(catalogue, folder, ["b9"])


@pytest.fixture(scope="module")
def lite_catalogue(tmp_path_factory) -> Catalogue:
    """Lite0 to Lite2 with their real weights."""
    store = tmp_path_factory.mktemp("store")
    build_store(store, [BuildRequest(member, from_wheel(member)) for member in ("lite0", "lite1", "lite2")])
    return Catalogue.open(store)


def test_real_networks_recognise_real_photographs(lite_catalogue, tmp_path):
    """Lite0, Lite1 and Lite2 name the espresso and the tripod, and put a tabby among the cat's best five."""
    for name, source in (("967_espresso", "espresso"), ("872_tripod", "tripod")):
        shutil.copy(PHOTOGRAPHS / f"{source}.jpg", tmp_path / f"{name}.jpg")
    results = evaluate(lite_catalogue, tmp_path)
    assert [(result.variant, result.images, result.top1) for result in results] == [
        ("lite0", 2, 100.0), ("lite1", 2, 100.0), ("lite2", 2, 100.0),
    ]  # fmt: skip
    shutil.copy(PHOTOGRAPHS / "tabby_cat.jpg", tmp_path / "281_tabby_cat.jpg")
    assert [result.top5 for result in evaluate(lite_catalogue, tmp_path)] == [100.0, 100.0, 100.0]


@pytest.mark.parametrize("threads", [1, 2])
def test_thread_width_does_not_change_answers(threads, lite_catalogue):
    """A network gives the same probabilities, to rounding, on one thread and on two, alone and in a batch."""
    entry = lite_catalogue.entries["lite0"]
    session = Session(entry.read_model(), entry.variant, SessionOptions(threads, 3))
    batch = np.zeros((3, 224, 224, 3), np.uint8)
    for row, path in zip(batch, sorted(PHOTOGRAPHS.glob("*.jpg")), strict=True):
        preprocess(decode_rgb(path.read_bytes(), 256, 10**7), entry.variant, row)
    alone = np.concatenate([session.run(row[None]) for row in batch])
    assert np.allclose(session.run(batch), alone, atol=1e-5)
    assert alone.argmax(axis=1).tolist()[::2] == [967, 872]
    assert np.allclose(alone.sum(axis=1), 1, atol=1e-5)
