"""Resizing by SIMD and by Pillow agree, whatever the picture, and on any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.runtime import resize as resizing
from service.runtime.decode import decode_rgb
from service.runtime.resize import resize
from service.runtime.rgb_image import pixels_of

needs_simd = pytest.mark.skipif(resizing.ENGINE != "simd", reason="cykooz_resizer has no wheel for this platform")


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def resized(picture: Image.Image, side_px: int, interpolation: str) -> np.ndarray:
    return np.frombuffer(resize(pixels_of(picture), side_px, interpolation), np.uint8).reshape(side_px, side_px, 3)


def off(picture: Image.Image, side_px: int, interpolation: str) -> np.ndarray:
    """How far each value is from Pillow's."""
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    ours = resized(picture, side_px, interpolation).astype(int)
    return np.abs(ours - np.asarray(picture.resize((side_px, side_px), filters[interpolation])).astype(int))


@needs_simd
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side_px", [224, 260])
def test_a_photograph_is_reduced_as_by_pillow(photograph: bytes, side_px: int, interpolation: str) -> None:
    """On average the values are within half a step of Pillow's; none is far off."""
    found = off(Image.fromarray(decode_rgb(photograph, 10**6, 10**8).pixels), side_px, interpolation)
    assert found.mean() < 0.5
    assert found.max() <= 24


@given(st.integers(16, 300), st.integers(16, 300), st.integers(16, 64), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_any_size_is_resized_as_by_pillow(width: int, height: int, side_px: int, seed: int) -> None:
    """Reducing noise, the worst there is, stays close to Pillow; enlarging is Pillow's own."""
    found = off(noise(width, height, seed), side_px, "bicubic")
    assert found.mean() < 1.0
    if min(width, height) < side_px:
        assert not found.any()


def test_a_flat_picture_stays_flat() -> None:
    """No filter may ring where there is nothing to ring at, up to the edges."""
    assert (resized(Image.new("RGB", (401, 307), (250, 3, 128)), 224, "bicubic") == (250, 3, 128)).all()


def test_threads_do_not_meet() -> None:
    """Many threads at once get what one gets alone."""
    pictures = [noise(300 + 7 * index, 280, index) for index in range(16)]
    alone = [resized(picture, 224, "bicubic") for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda picture: resized(picture, 224, "bicubic"), pictures * 4))
    assert all((found == alone[index % 16]).all() for index, found in enumerate(together))


def test_without_the_library_pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no wheel the result is exactly Pillow's."""
    monkeypatch.setattr(resizing, "cykooz_resizer", None)
    assert not off(noise(300, 200, 1), 64, "bicubic").any()
