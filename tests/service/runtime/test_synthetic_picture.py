"""The made-up picture costs what a photograph costs."""

from __future__ import annotations

import numpy as np

from service.runtime.decode import decode_rgb
from service.runtime.synthetic_picture import synthetic_jpeg, synthetic_picture


def test_it_is_the_same_each_time_and_of_the_asked_size():
    """Two calls give equal pixels, so that profiles of two starts are comparable."""
    first, second = synthetic_picture(90, 60), synthetic_picture(90, 60)
    assert (first.width, first.height) == (90, 60)
    assert np.array_equal(first.pixels, second.pixels)


def test_its_jpeg_holds_as_many_bits_a_pixel_as_a_photograph():
    """Between 2.5 and 6 bits a pixel: neither flat, which decodes too fast, nor noise, which decodes too slowly."""
    data = synthetic_jpeg(500, 375)
    assert 2.5 < 8 * len(data) / (500 * 375) < 6
    assert decode_rgb(data, 300, 10**6).height == 375


def test_it_has_structure_at_every_scale():
    """Averaged into blocks it still varies, as photographs do and noise does not."""
    pixels = np.asarray(synthetic_picture(256, 256).pixels).astype(float)[..., 1]
    for block in (4, 16, 64):
        means = pixels.reshape(256 // block, block, 256 // block, block).mean(axis=(1, 3))
        assert means.std() > 8
