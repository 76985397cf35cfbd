"""Pictures for loads are what they are called, and what is called broken is refused by the server's own decoder."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.pictures import MEDIA_TYPES, broken_pictures, photograph_of
from service.errors import InvalidImage
from service.runtime.decode import decode_rgb

ESPRESSO = (Path(__file__).parent.parent / "photographs" / "espresso.jpg").read_bytes()


@pytest.mark.parametrize("format_name", MEDIA_TYPES)
@pytest.mark.parametrize("megapixels", [0.05, 1.0])
def test_a_photograph_has_the_size_and_format_asked_for(megapixels, format_name) -> None:
    """Within a hundredth of the pixels, in the shape of the original, smaller or larger than it."""
    with Image.open(io.BytesIO(photograph_of(ESPRESSO, megapixels, format_name))) as picture:
        assert picture.format == format_name
        assert picture.width * picture.height == pytest.approx(1e6 * megapixels, rel=0.01)
        assert picture.width / picture.height == pytest.approx(1.5, rel=0.01)


def test_broken_pictures_are_refused() -> None:
    """None of them decodes: each is the caller's error, and no other."""
    for content in broken_pictures(ESPRESSO):
        with pytest.raises(InvalidImage):
            decode_rgb(content, shorter_side_px=224, pixels_max=10**8)
