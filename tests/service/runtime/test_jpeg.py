"""JPEGs come out the same with the codec and with Pillow alone: the pixels to the bit, and the errors to the word."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageTooLarge, PhiserveError
from service.runtime import jpeg
from service.runtime.decode import decode_rgb
from tests.fakes.damage import damaged

PIXELS_MAX = 40_000_000
WHOLE = 10**6  # no network needs so many pixels, so nothing is scaled down

needs_codec = pytest.mark.skipif(jpeg.CODEC == "pillow", reason="simplejpeg has no wheel for this platform")


def outcome(data: bytes, asked: int) -> np.ndarray | tuple[type, str]:
    """The pixels, or what the caller is told."""
    try:
        return decode_rgb(data, asked, PIXELS_MAX).pixels
    except PhiserveError as error:
        return type(error), str(error)


def outcome_by_pillow(data: bytes, asked: int) -> np.ndarray | tuple[type, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "simplejpeg", None)
        return outcome(data, asked)


def is_the_same(data: bytes, asked: int) -> bool:
    ours, pillows = outcome(data, asked), outcome_by_pillow(data, asked)
    if isinstance(ours, tuple) or isinstance(pillows, tuple):
        return ours == pillows
    return np.array_equal(ours, pillows)


def by_codec(data: bytes, asked: int = WHOLE) -> bool:
    """Whether Pillow is not asked."""
    return jpeg.decode(data, asked, PIXELS_MAX) is not None


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "a camera's maker"
    exif[0x0112] = orientation
    return exif


def detailed(width: int, height: int, seed: int = 1) -> Image.Image:
    """Coarse colours with noise on them, so that every coefficient counts."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height))
    noise = random.normal(0, 12, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


# The same pixels ------------------------------------------------------------------------------------------


@needs_codec
@pytest.mark.parametrize("asked", [WHOLE, 300, 200, 150, 100, 50, 20])
def test_a_photograph_has_pillows_pixels_at_every_scale(photograph, asked):
    """From the whole picture down to an eighth of it, and averaged beyond, no value differs from Pillow's."""
    assert by_codec(photograph, asked)
    assert is_the_same(photograph, asked)


@needs_codec
@given(
    size=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    asked=st.integers(1, 200),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0", None]),
    options=st.fixed_dictionaries(
        {"quality": st.integers(5, 75), "progressive": st.booleans()},  # above, Pillow's buffer is too small for noise
        optional={"restart_marker_rows": st.just(1), "exif": st.integers(0, 9).map(turned)},
    ),
)
@example(size=(8, 8), asked=8, subsampling="4:2:0", options={})
@example(size=(132, 237), asked=100, subsampling="4:4:4", options={"quality": 100})
@example(size=(300, 8), asked=1, subsampling="4:2:0", options={"exif": turned(5)})
@settings(max_examples=120, deadline=None)
def test_any_everyday_jpeg_has_pillows_pixels(encode, size, asked, subsampling, options):
    """Of any size, sampling, coding and orientation, grey too, at any scale: the codec gives Pillow's very pixels."""
    if subsampling is None:
        data = encode(detailed(*size).convert("L"), "JPEG", **options)
    else:
        data = encode(detailed(*size), "JPEG", subsampling=subsampling, **options)
    assert by_codec(data, asked)
    assert is_the_same(data, asked)


@needs_codec
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cameras_orientation_is_read_without_pillow(orientation, encode):
    """A picture that EXIF turns is decoded by the codec, and turned as Pillow turns it."""
    data = encode(detailed(64, 40), "JPEG", exif=turned(orientation))
    assert by_codec(data)
    assert is_the_same(data, WHOLE)


@needs_codec
def test_exif_counts_before_xmp():
    """What editors write beside a camera's EXIF is not asked, as Pillow does not."""
    data = with_xmp(6, turned(1))
    assert by_codec(data)
    assert is_the_same(data, WHOLE)


# What is left to Pillow -----------------------------------------------------------------------------------


def saved(picture: Image.Image, format_name: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_name, **options)
    return file.getvalue()


def with_xmp(orientation: int, exif: Image.Exif | None = None) -> bytes:
    """A JPEG whose XMP says how to turn it."""
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    return saved(detailed(64, 40), xmp=xmp, **({} if exif is None else {"exif": exif}))


def with_two_exif_blocks() -> bytes:
    data = saved(detailed(64, 40), exif=turned(6))
    at = data.index(b"\xff\xe1")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:end] + data[at:end] + data[end:]


def with_a_stray_marker() -> bytes:
    """FF 01 stands for nothing; libjpeg passes over it, and Pillow refuses the file."""
    data = saved(detailed(64, 40))
    at = data.index(b"\xff\xc4")
    return data[:at] + b"\xff\x01" + data[at:]


def with_exif_after_the_frame() -> bytes:
    data = saved(detailed(64, 40), exif=turned(6))
    at = data.index(b"\xff\xe1")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    after = data.index(b"\xff\xc4")
    return data[:at] + data[end:after] + data[at:end] + data[after:]


def with_exif(tiff: bytes) -> bytes:
    return saved(detailed(64, 40), exif=b"Exif\0\0" + tiff)


@pytest.mark.parametrize("data", [
    pytest.param(with_xmp(6), id="turned by XMP"),
    pytest.param(with_two_exif_blocks(), id="EXIF in two parts"),
    pytest.param(with_exif(b"II*\0\xff\xff\xff\xff"), id="EXIF without a directory"),
    pytest.param(with_exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0\0\0\0\0"), id="EXIF of long"),
    pytest.param(with_exif(b"II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\0\0\0\x08\0\0\0"
                           b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"), id="EXIF with a value that is not there"),
    pytest.param(with_exif_after_the_frame(), id="EXIF after the frame"),
    pytest.param(with_a_stray_marker(), id="a stray marker"),
    pytest.param(saved(detailed(64, 40).convert("CMYK")), id="CMYK"),
    pytest.param(saved(detailed(64, 7)), id="smaller than a block"),
    pytest.param(saved(detailed(64, 40))[:-2], id="without its end"),
    pytest.param(saved(detailed(64, 40))[:-200], id="cut off"),
    pytest.param(saved(detailed(64, 40), "PNG"), id="PNG"),
    pytest.param(b"", id="nothing"),
])  # fmt: skip
def test_what_is_unusual_is_pillows(data):
    """What the codec is not asked for, or refuses, is what Pillow alone makes of it, pixels or error."""
    assert not by_codec(data)
    assert is_the_same(data, WHOLE)


def test_the_first_of_several_pictures_is_taken(encode):
    """A camera's multi-picture file is the JPEG that it begins with."""
    data = encode(detailed(64, 40), "MPO", save_all=True, append_images=[detailed(64, 40, seed=2)])
    assert is_the_same(data, WHOLE)


def test_the_bound_on_pixels_holds(encode):
    """A JPEG of more pixels than are taken is refused, with the bound in the error."""
    with pytest.raises(ImageTooLarge, match=re.escape("64 x 40 pixels; at most 2559")):
        decode_rgb(encode(detailed(64, 40), "JPEG"), WHOLE, 2559)


@pytest.fixture(scope="module")
def small_jpegs() -> list[bytes]:
    picture = detailed(48, 40)
    options = [{}, {"progressive": True}, {"subsampling": "4:4:4", "exif": turned(6)}, {"restart_marker_rows": 1}]
    return [saved(picture, quality=60, **option) for option in options]


@pytest.mark.filterwarnings("ignore")
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_broken_jpegs_end_as_with_pillow_alone(small_jpegs, data):
    """Flipped, cut, doubled and inserted bytes give Pillow's pixels or Pillow's error, whatever the codec says."""
    picture = data.draw(damaged(small_jpegs, changes_max=3))
    assert is_the_same(picture, data.draw(st.sampled_from([WHOLE, 16])))


# Without the library --------------------------------------------------------------------------------------


def test_without_the_library_pillow_decodes(monkeypatch, photograph):
    """Where there is no wheel every JPEG is Pillow's, scaled and whole."""
    expected = Image.open(io.BytesIO(photograph)).convert("RGB")
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert not by_codec(photograph)
    assert np.array_equal(decode_rgb(photograph, WHOLE, PIXELS_MAX).pixels, np.asarray(expected))
