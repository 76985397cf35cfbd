"""Ranges measured on photographs fit the network, and are judged on photographs that they did not come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from model_store.activation_ranges import check_tensors, committed_ranges, read_ranges
from model_store.builder import BuildRequest, Quantisation, build_variant
from model_store.sources import from_wheel
from phiserve.cli import app
from service.evaluation import EvaluationError
from service.range_calibration import VIEWS, calibrate

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
SOURCE = from_wheel("lite0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The bundled photographs, named by their classes."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, source in (("285_cat", "tabby_cat"), ("872_tripod", "tripod"), ("967_espresso", "espresso")):
        shutil.copy(PHOTOGRAPHS / f"{source}.jpg", folder / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def calibrated(folder):
    """Lite0's ranges from those photographs, and the progress that was reported."""
    steps: list[tuple[int, int, str]] = []
    ranges = calibrate(SOURCE, folder, of="test pictures", date="2026-01-02", progress=lambda *step: steps.append(step))
    return ranges, steps


def test_ranges_are_those_of_the_networks_tensors(calibrated):
    """Every tensor has a range that holds what was seen: ReLU6 stays within 0 to 6, and an int8 graph can be built."""
    ranges, _ = calibrated
    check_tensors(ranges, committed_ranges("lite0").ranges)
    clipped = {tensor: limits for tensor, limits in ranges.ranges.items() if tensor.endswith(".relu6")}
    assert clipped
    assert all(low == 0 and 0 < high <= 6 for low, high in clipped.values())
    content = build_variant(BuildRequest("lite0-int8", SOURCE, Quantisation(ranges, loss_points_max=100)))
    assert content.manifest.variant.precision == "int8"


def test_what_was_done_is_recorded(calibrated):
    """The ranges say on how many pictures of what they were measured, when and with what, and whose they are."""
    ranges, _ = calibrated
    assert (ranges.measurement.pictures, ranges.measurement.of) == (3, "test pictures")
    assert ranges.measurement.date == "2026-01-02"
    assert ranges.measurement.runtime.startswith("onnxruntime ")
    assert ranges.weights_sha256 == SOURCE.identity["sha256"]


def test_every_photograph_is_judged_once(calibrated):
    """The verdict is over all photographs and views, in percent of them, and says how near int8 came."""
    verdict = calibrated[0].verdict
    assert (verdict.pictures, verdict.views) == (3, VIEWS)
    thirtieths = [share * 0.3 for share in (verdict.top1_fp32, verdict.top1_int8, verdict.agreement)]
    assert thirtieths == pytest.approx([round(count) for count in thirtieths], abs=0.01)
    assert verdict.top1_fp32 > 60
    assert verdict.agreement > 60
    assert 0 < verdict.divergence < 0.2


def test_progress_counts_photographs_of_all_passes(calibrated):
    """Each photograph counts once for measuring, and once for judging either graph."""
    _, steps = calibrated
    assert [done for done, _, _ in steps] == list(range(9))
    assert {total for _, total, _ in steps} == {9}
    assert [label for _, _, label in steps].count("measuring ranges") == 3


def test_no_photograph_is_judged_by_ranges_it_helped_to_measure(tmp_path, calibrated):
    """Ranges from a half of plain grey cut a half of photographs off, which those photographs' own would not."""
    for index in range(2):
        grey = np.full((64, 64, 3), 127, np.uint8)
        Image.fromarray(grey).save(tmp_path / f"000_{2 * index}_grey.png")
        shutil.copy(PHOTOGRAPHS / "espresso.jpg", tmp_path / f"000_{2 * index + 1}_photograph.jpg")
    verdict = calibrate(SOURCE, tmp_path, of="halves", date="2026-01-02").verdict
    assert verdict.divergence > 1 > 10 * calibrated[0].verdict.divergence


def test_too_few_and_unfit_photographs_are_refused(folder, tmp_path):
    """One photograph, a broken one, and a class that the network does not have are named."""
    shutil.copy(folder / "872_tripod.jpg", tmp_path / "872_tripod.jpg")
    with pytest.raises(EvaluationError, match="one to measure and another to judge"):
        calibrate(SOURCE, tmp_path, of="one", date="2026-01-02")
    (tmp_path / "001_broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(EvaluationError, match=r"001_broken\.jpg: .*remove it"):
        calibrate(SOURCE, tmp_path, of="broken", date="2026-01-02")
    (tmp_path / "001_broken.jpg").rename(tmp_path / "1000_beyond.jpg")
    with pytest.raises(EvaluationError, match=r"1000_beyond\.jpg"):
        calibrate(SOURCE, tmp_path, of="beyond", date="2026-01-02")


def test_the_command_writes_a_file_that_build_takes(folder, tmp_path):
    """`store calibrate` prints the verdict and keeps other members of the file; a missing folder is one line."""
    out = tmp_path / "ranges.json"
    shutil.copy(committed_path(), out)
    run = CliRunner().invoke
    done = run(app, ["store", "calibrate", "lite0", "--images", str(folder), "--out", str(out), "--of", "mine"])
    assert done.exit_code == 0, done.output
    assert "lite0" in done.stdout
    assert read_ranges(out, "lite0").measurement.of == "mine"
    assert read_ranges(out, "lite1") == committed_ranges("lite1")
    failed = run(app, ["store", "calibrate", "lite0", "--images", str(tmp_path / "none"), "--out", str(out)])
    assert failed.exit_code == 2
    assert "is not a folder" in failed.stderr


def committed_path() -> Path:
    """The ranges that come with phiserve."""
    return Path(__file__).parents[2] / "model_store" / "data" / "activation_ranges.json"
