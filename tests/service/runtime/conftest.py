"""Pictures and small real models that the runtime's tests share."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.catalogue import CatalogueEntry
from service.runtime.rgb_image import RgbImage, pixels_of
from tests.fakes.colour_models import colour_entry

PHOTOGRAPHS = Path(__file__).parents[2] / "photographs"


@pytest.fixture(scope="session")
def photograph() -> bytes:
    """A real JPEG of 600 x 400 pixels."""
    return (PHOTOGRAPHS / "espresso.jpg").read_bytes()


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


@pytest.fixture
def make_entry(tmp_path) -> Callable[..., CatalogueEntry]:
    """A catalogue entry over a real file: `make_entry(name, resolution, class_count)`."""
    return functools.partial(colour_entry, tmp_path / "store")


@pytest.fixture(scope="session")
def plain() -> Callable[..., RgbImage]:
    """A picture of one colour: `plain("red")`."""

    def make(colour: str, width: int = 40, height: int = 30) -> RgbImage:
        return RgbImage(pixels_of(Image.new("RGB", (width, height), colour)))

    return make
