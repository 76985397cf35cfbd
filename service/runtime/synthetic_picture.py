"""A made-up picture that costs what a photograph costs to decode, crop and run. For warm-up and calibration.

Photographs hold structure at every scale with an amplitude that falls with frequency (the 1/f law of natural
images: Field, 1987), plus sensor noise. Flat or random pixels would be far cheaper or dearer to decode.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from service.runtime.decode import RgbImage

_SEED = 224


def synthetic_picture(width: int, height: int) -> RgbImage:
    """An RGB picture of `width` x `height` pixels; the same one each time."""
    random = np.random.default_rng(_SEED)
    total = np.zeros((height, width, 3), np.float32)
    scale, amplitude = 2, 60.0
    while scale < max(width, height):
        # Each octave: random values on a coarse grid, smoothly enlarged; finer grids, smaller amplitudes.
        grid = random.integers(0, 256, (scale, scale, 3), np.uint8)
        octave = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(octave, np.float32) - 128) * (amplitude / 128)
        scale, amplitude = scale * 2, amplitude * 0.75
    total += random.normal(128, 6.0, total.shape).astype(np.float32)
    return RgbImage(Image.fromarray(total.clip(0, 255).astype(np.uint8)))


def synthetic_jpeg(width: int, height: int) -> bytes:
    """The same, stored as JPEG (quality 95, halved chroma): 3 to 4 bits a pixel, as photographs of ImageNet have."""
    buffer = io.BytesIO()
    synthetic_picture(width, height).pixels.save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    return buffer.getvalue()
