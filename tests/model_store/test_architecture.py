"""architecture.py: sizes against published ones, padding against its definition, and how the parts connect."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.architecture import Conv, build_architecture
from model_store.compound_scaling import MEMBERS, released, scale

B_MEMBERS = [member for member in MEMBERS if released(member).family == "b"]
LITE_MEMBERS = [member for member in MEMBERS if released(member).family == "lite"]

# Parameters of the pretrained networks as torchvision's documentation counts them.
PARAMETERS = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
}
# In millions, from timm's table of the Lite checkpoints.
LITE_PARAMETERS_MILLIONS = {"lite0": 4.65, "lite1": 5.42, "lite2": 6.09, "lite3": 8.20, "lite4": 13.01}


@pytest.mark.parametrize("member", B_MEMBERS)
def test_sizes_are_those_of_the_paper(member):
    """Parameters are within 2 % and FLOPs within 5 % of the paper's table."""
    scaling = released(member)
    architecture = build_architecture(scaling)
    assert architecture.parameters == pytest.approx(scaling.published.parameters_millions * 1e6, rel=0.02)
    assert architecture.flops == pytest.approx(scaling.published.flops_billions * 1e9, rel=0.05)


@pytest.mark.parametrize("member", B_MEMBERS)
def test_parameters_are_counted_exactly(member):
    """The count is, to the last one, that of the same network elsewhere."""
    assert build_architecture(released(member)).parameters == PARAMETERS[member]


@pytest.mark.parametrize("member", LITE_MEMBERS)
def test_lite_parameters_are_those_published(member):
    """Parameters agree with the published millions to the last digit given."""
    millions = build_architecture(released(member)).parameters / 1e6
    assert round(millions, 2) == LITE_PARAMETERS_MILLIONS[member]


@pytest.mark.parametrize("member", MEMBERS)
def test_each_convolution_takes_what_the_one_before_gives(member):
    """Channels and sides connect from the pixels to the head, and the head sees a 32nd of the input's side."""
    architecture = build_architecture(released(member))
    channels, side = 3, released(member).resolution
    for conv in architecture.convs:
        assert (conv.in_channels, conv.in_side) == (channels, side)
        channels, side = conv.out_channels, conv.out_side
    assert side == math.ceil(released(member).resolution / 32)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_skip_joins_equal_shapes_and_every_such_pair(member):
    """A block has a skip exactly where its input and its output have one shape."""
    for block in build_architecture(released(member)).blocks:
        first, last = block.convs[0], block.convs[-1]
        same = (first.in_channels, first.in_side) == (last.out_channels, last.out_side)
        assert block.has_skip == same


@pytest.mark.parametrize("member", B_MEMBERS)
def test_squeeze_is_a_quarter_of_the_blocks_input(member):
    """Squeeze-excite works on the expanded channels and narrows to a quarter of the channels before expansion."""
    for block in build_architecture(released(member)).blocks:
        assert block.squeeze_excite.channels == block.depthwise.out_channels
        assert block.squeeze_excite.squeezed == block.convs[0].in_channels // 4


@pytest.mark.parametrize("member", LITE_MEMBERS)
def test_lite_keeps_its_ends_and_drops_squeeze_excite(member):
    """Lite has ReLU6, no squeeze-excite, an unscaled stem and head, and one block in the first and last stage."""
    architecture = build_architecture(released(member))
    assert architecture.activation == "relu6"
    assert all(block.squeeze_excite is None for block in architecture.blocks)
    assert (architecture.stem.out_channels, architecture.head.out_channels) == (32, 1280)
    assert (len(architecture.stages[0]), len(architecture.stages[-1])) == (1, 1)


def test_only_the_classifier_depends_on_the_classes():
    """Another number of classes changes the classifier's two tensors and no other."""
    thousand = build_architecture(released("b2")).tensor_shapes()
    three = build_architecture(released("b2"), class_count=3).tensor_shapes()
    assert list(thousand) == list(three)
    assert {name for name in three if three[name] != thousand[name]} == {"classifier.weight", "classifier.bias"}
    assert (three["classifier.weight"], three["classifier.bias"]) == ((3, 1408), (3,))


@pytest.mark.parametrize("class_count", [0, -1])
def test_a_network_without_classes_is_refused(class_count):
    """Fewer than one class is an error that says so."""
    with pytest.raises(ValueError, match="at least one class"):
        build_architecture(released("b0"), class_count=class_count)


@pytest.mark.parametrize("phi", [0.0, 1.0, 2.5])
def test_one_step_of_phi_about_doubles_the_flops(phi):
    """FLOPs grow by 1.92 a step, as far as rounding channels and repeats lets them (the paper's equation 3)."""
    ratio = build_architecture(scale(phi + 1)).flops / build_architecture(scale(phi)).flops
    assert 1.6 < ratio < 2.6


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        (224, 3, 2, (0, 1)),  # even sides are padded after only
        (225, 3, 2, (1, 1)),
        (7, 5, 2, (2, 2)),
        (8, 5, 2, (1, 2)),
        (14, 3, 1, (1, 1)),
        (14, 5, 1, (2, 2)),
        (19, 1, 1, (0, 0)),
        (9, 1, 2, (0, 0)),
        (1, 5, 2, (2, 2)),
    ],
)
def test_padding_is_that_of_tensorflow(side, kernel, stride, padding):
    """Known cases of SAME: the odd pixel goes after, and a kernel that fits needs none."""
    assert Conv("any", 3, 8, kernel, stride, 1, side).padding == padding


@given(side=st.integers(1, 700), kernel=st.sampled_from([1, 3, 5, 7]), stride=st.integers(1, 3))
def test_padding_is_the_least_that_fills_every_window(side, kernel, stride):
    """SAME gives ceil(side / stride) windows, pads no more than the last one needs, and evenly up to one pixel."""
    conv = Conv("any", 3, 8, kernel, stride, 1, side)
    before, after = conv.padding
    assert conv.out_side == math.ceil(side / stride)
    assert (before + side + after - kernel) // stride + 1 == conv.out_side
    assert after - before in {0, 1}
    if after > 0:
        last_window_end = (conv.out_side - 1) * stride - before + kernel
        assert last_window_end == side + after
