"""One box-resize gives the pixels of the published evaluation transform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.runtime.decode import decode_rgb
from service.runtime.preprocess import crop_box, preprocess
from service.runtime.rgb_image import RgbImage, pixels_of
from tests.fakes.colour_models import variant_of


def in_two_steps(picture: Image.Image, resolution: int, crop_fraction: float) -> np.ndarray:
    """Cut out the centre, then resize: the published transform, written plainly."""
    side = int(crop_fraction * min(picture.size))
    left, upper = (picture.width - side + 1) // 2, (picture.height - side + 1) // 2
    cut = picture.crop((left, upper, left + side, upper + side))
    return np.asarray(cut.resize((resolution, resolution), Image.Resampling.BICUBIC)).astype(int)


def in_one_step(picture: Image.Image, variant) -> np.ndarray:
    out = np.zeros((variant.resolution, variant.resolution, 3), np.uint8)
    preprocess(RgbImage(pixels_of(picture)), variant, out)
    return out.astype(int)


@pytest.mark.parametrize("resolution", [224, 240, 260, 300])
def test_a_photograph_comes_out_as_from_crop_then_resize(resolution, photograph):
    """On a real photograph one step gives the pixels that cutting first and resizing then gives, but for rounding."""
    picture = Image.fromarray(decode_rgb(photograph, 10**6, 10**8).pixels)
    off = np.abs(in_one_step(picture, variant_of(resolution=resolution)) - in_two_steps(picture, resolution, 0.875))
    assert off.mean() < 0.5
    assert off.max() <= 24


@given(
    width=st.integers(20, 200),
    height=st.integers(20, 200),
    crop_fraction=st.sampled_from([0.875, 0.95, 1.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_any_size_comes_out_as_from_crop_then_resize(width, height, crop_fraction, seed):
    """For any size and crop, noise included, one step and two give the same pixels, but for rounding."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(noise)
    variant = variant_of(resolution=32, crop_fraction=crop_fraction)
    off = np.abs(in_one_step(picture, variant) - in_two_steps(picture, 32, crop_fraction))
    assert off.mean() < 1.0
    assert off.max() <= 24


@given(width=st.integers(1, 100_000), height=st.integers(1, 100_000), crop_fraction=st.floats(0.5, 1.0))
def test_the_box_lies_inside_the_picture_around_its_centre(width, height, crop_fraction):
    """For any size the box is a square inside, centred to half a pixel, and as wide as the crop fraction says."""
    left, upper, right, lower = crop_box(width, height, crop_fraction)
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    assert right - left == lower - upper == max(1, int(crop_fraction * min(width, height)))
    assert abs((left + right) - width) <= 1
    assert abs((upper + lower) - height) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_tiny_and_extreme_pictures_work(size):
    """A single pixel and a thin line are enlarged to the network's input."""
    assert (in_one_step(Image.new("RGB", size, (9, 8, 7)), variant_of()) == (9, 8, 7)).all()


def test_only_its_own_row_of_the_batch_is_written():
    """Writing one row of a batch leaves its neighbours alone."""
    batch = np.full((3, 16, 16, 3), 5, np.uint8)
    preprocess(RgbImage(pixels_of(Image.new("RGB", (40, 30), (1, 2, 3)))), variant_of(), batch[1])
    assert (batch[1] == (1, 2, 3)).all()
    assert (batch[[0, 2]] == 5).all()


@pytest.mark.parametrize("out", [np.zeros((16, 15, 3), np.uint8), np.zeros((16, 16, 3), np.float32)])
def test_a_wrong_buffer_is_refused(out):
    """A buffer of another shape or type is a programming error, named with what is wanted."""
    with pytest.raises(ValueError, match="wants uint8 of shape"):
        preprocess(RgbImage(np.zeros((4, 4, 3), np.uint8)), variant_of(), out)


def test_pixels_of_the_networks_size_are_its_input(photograph):
    """A picture that may be cropped already is used whole at exactly the network's size, and cropped at any other."""
    picture = Image.fromarray(decode_rgb(photograph, 10**6, 10**8).pixels).resize((240, 240))
    out = np.zeros((240, 240, 3), np.uint8)
    preprocess(RgbImage(pixels_of(picture), may_be_cropped=True), variant_of(resolution=240), out)
    assert (out == np.asarray(picture)).all()
    assert (in_one_step(picture, variant_of(resolution=240)) != out).any()
    smaller = np.zeros((224, 224, 3), np.uint8)
    preprocess(RgbImage(pixels_of(picture), may_be_cropped=True), variant_of(resolution=224), smaller)
    assert (smaller == in_one_step(picture, variant_of(resolution=224))).all()
