"""published_checkpoints.py: the figures are whole, plausible and picked as documented."""

import pytest

from model_store.published_checkpoints import (
    CHECKPOINTS,
    best_checkpoint,
    checkpoints_of,
    default_preprocessing,
    published_top1,
)

LITE_MEMBERS = ["lite0", "lite1", "lite2", "lite3", "lite4"]
B_MEMBERS = [f"b{number}" for number in range(8)]


@pytest.mark.parametrize("member", B_MEMBERS)
def test_the_default_checkpoint_is_the_most_accurate(member):
    """Every B member has AutoAugment, AdvProp and Noisy Student weights, and the default is the best of them."""
    known = checkpoints_of(member)
    assert {"aa_in1k", "ap_in1k", "ns_jft_in1k"} <= set(known)
    assert best_checkpoint(member) is known["ns_jft_in1k"]
    assert all(best_checkpoint(member).top1 >= checkpoint.top1 for checkpoint in known.values())
    assert published_top1(member) == known["ns_jft_in1k"].top1


@pytest.mark.parametrize("tag", ["aa_in1k", "ap_in1k", "ns_jft_in1k"])
def test_accuracy_and_crop_rise_along_the_family(tag):
    """Within one training recipe a larger member is more accurate and keeps more of the picture."""
    family = [checkpoints_of(member)[tag] for member in B_MEMBERS]
    assert [c.top1 for c in family] == sorted(c.top1 for c in family)
    crops = [c.preprocessing.crop_fraction for c in family]
    assert crops == sorted(crops)
    assert len({c.hub_id for c in family}) == 8


def test_lite_accuracy_rises_along_the_family():
    """A larger Lite member is more accurate, and the best known figure is the one in its table."""
    figures = [published_top1(member) for member in LITE_MEMBERS]
    assert figures == sorted(figures)
    assert published_top1("lite2") == 77.6
    assert best_checkpoint("lite2") is None


def test_advprop_alone_is_normalised_to_plus_minus_one():
    """AdvProp weights take inputs from -1 to 1; all other B weights take ImageNet's mean and deviation."""
    for checkpoint in CHECKPOINTS:
        preprocessing = checkpoint.preprocessing
        if checkpoint.tag == "ap_in1k":
            assert preprocessing.mean == preprocessing.std == (127.5, 127.5, 127.5)
        else:
            assert preprocessing.mean == pytest.approx((123.675, 116.28, 103.53))
            assert preprocessing.std == pytest.approx((58.395, 57.12, 57.375))


def test_lite_members_use_the_reference_normalisation():
    """Lite members take (pixel - 127) / 128, whether published, own or untrained."""
    for member in LITE_MEMBERS:
        assert default_preprocessing(member).mean == (127.0, 127.0, 127.0)
        assert default_preprocessing(member).std == (128.0, 128.0, 128.0)
