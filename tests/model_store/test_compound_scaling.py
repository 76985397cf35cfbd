"""compound_scaling.py: the released tables, the formula, and the rounding of channels and repeats."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.compound_scaling import (
    ALPHA,
    BASE_RESOLUTION,
    BETA,
    CHANNEL_MULTIPLE,
    GAMMA,
    MEMBERS,
    UnknownMember,
    released,
    round_filters,
    round_repeats,
    scale,
)

# Width, depth and input side as in the parameters that the TensorFlow release trains its networks with.
TABLE = {
    "b0": (1.0, 1.0, 224),
    "b1": (1.0, 1.1, 240),
    "b2": (1.1, 1.2, 260),
    "b3": (1.2, 1.4, 300),
    "b4": (1.4, 1.8, 380),
    "b5": (1.6, 2.2, 456),
    "b6": (1.8, 2.6, 528),
    "b7": (2.0, 3.1, 600),
    "lite0": (1.0, 1.0, 224),
    "lite1": (1.0, 1.1, 240),
    "lite2": (1.1, 1.2, 260),
    "lite3": (1.2, 1.4, 280),
    "lite4": (1.4, 1.8, 300),
}
PHIS = st.floats(0, 10)
CHANNELS = st.integers(1, 4096)
COEFFICIENTS = st.floats(0.05, 8)


def test_the_members_are_the_released_ones():
    """There are B0–B7 and Lite0–4, in that order."""
    assert tuple(TABLE) == MEMBERS


@pytest.mark.parametrize("member", MEMBERS)
def test_released_members_have_their_coefficients(member):
    """Each member carries its own name, family and the coefficients that its weights were trained with."""
    scaling = released(member)
    assert scaling.member == member
    assert scaling.family == member.rstrip("0123456789")
    assert (scaling.width_coefficient, scaling.depth_coefficient, scaling.resolution) == TABLE[member]
    assert 0.8 < scaling.crop_fraction < 1


@pytest.mark.parametrize("family", ["b", "lite"])
def test_a_family_trades_size_for_accuracy(family):
    """Up the family, the input grows with every member and so does the published top-1."""
    scalings = [released(member) for member in MEMBERS if released(member).family == family]
    for smaller, larger in itertools.pairwise(scalings):
        assert smaller.resolution < larger.resolution
        assert smaller.published.top1 < larger.published.top1


@pytest.mark.parametrize("member", ["b8", "B0", "b3-int8", ""])
def test_an_unknown_member_is_refused_with_the_known_ones(member):
    """The error names what was asked for and every member that there is."""
    with pytest.raises(UnknownMember) as refusal:
        released(member)
    assert repr(member) in str(refusal.value)
    assert all(known in str(refusal.value) for known in MEMBERS)


def test_one_step_of_phi_doubles_the_work():
    """Depth grows the work once, width and resolution squared: the three bases give a factor of about 2."""
    assert math.isclose(ALPHA * BETA**2 * GAMMA**2, 2, rel_tol=0.05)


def test_phi_zero_is_the_baseline():
    """At phi = 0 nothing is scaled: the network is B0."""
    baseline = scale(0)
    assert (baseline.width_coefficient, baseline.depth_coefficient, baseline.resolution) == TABLE["b0"]
    assert baseline.crop_fraction == 0.875


def test_a_whole_phi_follows_the_formula():
    """At phi = 2: depth 1.44, width 1.21, and a side of 224 * 1.3225 = 296.24, rounded to the even 296."""
    scaling = scale(2)
    assert scaling.member == "phi2"
    assert scaling.depth_coefficient == pytest.approx(1.44)
    assert scaling.width_coefficient == pytest.approx(1.21)
    assert scaling.resolution == 296


@given(phi=PHIS)
def test_any_phi_gives_an_even_side_near_the_formula(phi):
    """The side is an even number of pixels, at most one from 224 * 1.15**phi, and the crop is a proper fraction."""
    scaling = scale(phi)
    assert scaling.resolution % 2 == 0
    assert abs(scaling.resolution - BASE_RESOLUTION * GAMMA**phi) <= 1 + 1e-9
    assert 0.8 < scaling.crop_fraction < 1


@given(phi=PHIS, step=st.floats(0.1, 3))
def test_a_larger_phi_scales_everything_up(phi, step):
    """Width, depth and resolution grow together, never one against another."""
    smaller, larger = scale(phi), scale(phi + step)
    assert smaller.width_coefficient < larger.width_coefficient
    assert smaller.depth_coefficient < larger.depth_coefficient
    assert smaller.resolution < larger.resolution


@pytest.mark.parametrize("phi", [-0.1, -1, math.inf, -math.inf, math.nan])
def test_a_phi_that_scales_nothing_up_is_refused(phi):
    """A phi that is negative, infinite or no number is refused with the range that would have worked."""
    with pytest.raises(ValueError, match="0 or more"):
        scale(phi)


@pytest.mark.parametrize(
    ("channels", "width", "rounded"),
    [(32, 1.1, 32), (16, 1.4, 24), (24, 1.4, 32), (40, 1.1, 48), (112, 1.2, 136), (320, 1.8, 576), (1280, 2.0, 2560)],
)
def test_channels_round_as_in_the_released_networks(channels, width, rounded):
    """Known channels of B2 to B7 come out as in their checkpoints."""
    assert round_filters(channels, width) == rounded


@given(channels=CHANNELS, width=COEFFICIENTS)
def test_channels_round_to_a_multiple_of_eight_that_keeps_nine_tenths(channels, width):
    """The result is a multiple of 8, at least 90 % of the exact value, and the nearest such multiple."""
    exact = channels * width
    rounded = round_filters(channels, width)
    assert rounded % CHANNEL_MULTIPLE == 0
    assert rounded >= max(CHANNEL_MULTIPLE, 0.9 * exact)
    if abs(rounded - exact) > CHANNEL_MULTIPLE / 2:
        # Farther than the nearest one only where that one would lose a tenth, or where it would be none.
        assert rounded == CHANNEL_MULTIPLE or rounded - CHANNEL_MULTIPLE < 0.9 * exact


@given(multiple=st.integers(1, 512))
def test_unscaled_channels_stay(multiple):
    """A width of 1 leaves a multiple of 8 alone."""
    assert round_filters(multiple * CHANNEL_MULTIPLE, 1.0) == multiple * CHANNEL_MULTIPLE


@given(repeats=st.integers(1, 20), depth=st.floats(0.01, 8))
def test_repeats_round_up(repeats, depth):
    """Repeats are the least whole number that is not below the scaled one, and never none."""
    scaled = round_repeats(repeats, depth)
    assert scaled >= 1
    assert scaled - 1 < repeats * depth <= scaled


@pytest.mark.parametrize(("repeats", "depth", "rounded"), [(1, 1.1, 2), (4, 1.4, 6), (3, 3.1, 10), (4, 3.1, 13)])
def test_repeats_round_as_in_the_released_networks(repeats, depth, rounded):
    """Known repeats of B1, B3 and B7 come out as in their checkpoints, which no exact fraction contradicts."""
    assert round_repeats(repeats, depth) == rounded == math.ceil(repeats * Fraction(str(depth)))
