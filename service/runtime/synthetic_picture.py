"""A made-up picture that costs what a photograph costs to decode, crop and run. For warm-up and calibration.

Photographs hold structure at every scale with an amplitude that falls with frequency (the 1/f law of natural
images: Field, 1987), plus sensor noise. Flat or random pixels would be far cheaper or dearer to decode.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from service.runtime.rgb_image import RgbImage

_SEED = 224


def synthetic_picture(width: int, height: int) -> RgbImage:
    """An RGB picture of `width` x `height` pixels; the same one each time."""
    random = np.random.default_rng(_SEED)
    total = np.zeros((height, width, 3), np.float32)
    scale, amplitude = 2, 60.0
    while scale < max(width, height):
        # Each octave: random values on a coarse grid, smoothly enlarged; finer grids, smaller amplitudes.
        grid = random.integers(0, 256, (scale, scale, 3), np.uint8)
        octave = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
        for band in _bands(height):
            total[band] += (octave[band].astype(np.float32) - 128) * (amplitude / 128)
        scale, amplitude = scale * 2, amplitude * 0.75
    pixels = np.empty(total.shape, np.uint8)
    for band in _bands(height):
        total[band] += random.normal(128, 6.0, total[band].shape).astype(np.float32)
        pixels[band] = total[band].clip(0, 255)
    return RgbImage(pixels)


def _bands(height: int) -> Iterator[slice]:
    """Rows to work on at a time: whole pictures of eight bytes a value would take more than what is measured."""
    return (slice(top, top + 64) for top in range(0, height, 64))


def synthetic_jpeg(width: int, height: int) -> bytes:
    """The same, stored as JPEG (quality 95, halved chroma): 3 to 4 bits a pixel, as photographs of ImageNet have."""
    buffer = io.BytesIO()
    Image.fromarray(synthetic_picture(width, height).pixels).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    return buffer.getvalue()
