"""What can be known of an encoded picture without decoding it: its format, its size, whether it is served.

Runs on the event loop, so it never decodes a pixel, makes no canvas, inflates no PNG metadata, and lets no
Pillow plugin but those of the served formats see the bytes.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError, features

from service.core.request import ImageHeader
from service.errors import ImageTooLarge, InvalidImage, UnsupportedMediaType
from service.runtime import jpeg_header

SERVED_FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF") + (
    ("AVIF",) if features.check("avif") else ()
)
"""Pillow's names of the formats that are served; AVIF where this Pillow was built with it."""

PIXELS_MAX_LIMIT = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
"""Above this Pillow itself refuses a picture as a decompression bomb, so no server can take more."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class _Signature:
    """Bytes that open (or, at `offset`, mark) a file of a format that is not served."""

    format: str
    magic: bytes
    offset: int = 0

    def matches(self, data: bytes) -> bool:
        return data.startswith(self.magic, self.offset)


# Told apart from rubbish so that the caller learns to convert the picture instead of to resend it.
_UNSERVED = (
    *(_Signature("PNM", b"P%d%s" % (kind, space)) for kind in range(1, 8) for space in (b"\n", b" ", b"\r", b"\t")),
    _Signature("PSD", b"8BPS"),
    _Signature("ICNS", b"icns"),
    _Signature("ICO", b"\x00\x00\x01\x00"),
    _Signature("CUR", b"\x00\x00\x02\x00"),
    _Signature("EPS", b"%!PS"),
    _Signature("EPS", b"\xc5\xd0\xd3\xc6"),
    _Signature("PDF", b"%PDF"),
    _Signature("SVG", b"<svg"),
    _Signature("SVG", b"<?xml"),
    _Signature("JPEG 2000", b"\x00\x00\x00\x0cjP  "),
    _Signature("JPEG 2000", b"\xff\x4f\xff\x51"),
    _Signature("JPEG XL", b"\xff\x0a"),
    _Signature("JPEG XL", b"\x00\x00\x00\x0cJXL "),
    _Signature("HEIF", b"ftypheic", 4),
    _Signature("HEIF", b"ftypheix", 4),
    _Signature("HEIF", b"ftypmif1", 4),
    _Signature("AVIF", b"ftypavif", 4),
    _Signature("AVIF", b"ftypavis", 4),
    _Signature("DDS", b"DDS "),
    _Signature("QOI", b"qoif"),
    _Signature("FITS", b"SIMPLE  ="),
    _Signature("OpenEXR", b"\x76\x2f\x31\x01"),
    _Signature("Radiance HDR", b"#?RADIANCE"),
    _Signature("SGI", b"\x01\xda"),
    _Signature("WMF", b"\xd7\xcd\xc6\x9a"),
    _Signature("XPM", b"/* XPM */"),
)


def silence_pillow_warnings() -> None:
    """Keep Pillow's warnings about odd files out of the process's log: a client's bytes must not write there.

    What they say is either harmless (malformed EXIF, which is then ignored) or refused here with an error.
    A filter rather than `warnings.catch_warnings`, which is not safe in threads. Repeating it changes nothing.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", module=r"service\.runtime\.(decode|image_header)")


def read_header(data: bytes, pixels_max: int) -> ImageHeader:
    """Format and size in pixels, as stored: an EXIF rotation is not applied.

    Raises:
        InvalidImage: not a picture, or its header is cut off or corrupt.
        UnsupportedMediaType: a picture of a format that is not served.
        ImageTooLarge: more than `pixels_max` pixels.
    """
    if data.startswith(_PNG_SIGNATURE):
        return bounded(_png_header(data), pixels_max)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return bounded(_webp_header(data), pixels_max)
    if (jpeg := jpeg_header.read(data)) is not None:
        return bounded(ImageHeader("JPEG", jpeg.width, jpeg.height), pixels_max)
    with open_picture(data) as picture:
        return header_of(picture, pixels_max)


def header_of(picture: Image.Image, pixels_max: int) -> ImageHeader:
    """The header of a picture that is open already.

    Raises:
        InvalidImage: a side of no pixels.
        ImageTooLarge: more than `pixels_max` pixels.
    """
    # A camera's multi-picture file ("MPO") is a JPEG with more JPEGs behind it; the first one is served.
    name = "JPEG" if picture.format == "MPO" else str(picture.format)
    return bounded(ImageHeader(name, picture.width, picture.height), pixels_max)


def open_picture(data: bytes) -> Image.Image:
    """Pillow's lazy image over `data`, opened by the plugin of a served format only.

    Raises:
        InvalidImage: not a picture, or its header is cut off or corrupt.
        UnsupportedMediaType: a picture of a format that is not served.
        ImageTooLarge: so many pixels that Pillow refuses to look at them.
    """
    try:
        return Image.open(io.BytesIO(data), formats=SERVED_FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Image.DecompressionBombError:
        raise too_many_pixels("too many pixels", PIXELS_MAX_LIMIT) from None
    except Exception as error:  # Pillow's plugins raise a dozen types on hostile bytes
        raise InvalidImage(f"the picture's header is corrupt ({type(error).__name__}); re-encode it") from error


def too_many_pixels(size: str, pixels_max: int) -> ImageTooLarge:
    """The error for a picture of `size`, saying what would be taken."""
    return ImageTooLarge(f"the picture has {size}; at most {pixels_max} pixels are taken, so scale it down first")


def _png_header(data: bytes) -> ImageHeader:
    """Read IHDR, which the PNG specification (section 11.2.1) puts first, at a fixed place.

    Not left to Pillow: opening a PNG there inflates every text and profile chunk before the pixels, up to
    64 MB, which would stall the event loop.
    """
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise InvalidImage("the PNG header is cut off; send the whole file")
    width, height = struct.unpack_from(">II", data, 16)
    return ImageHeader("PNG", width, height)


def _webp_header(data: bytes) -> ImageHeader:
    """Read the size from the first chunk (RFC 9649, sections 2.5 to 2.7; for "VP8 " RFC 6386, section 9.1).

    Not left to Pillow either: opening a WebP there makes an animation decoder with two whole canvases, 5 ms for
    12 megapixels.
    """
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return ImageHeader("WEBP", 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    if kind == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return ImageHeader("WEBP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF)
    raise InvalidImage("the WebP header is cut off or corrupt; send the whole file")


def bounded(header: ImageHeader, pixels_max: int) -> ImageHeader:
    """`header` itself, if such a picture is taken.

    Raises:
        InvalidImage: a side of no pixels.
        ImageTooLarge: more than `pixels_max` pixels.
    """
    if header.width < 1 or header.height < 1:
        raise InvalidImage(f"the {header.format} header says {header.width} x {header.height} pixels")
    if header.pixels > pixels_max:
        raise too_many_pixels(f"{header.width} x {header.height} pixels", pixels_max)
    return header


def _unidentified(data: bytes) -> InvalidImage | UnsupportedMediaType:
    served = ", ".join(SERVED_FORMATS)
    if not data:
        return InvalidImage("the image is empty; send the bytes of one picture")
    for signature in _UNSERVED:
        if signature.matches(data):
            return UnsupportedMediaType(f"{signature.format} is not served; convert the picture to one of {served}")
    return InvalidImage(f"the bytes are not a picture, or are cut off in its header; send one of {served}")
