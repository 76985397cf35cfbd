"""A decoded picture to one network's input: centre crop and resize, written into a row of a batch.

Values stay uint8; normalisation is inside the graph. Knows no queue, no session and no file.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from model_store.manifest import ModelVariant
from service.runtime.decode import RgbImage

Pixels: TypeAlias = npt.NDArray[np.uint8]

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def shorter_side_px(variant: ModelVariant) -> int:
    """Pixels the shorter side must have for the centre crop to fill the network's input without enlarging."""
    return math.ceil(variant.resolution / variant.crop_fraction)


def crop_box(width: int, height: int, resolution: int, crop_fraction: float) -> tuple[float, float, float, float]:
    """What a network sees of a picture: (left, upper, right, lower) in the picture's pixels, fractional.

    The evaluation transform these networks are measured with (torchvision's Resize and CenterCrop, as timm sets
    them up) scales the shorter side to floor(resolution / crop_fraction) and cuts out the middle
    resolution x resolution. Each edge of that cut-out, divided by the scale, is an edge of a box in the picture
    itself; resizing only that box gives the same pixels in one step, without computing the margin that is thrown
    away. The transform's roundings (longer side down, corner to even) are kept, since half a pixel of shift moves
    edges by dozens of grey levels. What is left is the rounding of grey levels: at most 1, and a few more beside
    hard edges, where the overshoot is clamped between the resize's two passes and the box changes their order.
    """
    shorter_px = math.floor(resolution / crop_fraction)
    scaled_width = shorter_px if width <= height else shorter_px * width // height
    scaled_height = shorter_px if height <= width else shorter_px * height // width
    left, right = _cut(width, scaled_width, resolution)
    upper, lower = _cut(height, scaled_height, resolution)
    return left, upper, right, lower


def _cut(length: int, scaled_length: int, resolution: int) -> tuple[float, float]:
    """Both edges of the middle `resolution` of `scaled_length` pixels, in a picture `length` pixels long."""
    start = round((scaled_length - resolution) / 2)
    # Pillow refuses a box that ends a rounding error outside.
    return start * length / scaled_length, min(float(length), (start + resolution) * length / scaled_length)


def preprocess(image: RgbImage, variant: ModelVariant, out: Pixels) -> None:
    """Crop and resize `image` for `variant` into `out`, uint8 of shape [resolution, resolution, 3].

    Any picture works, down to one pixel and up to any aspect ratio; one smaller than the network is enlarged.

    Raises:
        ValueError: `out` has another shape or type.
    """
    side = variant.resolution
    if out.shape != (side, side, 3) or out.dtype != np.uint8:
        raise ValueError(f"{variant.name} wants uint8 of shape ({side}, {side}, 3), got {out.dtype} of {out.shape}")
    box = crop_box(image.width, image.height, side, variant.crop_fraction)
    resized = image.pixels.resize((side, side), _RESAMPLING[variant.interpolation], box=box)
    out[...] = np.asarray(resized)
