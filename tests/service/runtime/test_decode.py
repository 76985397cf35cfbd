"""Every kind of picture becomes upright 8-bit RGB, within bounds, or one of our errors."""

from __future__ import annotations

import asyncio
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.core.request import PIXELS_FORMAT, ImageHeader, RawPixels
from service.errors import ImageTooLarge, InvalidImage, NotReady, Overloaded, PhiserveError, UnsupportedMediaType
from service.runtime import decode as decode_module
from service.runtime.decode import PictureDecoder, decode_rgb, take_over
from service.runtime.rgb_image import RgbImage
from tests.fakes.damage import damaged

PIXELS_MAX = 40_000_000
WHOLE = 10**6  # no network needs so many pixels, so nothing is scaled down


def pixels(image: RgbImage) -> np.ndarray:
    return image.pixels.astype(int)


def decoded(data: bytes, shorter_side_px: int = WHOLE) -> np.ndarray:
    return pixels(decode_rgb(data, shorter_side_px, PIXELS_MAX))


def close(actual, expected, tolerance: int = 0) -> bool:
    return bool(np.abs(np.asarray(actual, int) - np.asarray(expected, int)).max() <= tolerance)


# Size -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "asked", "expected"), [
    ((600, 400), 224, (600, 400)),
    ((600, 400), 200, (300, 200)),
    ((2048, 1024), 256, (512, 256)),
    ((2400, 3200), 256, (300, 400)),
    ((200, 100), 256, (200, 100)),
])  # fmt: skip
def test_a_jpeg_is_scaled_by_the_decoder_as_far_as_the_network_allows(size, asked, expected, encode, corners):
    """The decoder's 1/2, 1/4 and 1/8 are used as far as the shorter side keeps what was asked for."""
    image = decode_rgb(encode(corners(*size), "JPEG"), asked, PIXELS_MAX)
    assert (image.width, image.height) == expected


@given(width=st.integers(1, 700), height=st.integers(1, 700), asked=st.integers(1, 300))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("format_name", ["JPEG", "BMP"])
def test_the_shorter_side_keeps_what_was_asked_and_the_result_is_bounded(format_name, width, height, asked, encode):
    """The shorter side keeps what is asked or all there is, and the result is bounded by what is asked."""
    image = decode_rgb(encode(Image.new("RGB", (width, height)), format_name), asked, PIXELS_MAX)
    shorter, longer = sorted((image.width, image.height))
    assert shorter >= min(asked, width, height)
    assert shorter < 2 * decode_module.SHRINK_GAP * asked
    assert longer <= decode_module.ASPECT_MAX * shorter
    assert image.nbytes == 3 * image.width * image.height


def test_scaled_decoding_shows_the_same_picture(photograph):
    """A JPEG decoded at half size is the whole picture averaged, within a few grey levels."""
    whole = Image.fromarray(decode_rgb(photograph, WHOLE, PIXELS_MAX).pixels)
    half = decoded(photograph, 200)
    assert np.abs(half - np.asarray(whole.reduce(2)).astype(int)).mean() < 2


def test_a_panorama_keeps_its_centre(encode):
    """The ends of a far longer picture are cut, the same on both sides, so its centre stays the centre."""
    ramp = np.repeat(np.arange(1000) // 4, 3).reshape(1, 1000, 3).astype(np.uint8).repeat(100, axis=0)
    kept = decoded(encode(Image.fromarray(ramp), "PNG"))
    assert kept.shape == (100, 200, 3)
    assert close(kept, ramp[:, 400:600])


# Orientation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_turned_upright(format_name, orientation, encode, corners):
    """Stored turned or mirrored and marked so, a picture comes out as the upright one did go in."""
    upright = corners(64, 32)
    stored_by = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if stored_by is None else upright.transpose(stored_by)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format_name in ("JPEG", "WEBP") else {}
    actual = decoded(encode(stored, format_name, exif=exif, **options))
    assert actual.shape == (32, 64, 3)
    for row, column in ((4, 4), (4, 60), (28, 4), (28, 60)):
        assert close(actual[row, column], np.asarray(upright)[row, column], 12)


def test_orientation_is_applied_after_scaling(encode, corners):
    """A turned JPEG is scaled by its stored shorter side and then turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_rgb(encode(corners(800, 600), "JPEG", exif=exif), 256, PIXELS_MAX)
    assert (image.width, image.height) == (300, 400)


def test_broken_exif_costs_nothing(encode, corners):
    """A malformed EXIF block is ignored; the pixels are fine."""
    data = encode(corners(64, 32), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    decoder = PictureDecoder(1, 1, PIXELS_MAX)
    try:
        assert asyncio.run(_decode(decoder, data)).width == 64
    finally:
        decoder.close()


# Colour models --------------------------------------------------------------------------------------------


def test_transparency_is_laid_over_white(encode):
    """Transparent pixels show white whatever colour lies under them, half transparent ones the mixture."""
    layered = np.zeros((4, 6, 4), np.uint8)
    layered[:, 2:4] = (200, 0, 0, 255)
    layered[:, 4:] = (0, 0, 0, 128)
    row = decoded(encode(Image.fromarray(layered), "PNG"))[0]
    assert close(row[0], (255, 255, 255))
    assert close(row[2], (200, 0, 0))
    assert close(row[5], (127, 127, 127), 1)


def test_opaque_alpha_changes_nothing(photograph, encode):
    """An alpha channel that is opaque everywhere leaves the pixels as they are."""
    rgb = Image.fromarray(decode_rgb(photograph, WHOLE, PIXELS_MAX).pixels)
    assert close(decoded(encode(rgb.convert("RGBA"), "PNG")), np.asarray(rgb))


def test_a_palette_with_a_transparent_entry_shows_white_there(encode):
    """A GIF's transparent colour is transparent, the others are looked up."""
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([9, 9, 9, 10, 200, 30])
    picture.paste(1, (4, 0, 8, 8))
    row = decoded(encode(picture, "GIF", transparency=0))[0]
    assert close(row[0], (255, 255, 255))
    assert close(row[7], (10, 200, 30))


@pytest.mark.parametrize(("mode", "colour", "expected"), [
    ("L", 77, (77, 77, 77)),
    ("LA", (77, 255), (77, 77, 77)),
    ("LA", (77, 0), (255, 255, 255)),
    ("1", 1, (255, 255, 255)),
    ("1", 0, (0, 0, 0)),
    ("I;16", 0xFFFF, (255, 255, 255)),
    ("I;16", 0x8000, (128, 128, 128)),
    ("I;16", 0x00FF, (0, 0, 0)),
    ("RGB", (1, 2, 3), (1, 2, 3)),
])  # fmt: skip
def test_grey_bilevel_and_16_bit_pngs(mode, colour, expected, encode):
    """Every PNG colour type comes out as the 8-bit RGB that it shows."""
    assert close(decoded(encode(Image.new(mode, (5, 4), colour), "PNG")), np.broadcast_to(expected, (4, 5, 3)))


@pytest.mark.parametrize(("cmyk", "expected"), [
    ((0, 0, 0, 0), (255, 255, 255)),
    ((0, 255, 255, 0), (255, 0, 0)),
    ((0, 0, 0, 255), (0, 0, 0)),
])  # fmt: skip
@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(format_name, cmyk, expected, encode):
    """CMYK shows its colours, in the inverted form that Adobe's JPEGs use and in the plain one of TIFF."""
    data = encode(Image.new("CMYK", (16, 16), cmyk), format_name)
    assert close(decoded(data), np.broadcast_to(expected, (16, 16, 3)), 3)


def test_float_samples_are_refused_with_what_would_work(encode):
    """A TIFF of floats has no defined white; it is refused, not guessed."""
    with pytest.raises(UnsupportedMediaType, match="8-bit RGB"):
        decoded(encode(Image.new("F", (5, 4), 0.5), "TIFF"))


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(format_name, encode):
    """Of several frames the first one is the picture."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encode(frames[0], format_name, save_all=True, append_images=frames[1:])
    assert close(decoded(data)[4, 4], (250, 0, 0), 10)


# Hostile bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_picture_is_invalid(format_name, photograph, encode):
    """A picture cut in the middle is refused rather than filled up with grey."""
    data = encode(Image.fromarray(decode_rgb(photograph, 100, PIXELS_MAX).pixels), format_name)
    with pytest.raises(InvalidImage):
        decoded(data[: len(data) // 2])


def test_a_truncated_jpeg_says_so(photograph):
    """The error tells the caller what to do about it."""
    with pytest.raises(InvalidImage, match="send the whole file"):
        decoded(photograph[:-5000])


def test_a_text_bomb_in_a_png_is_refused(encode, corners):
    """Metadata that inflates beyond all measure is refused before it is all inflated."""
    plain = encode(corners(60, 40), "PNG")
    body = b"comment\x00\x00" + zlib.compress(b"a" * 20_000_000)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    with pytest.raises(InvalidImage):
        decoded(plain[:33] + chunk + plain[33:])


@pytest.mark.parametrize("side", [9_500, 65_535])
def test_a_decompression_bomb_is_too_large_and_warns_nobody(side, encode):
    """Sizes at which Pillow would warn, and at which it would raise, are both refused as too large, silently."""
    data = bytearray(encode(Image.new("RGB", (1, 1)), "BMP"))
    struct.pack_into("<ii", data, 18, side, side)
    decoder = PictureDecoder(1, 1, PIXELS_MAX)
    decoder.close()
    with warnings.catch_warnings(record=True) as warned, pytest.raises(ImageTooLarge, match="at most"):
        decoder.probe(bytes(data))
    assert not warned


def test_too_many_pixels_are_refused_before_decoding(encode):
    """The decoder keeps the pixel bound by itself, whoever calls it."""
    with pytest.raises(ImageTooLarge, match="at most 50 pixels"):
        decode_rgb(encode(Image.new("RGB", (10, 10)), "PNG"), 8, 50)


@pytest.fixture(scope="module")
def small_pictures(photograph, encode) -> list[bytes]:
    small = Image.fromarray(decode_rgb(photograph, 100, PIXELS_MAX).pixels).resize((40, 30))
    return [encode(small, name) for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")]


@pytest.mark.filterwarnings("ignore")
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_pictures_decode_or_raise_our_errors(small_pictures, data):
    """Flipped, cut, doubled and inserted bytes end in pixels or in one of our errors, never in Pillow's."""
    picture = data.draw(damaged(small_pictures, changes_max=6))
    try:
        image = decode_rgb(picture, 16, 1_000_000)
    except PhiserveError:
        return
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (image.height, image.width, 3)


# The pool -------------------------------------------------------------------------------------------------


async def _decode(decoder: PictureDecoder, data: bytes) -> RgbImage:
    return await decoder.decode(data, 64, 0)


def test_pictures_are_decoded_side_by_side(photograph):
    """Awaiting several decodes gives each its own picture, in the order asked."""

    async def run() -> list[RgbImage]:
        pictures = (decoder.decode(photograph, side, 0) for side in (64, 128, 300))
        return await asyncio.gather(*pictures)

    decoder = PictureDecoder(2, 8, PIXELS_MAX)
    try:
        assert [image.height for image in asyncio.run(run())] == [100, 200, 400]
    finally:
        decoder.close()
    assert decoder.pending == 0


class Gate:
    """Holds every decode at a gate, and counts those that arrived there."""

    def __init__(self, monkeypatch) -> None:
        self.open = threading.Event()
        self.arrived = threading.Semaphore(0)
        real = decode_module.decode_rgb

        def gated(*arguments):
            self.arrived.release()
            assert self.open.wait(20)
            return real(*arguments)

        monkeypatch.setattr(decode_module, "decode_rgb", gated)


def test_the_bound_counts_what_waits_and_what_runs(monkeypatch, photograph):
    """With one running and one waiting a pool bounded at two refuses the third, and takes again once they are done."""
    gate = Gate(monkeypatch)
    decoder = PictureDecoder(1, 2, PIXELS_MAX)

    async def run() -> None:
        tasks = [asyncio.ensure_future(decoder.decode(photograph, 64, 0)) for _ in range(2)]
        await asyncio.to_thread(gate.arrived.acquire)
        with pytest.raises(Overloaded) as refused:
            await decoder.decode(photograph, 64, 0)
        assert refused.value.retry_after_ns > 0
        gate.open.set()
        await asyncio.gather(*tasks)
        assert (await decoder.decode(photograph, 64, 0)).height == 100

    try:
        asyncio.run(run())
    finally:
        decoder.close()


def test_retry_after_follows_recent_decodes(monkeypatch, photograph):
    """Once pictures were decoded, the wish to come back later is their time over the threads."""

    class SlowClock:
        ticks = 0

        def now_ns(self) -> int:
            self.ticks += 1
            return self.ticks * 10_000_000

    decoder = PictureDecoder(1, 1, PIXELS_MAX, clock=SlowClock())

    async def run() -> int:
        await decoder.decode(photograph, 64, 0)
        gate = Gate(monkeypatch)
        task = asyncio.ensure_future(decoder.decode(photograph, 64, 0))
        await asyncio.to_thread(gate.arrived.acquire)
        with pytest.raises(Overloaded) as refused:
            await decoder.decode(photograph, 64, 0)
        gate.open.set()
        await task
        return refused.value.retry_after_ns

    try:
        assert asyncio.run(run()) == 10_000_000
    finally:
        decoder.close()


def test_a_cancelled_caller_frees_its_place(monkeypatch, photograph):
    """Cancelling a decode that still waits frees its place, and its neighbour is decoded all the same."""
    gate = Gate(monkeypatch)
    decoder = PictureDecoder(1, 2, PIXELS_MAX)

    async def run() -> int:
        running = asyncio.ensure_future(decoder.decode(photograph, 64, 0))
        await asyncio.to_thread(gate.arrived.acquire)
        waiting = asyncio.ensure_future(decoder.decode(photograph, 64, 0))
        await asyncio.wait({waiting}, timeout=0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert decoder.pending == 1
        gate.open.set()
        return (await running).height

    try:
        assert asyncio.run(run()) == 100
    finally:
        decoder.close()


def test_errors_free_their_place_and_arrive_at_the_caller():
    """A corrupt picture raises from the awaitable and leaves the pool empty."""
    decoder = PictureDecoder(1, 1, PIXELS_MAX)
    try:
        for _ in range(3):
            with pytest.raises(InvalidImage):
                asyncio.run(_decode(decoder, b"no picture"))
        assert decoder.pending == 0
    finally:
        decoder.close()


def test_a_closed_decoder_is_not_ready(photograph):
    """After `close` a decode is refused with an error a client understands."""
    decoder = PictureDecoder(1, 1, PIXELS_MAX)
    decoder.close()
    with pytest.raises(NotReady):
        asyncio.run(_decode(decoder, photograph))
    assert decoder.pending == 0


@pytest.mark.parametrize("bounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 10**9)])
def test_bounds_that_bound_nothing_are_refused(bounds):
    """Threads, queue and pixels must be positive, and pixels below what Pillow itself refuses."""
    with pytest.raises(ValueError, match="must be"):
        PictureDecoder(*bounds)


# Pixels that need no decoding -------------------------------------------------------------------------------


def raw(picture: Image.Image) -> RawPixels:
    return RawPixels(picture.width, picture.height, picture.tobytes())


def test_pixels_come_out_as_they_went_in(corners):
    """Pixels that a network can use whole are taken over unchanged, and known to be no decoded file."""
    picture = corners(300, 200)
    taken = take_over(raw(picture), 200)
    assert (pixels(taken) == np.asarray(picture)).all()
    assert taken.may_be_cropped
    assert not decode_rgb(encoded_png(picture), 200, PIXELS_MAX).may_be_cropped


def encoded_png(picture: Image.Image) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        return file.getvalue()


@pytest.mark.parametrize("size", [(2000, 1200), (3000, 300), (40, 30)])
def test_pixels_are_bounded_as_decoded_pictures_are(size, corners):
    """Large pictures are shrunk and panoramas cut exactly as if they had come in a lossless file."""
    picture = corners(*size)
    assert (pixels(take_over(raw(picture), 100)) == decoded(encoded_png(picture), 100)).all()


def test_a_decoder_probes_and_takes_pixels(corners):
    """Pixels say their size without being looked at, are bounded in number, and pass through the same pool."""
    decoder = PictureDecoder(1, 1, 5000)
    try:
        assert decoder.probe(raw(corners(70, 50))) == ImageHeader(PIXELS_FORMAT, 70, 50)
        with pytest.raises(ImageTooLarge, match="at most 5000 pixels"):
            decoder.probe(raw(corners(100, 51)))
        assert asyncio.run(_decode(decoder, raw(corners(70, 50)))).width == 70
    finally:
        decoder.close()


def test_the_earliest_deadline_is_decoded_first(monkeypatch, photograph):
    """Of the pictures that wait for the one thread, the one that is due first goes first, then in order of arrival."""
    gate = Gate(monkeypatch)
    decoder = PictureDecoder(1, 8, PIXELS_MAX)
    done: list[str] = []

    async def decode(name: str, deadline_ns: int) -> None:
        await decoder.decode(photograph, 64, deadline_ns)
        done.append(name)

    async def run() -> None:
        first = asyncio.ensure_future(decode("first", 900))
        await asyncio.to_thread(gate.arrived.acquire)
        waiting = [asyncio.ensure_future(decode(name, due)) for name, due in [("c", 500), ("a", 100), ("b", 100)]]
        await asyncio.wait(waiting, timeout=0)
        gate.open.set()
        await asyncio.gather(first, *waiting)

    try:
        asyncio.run(run())
    finally:
        decoder.close()
    assert done == ["first", "a", "b", "c"]
