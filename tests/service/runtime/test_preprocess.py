"""One box-resize gives the pixels of the published evaluation transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.runtime.decode import RgbImage, decode_rgb
from service.runtime.preprocess import crop_box, preprocess
from tests.fakes.colour_models import variant_of


def in_two_steps(picture: Image.Image, resolution: int, crop_fraction: float) -> np.ndarray:
    """Resize the shorter side, then cut out the centre: torchvision's Resize and CenterCrop, written plainly."""
    shorter = math.floor(resolution / crop_fraction)
    scale = shorter / min(picture.size)
    width, height = (shorter if side == min(picture.size) else int(side * scale + 1e-9) for side in picture.size)
    scaled = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, upper = round((width - resolution) / 2), round((height - resolution) / 2)
    return np.asarray(scaled.crop((left, upper, left + resolution, upper + resolution))).astype(int)


def in_one_step(picture: Image.Image, variant) -> np.ndarray:
    out = np.zeros((variant.resolution, variant.resolution, 3), np.uint8)
    preprocess(RgbImage(picture), variant, out)
    return out.astype(int)


@pytest.mark.parametrize("resolution", [224, 240, 260, 300])
def test_a_photograph_comes_out_as_from_resize_then_crop(resolution, photograph):
    """On a real photograph one step and two differ by at most one grey level nearly everywhere, 0.4 on average."""
    picture = decode_rgb(photograph, 10**6, 10**8).pixels
    difference = np.abs(
        in_one_step(picture, variant_of(resolution=resolution)) - in_two_steps(picture, resolution, 0.875)
    )
    assert np.quantile(difference, 0.999) <= 1
    assert difference.mean() < 0.4


@given(
    width=st.integers(20, 200),
    height=st.integers(20, 200),
    crop_fraction=st.sampled_from([0.875, 0.95, 1.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_without_clamping_the_difference_is_rounding(width, height, crop_fraction, seed):
    """Where no overshoot is clamped, one step and two differ by at most two grey levels, for any size."""
    noise = np.random.default_rng(seed).integers(100, 150, (height, width, 3), np.uint8)
    picture = Image.fromarray(noise)
    variant = variant_of(resolution=32, crop_fraction=crop_fraction)
    assert np.abs(in_one_step(picture, variant) - in_two_steps(picture, 32, crop_fraction)).max() <= 2


@given(
    width=st.integers(1, 100_000),
    height=st.integers(1, 100_000),
    resolution=st.integers(1, 800),
    crop_fraction=st.floats(0.5, 1.0),
)
def test_the_box_lies_inside_the_picture_around_its_centre(width, height, resolution, crop_fraction):
    """For any size the box is inside, centred to half a scaled pixel, and as wide as the crop fraction says."""
    left, upper, right, lower = crop_box(width, height, resolution, crop_fraction)
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    scaled = math.floor(resolution / crop_fraction)
    pixel = max(width, height) / scaled
    assert abs((left + right) - width) <= 1.01 * pixel
    assert abs((upper + lower) - height) <= 1.01 * pixel
    shorter = min(width, height)
    side = (right - left) if width <= height else (lower - upper)
    assert side == pytest.approx(shorter * resolution / scaled)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_tiny_and_extreme_pictures_work(size):
    """A single pixel and a thin line are enlarged to the network's input."""
    assert (in_one_step(Image.new("RGB", size, (9, 8, 7)), variant_of()) == (9, 8, 7)).all()


def test_only_its_own_row_of_the_batch_is_written():
    """Writing one row of a batch leaves its neighbours alone."""
    batch = np.full((3, 16, 16, 3), 5, np.uint8)
    preprocess(RgbImage(Image.new("RGB", (40, 30), (1, 2, 3))), variant_of(), batch[1])
    assert (batch[1] == (1, 2, 3)).all()
    assert (batch[[0, 2]] == 5).all()


@pytest.mark.parametrize("out", [np.zeros((16, 15, 3), np.uint8), np.zeros((16, 16, 3), np.float32)])
def test_a_wrong_buffer_is_refused(out):
    """A buffer of another shape or type is a programming error, named with what is wanted."""
    with pytest.raises(ValueError, match="wants uint8 of shape"):
        preprocess(RgbImage(Image.new("RGB", (4, 4))), variant_of(), out)
