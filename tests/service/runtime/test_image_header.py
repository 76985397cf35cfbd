"""The door's look at a picture: format and size, nothing decoded."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.core.request import ImageHeader
from service.errors import ImageTooLarge, InvalidImage, PhiserveError, UnsupportedMediaType
from service.runtime.image_header import SERVED_FORMATS, header_of, open_picture, read_header

PIXELS_MAX = 1_000_000


@pytest.mark.parametrize("format_name", SERVED_FORMATS)
def test_every_served_format_is_recognised(format_name, encode, corners):
    """The header of every served format gives its name and its size as stored."""
    assert read_header(encode(corners(60, 40), format_name), PIXELS_MAX) == ImageHeader(format_name, 60, 40)


def test_a_cameras_multi_picture_file_is_a_jpeg(encode, corners):
    """A JPEG with further pictures behind it (MPO) is reported as what a client calls it, a JPEG."""
    data = encode(corners(60, 40), "MPO", save_all=True, append_images=[corners(30, 20)])
    assert read_header(data, PIXELS_MAX) == ImageHeader("JPEG", 60, 40)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}, {"save_all": True}])
@given(width=st.integers(1, 300), height=st.integers(1, 300), transparent=st.booleans())
@settings(max_examples=20, deadline=None)
def test_every_kind_of_webp_says_its_size(options, width, height, transparent, encode):
    """Lossy, lossless, extended and animated WebP have their size in different places; all are read."""
    picture = Image.new("RGBA" if transparent else "RGB", (width, height), (1, 2, 3, 4) if transparent else (1, 2, 3))
    if "save_all" in options:
        options = {"save_all": True, "append_images": [picture.transpose(Image.Transpose.ROTATE_180)]}
    assert read_header(encode(picture, "WEBP", **options), PIXELS_MAX) == ImageHeader("WEBP", width, height)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(40_000)}, {"comment": "a", "dpi": (300, 300)}]
)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
@settings(max_examples=10, deadline=None)
def test_every_kind_of_jpeg_says_its_size(mode, options, width, height, encode):
    """Baseline and progressive JPEG, of any colour model, whatever segments come before the frame, as Pillow has it."""
    data = encode(Image.new(mode, (width, height)), "JPEG", **options)
    assert (
        read_header(data, PIXELS_MAX) == ImageHeader("JPEG", width, height) == header_of(open_picture(data), PIXELS_MAX)
    )


def test_a_jpeg_that_is_cut_off_before_its_size_is_an_invalid_image(encode, corners):
    """No beginning of a JPEG without its frame header passes as a picture; every one with it says the whole's size."""
    data = encode(corners(60, 40), "JPEG", comment="before the frame")
    frame_end = data.index(b"\xff\xc0") + 10
    for length in range(len(data)):
        if length >= frame_end:
            assert read_header(data[:length], PIXELS_MAX) == ImageHeader("JPEG", 60, 40)
        else:
            with pytest.raises(InvalidImage):
                read_header(data[:length], PIXELS_MAX)


@pytest.mark.parametrize("format_name", ["PPM", "ICO", "EPS", "JPEG2000", "DDS", "SGI", "ICNS"])
def test_a_picture_of_another_format_is_unsupported_and_says_what_is(format_name, encode, corners):
    """A real picture of a format that is not served is told apart from rubbish, with the served formats named."""
    with pytest.raises(UnsupportedMediaType, match="convert the picture to one of JPEG, PNG"):
        read_header(encode(corners(64, 64), format_name), PIXELS_MAX)


@pytest.mark.parametrize("data", [b"8BPS\x00\x01", b"\x00\x00\x00\x18ftypheic", b"<svg xmlns=''/>", b"%PDF-1.7"])
def test_formats_that_this_pillow_cannot_write_are_known_by_their_signature(data):
    """PSD, HEIF, SVG and PDF are unsupported media, not corrupt pictures."""
    with pytest.raises(UnsupportedMediaType):
        read_header(data, PIXELS_MAX)


@pytest.mark.parametrize(
    "data", [b"", b"hello, world", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"{}", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 "]
)
def test_what_is_not_a_picture_is_an_invalid_image(data):
    """Text, nothing, and bare signatures are refused as invalid."""
    with pytest.raises(InvalidImage):
        read_header(data, PIXELS_MAX)


def test_the_pixel_bound_is_exact(encode):
    """A picture of exactly the bound passes; one more row is too large, and the error states the bound."""
    assert read_header(encode(Image.new("L", (1000, 1000)), "PNG"), PIXELS_MAX).pixels == PIXELS_MAX
    with pytest.raises(ImageTooLarge, match="at most 1000000 pixels"):
        read_header(encode(Image.new("L", (1000, 1001)), "PNG"), PIXELS_MAX)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_png_metadata_is_not_inflated_at_the_door(monkeypatch, encode, corners):
    """The header of a PNG is read without decompressing any of the text that precedes its pixels."""
    plain = encode(corners(60, 40), "PNG")
    text = _png_chunk(b"zTXt", b"comment\x00\x00" + zlib.compress(b"a" * 1_000_000))
    data = plain[:33] + text * 50 + plain[33:]
    monkeypatch.setattr(zlib, "decompressobj", lambda *_: pytest.fail("metadata was inflated"))
    assert read_header(data, PIXELS_MAX) == ImageHeader("PNG", 60, 40)


@pytest.fixture(scope="module")
def valid_pictures() -> list[bytes]:
    pictures = []
    for format_name in SERVED_FORMATS:
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(buffer, format_name)
        pictures.append(buffer.getvalue())
    return pictures


@pytest.mark.filterwarnings("ignore")
@given(data=st.data())
def test_any_bytes_end_in_a_header_or_in_one_of_our_errors(valid_pictures, data):
    """Cut, overwritten and random headers never raise anything but our own errors."""
    picture = bytearray(data.draw(st.sampled_from([b"", *valid_pictures])))
    for _ in range(data.draw(st.integers(0, 4))):
        if picture:
            picture[data.draw(st.integers(0, min(len(picture) - 1, 80)))] = data.draw(st.integers(0, 255))
    picture += data.draw(st.binary(max_size=16))
    cut = data.draw(st.integers(0, len(picture)))
    try:
        header = read_header(bytes(picture[:cut]), PIXELS_MAX)
    except PhiserveError:
        return
    assert 1 <= header.pixels <= PIXELS_MAX
