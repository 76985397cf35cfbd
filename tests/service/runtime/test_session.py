"""ONNX Runtime behind one seam: what a session gives, and what it refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model_store.catalogue import StoreError
from service.runtime.providers import Provider, SessionOptions
from service.runtime.session import (
    Session,
    SessionError,
    available_providers,
    open_sessions,
    route_logs,
    runtime_name,
    top_classes,
)
from tests.fakes.colour_models import colour_graph, variant_of

CUDA = "CUDAExecutionProvider"


def picture_batch(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in colours])


@pytest.fixture
def session() -> Session:
    return Session(colour_graph(), variant_of(), SessionOptions(1, 4))


def test_a_session_gives_one_row_of_probabilities_per_picture(session):
    """Each picture of a batch gets its own probabilities, which sum to one."""
    probabilities = session.run(picture_batch((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    assert probabilities.dtype == np.float32
    assert probabilities.argmax(axis=1).tolist() == [0, 1, 2]
    assert probabilities.sum(axis=1) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_serves_several_workers_at_once(threads):
    """Runs side by side on one session give what each gives alone."""
    session = Session(colour_graph(), variant_of(), SessionOptions(threads, 4))
    batches = [picture_batch((level, 255 - level, 0)) for level in range(0, 256, 4)]
    alone = [session.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(session.run, batches))
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("images", [
    np.zeros((1, 16, 16, 3), np.float32),
    np.zeros((1, 16, 15, 3), np.uint8),
    np.zeros((16, 16, 3), np.uint8),
    np.zeros((0, 16, 16, 3), np.uint8),
])  # fmt: skip
def test_a_session_refuses_what_is_not_its_input(images, session):
    """Another type or shape is refused with what is taken, before ONNX Runtime sees it."""
    with pytest.raises(ValueError, match=r"takes uint8 \[batch, 16, 16, 3\]"):
        session.run(images)


@pytest.mark.parametrize("k", range(1, 8))
def test_the_best_classes_are_those_of_a_stable_sort(k):
    """The graph sorts four classes here: the best ones are the same whether it or the session had to sort them."""
    session = Session(colour_graph(class_count=6), variant_of(class_count=6), SessionOptions(1, 4))
    probabilities, top = session.classify(picture_batch((200, 30, 20), (10, 20, 200), (0, 0, 0)), k)
    for row, best in zip(probabilities, top, strict=True):
        expected = sorted(range(6), key=lambda index: (-row[index], index))[:k]
        assert best == tuple((index, float(row[index])) for index in expected)


def test_the_best_classes_are_plain_numbers(session):
    """Indices are int and probabilities float, so that they travel as JSON."""
    _, (((index, probability), *_),) = session.classify(picture_batch((0, 255, 0)), 3)
    assert (type(index), type(probability)) == (int, float)


def test_probabilities_that_are_none_are_an_error():
    """A network that gives NaN is reported, not answered with."""
    broken = Session(colour_graph(sharpness=float("nan")), variant_of(), SessionOptions(1, 1))
    with pytest.raises(FloatingPointError, match="tiny"):
        broken.run(picture_batch((255, 0, 0)))


@pytest.mark.parametrize(("resolution", "class_count"), [(17, 3), (16, 4)])
def test_a_graph_that_is_not_what_its_manifest_says_is_refused(resolution, class_count):
    """Another resolution or class count than the manifest's is found at loading, with what was expected."""
    variant = variant_of(resolution=resolution, class_count=class_count)
    with pytest.raises(SessionError, match="its manifest says"):
        Session(colour_graph(), variant, SessionOptions(1, 1))


@pytest.mark.parametrize("vnni", [False, True])
def test_an_int8_graph_that_may_overflow_is_refused_where_it_would(vnni, monkeypatch):
    """A graph that does not say its sums are safe loads with VNNI; without it the error names what rebuilds it."""
    monkeypatch.setattr("service.runtime.session.lacks_vnni", lambda: not vnni)
    variant = replace(variant_of(), precision="int8")
    load = partial(Session, colour_graph(), variant, SessionOptions(1, 1))
    if vnni:
        assert load().variant is variant
    else:
        with pytest.raises(SessionError, match="phiserve store build"):
            load()


def test_a_precision_that_would_run_as_another_is_refused():
    """A bf16 graph holds fp32 numbers: what would run it as such does not load it, and says what would work."""
    variant = replace(variant_of(), precision="bf16")
    with pytest.raises(SessionError, match=r"tiny cannot be run: bf16 .*phiserve\[openvino\]"):
        Session(colour_graph(), variant, SessionOptions(1, 1))


def test_bytes_that_are_no_graph_are_refused_by_name():
    """A file that ONNX Runtime cannot load is an error that names the variant."""
    with pytest.raises(SessionError, match="tiny cannot be loaded on cpu"):
        Session(b"not a graph", variant_of(), SessionOptions(1, 1))


def test_a_provider_whose_libraries_do_not_load_is_reported_as_what_runs(caplog):
    """Asked for a provider that this package lacks, the session either refuses or says that it runs on the CPU."""
    if CUDA in available_providers():
        pytest.skip("this package has the provider")
    with pytest.warns(UserWarning, match="not in available provider names"):
        session = Session(colour_graph(), variant_of(), SessionOptions(1, 1), Provider.CUDA)
    assert session.provider is Provider.CPU
    assert "phiserve[gpu]" in caplog.text


def test_all_entries_are_loaded_at_all_widths_with_progress(make_entry):
    """Every variant is there at every thread width, and progress ends at the total."""
    steps: list[tuple[int, int, str]] = []
    entries = [make_entry("small", 16), make_entry("large", 24)]
    sessions = open_sessions(entries, (1, 2), Provider.CPU, batch_size_max=2, progress=lambda *step: steps.append(step))
    assert set(sessions) == {("small", 1), ("small", 2), ("large", 1), ("large", 2)}
    assert {session.threads for session in sessions.values()} == {1, 2}
    assert [done for done, _, _ in steps] == [0, 1, 2, 3, 4]
    assert steps[-1][:2] == (4, 4)


def test_compiled_graphs_have_a_folder_each_where_they_can_be_kept(make_entry, tmp_path, caplog):
    """A compiling provider finds a folder for each graph; the CPU makes none; one that cannot be made is logged."""
    entry = make_entry()
    outdated = tmp_path / "cache" / "openvino" / "tiny" / "of other weights"
    outdated.mkdir(parents=True)
    (outdated / "network.blob").write_bytes(b"compiled")
    (outdated.parent / "network.blob").write_bytes(b"compiled")
    with pytest.warns(UserWarning, match="not in available provider names"):
        open_sessions([entry], (1,), Provider.OPENVINO, batch_size_max=1, cache_dir=tmp_path / "cache")
    (folder,) = outdated.parent.iterdir()
    assert folder.is_dir()
    assert entry.model_sha256.startswith(folder.name)
    assert len(folder.name) == 16
    open_sessions([entry], (1,), Provider.CPU, batch_size_max=1, cache_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not in available provider names"):
        open_sessions([entry], (1,), Provider.OPENVINO, batch_size_max=1, cache_dir=tmp_path / "file")
    assert "every start compiles them again" in caplog.text


def test_a_changed_file_never_reaches_a_session(make_entry):
    """A model whose bytes are not those of the manifest is refused by the store before it is loaded."""
    entry = make_entry()
    path = entry.folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match="sha256"):
        open_sessions([entry], (1,), Provider.CPU, batch_size_max=1)


def test_messages_of_onnx_runtime_go_to_logging(caplog, capfd):
    """What ONNX Runtime has to say about a broken graph is a log record and not a line on standard error."""
    route_logs()
    with pytest.raises(SessionError):
        Session(b"not a graph", variant_of(), SessionOptions(1, 1))
    assert capfd.readouterr().err == ""


def test_the_runtime_is_named_with_version_and_provider():
    """The name that profiles record holds all that makes a measurement stale."""
    assert runtime_name(Provider.CPU).startswith("onnxruntime 1.")
    assert runtime_name(Provider.CPU).endswith(" cpu")


@given(
    values=arrays.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])),
    k=st.integers(1, 70),
)
def test_top_classes_are_those_of_a_stable_sort(values, k):
    """The best k, falling, equals by lower index: what sorting everything stably gives, ties at the edge included."""
    expected = sorted(range(len(values)), key=lambda index: (-values[index], index))[:k]
    assert top_classes(values, k) == tuple((index, float(values[index])) for index in expected)


def test_sorted_classes_are_plain_numbers():
    """Indices are int and probabilities float, so that they travel as JSON."""
    ((index, probability),) = top_classes(np.array([0.25, 0.75], np.float32), 1)
    assert (type(index), type(probability)) == (int, float)
    assert (index, probability) == (1, 0.75)
