"""Pictures, variants and small real graphs that the runtime's tests share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.manifest import ModelVariant

PHOTOGRAPHS = Path(__file__).parents[2] / "photographs"


@pytest.fixture(scope="session")
def photograph() -> bytes:
    """A real JPEG of 600 x 400 pixels."""
    return (PHOTOGRAPHS / "espresso.jpg").read_bytes()


@pytest.fixture(scope="session")
def make_variant() -> Callable[..., ModelVariant]:
    def make(name: str = "tiny", resolution: int = 16, crop_fraction: float = 0.875, class_count: int = 3):
        return ModelVariant(
            name=name,
            member=name,
            precision="fp32",
            resolution=resolution,
            crop_fraction=crop_fraction,
            interpolation="bicubic",
            class_count=class_count,
            top1=None,
            trained=False,
        )

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encode a Pillow image: `encode(image, "PNG", **options)`."""

    def encode_image(image: Image.Image, format_name: str, **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_name, **options)
        return buffer.getvalue()

    return encode_image


@pytest.fixture(scope="session")
def corners() -> Callable[[int, int], Image.Image]:
    """A picture whose four quarters have different colours, so that any turn or flip shows."""

    def make(width: int, height: int) -> Image.Image:
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: height // 2, : width // 2] = (250, 10, 10)
        pixels[: height // 2, width // 2 :] = (10, 250, 10)
        pixels[height // 2 :, : width // 2] = (10, 10, 250)
        pixels[height // 2 :, width // 2 :] = (240, 240, 240)
        return Image.fromarray(pixels)

    return make
