"""A decoded picture to one network's input: centre crop and resize, written into a row of a batch.

Values stay uint8; normalisation is inside the graph. Knows no queue, no session and no file.
"""

from __future__ import annotations

import math

import numpy as np

from model_store.manifest import ModelVariant
from service.runtime.resize import resize
from service.runtime.rgb_image import Pixels, RgbImage


def shorter_side_px(variant: ModelVariant) -> int:
    """Pixels the shorter side must have for the centre crop to fill the network's input without enlarging."""
    return math.ceil(variant.resolution / variant.crop_fraction)


def crop_box(width: int, height: int, crop_fraction: float) -> tuple[int, int, int, int]:
    """What a network sees of a picture: (left, upper, right, lower) in whole pixels of the picture.

    The evaluation transform of TensorFlow's EfficientNet release, with which the whole family was trained and its
    accuracy published: cut the middle `crop_fraction` of the shorter side out of the picture itself, in whole pixels
    (side rounded down, an odd pixel of margin to the left and top), then resize. Torchvision's order, resize then
    cut, gives a box with fractional edges; on 200 labelled photographs the two differ by up to one point of top-1
    either way.
    """
    side = max(1, int(crop_fraction * min(width, height)))
    left, upper = (width - side + 1) // 2, (height - side + 1) // 2
    return left, upper, left + side, upper + side


def preprocess(image: RgbImage, variant: ModelVariant, out: Pixels) -> None:
    """Crop and resize `image` for `variant` into `out`, uint8 of shape [resolution, resolution, 3].

    Any picture works, down to one pixel and up to any aspect ratio; one smaller than the network is enlarged. One
    that may be cropped already and has the network's size is taken as it is.

    Raises:
        ValueError: `out` has another shape or type.
    """
    side = variant.resolution
    if out.shape != (side, side, 3) or out.dtype != np.uint8:
        raise ValueError(f"{variant.name} wants uint8 of shape ({side}, {side}, 3), got {out.dtype} of {out.shape}")
    pixels = image.pixels
    if not (image.may_be_cropped and pixels.shape == out.shape):
        left, upper, right, lower = crop_box(image.width, image.height, variant.crop_fraction)
        # Cut first: a filter that is given a box of the picture reaches for pixels outside of it, along its edges.
        pixels = pixels[upper:lower, left:right]
    # As plain memory: numpy would let go of the interpreter lock for the copy, which takes 10 us, and then wait for it.
    out.data.cast("B")[:] = resize(pixels, side, variant.interpolation)
