"""JPEG to RGB pixels by libjpeg-turbo itself, where `simplejpeg`, a binding of it, is installed.

Pillow decodes with the same library, and the pixels are the same to the bit; what is saved is around it. Pillow parses
every segment in Python, and hands the data over in pieces of 64 KiB, waiting for the interpreter lock after each
(`docs/decisions/0022`). Whatever is not an everyday picture, and whatever the library finds anything wrong with, is
left to Pillow, which is more lenient and finds the words. Turns and crops nothing.
"""

from __future__ import annotations

from typing import Any

from service.runtime import jpeg_header
from service.runtime.rgb_image import Pixels

try:
    import simplejpeg
except ImportError:  # no wheel for this platform
    simplejpeg = None

CODEC = "libjpeg-turbo" if simplejpeg is not None else "pillow"
"""What decodes everyday JPEGs in this process; for the log at start."""

# Below it, scales that are not asked for give the same size, and the library takes the smallest.
_SIDE_MIN = 8
_SCALES = (8, 4, 2, 1)


def decode(data: bytes, shorter_side_px: int, pixels_max: int) -> tuple[Pixels, int] | None:
    """Pixels and EXIF orientation of `data`, by the strongest scale that Pillow's `draft` would take; None: ask Pillow.

    Raises:
        MemoryError: there is not enough for the pixels.
    """
    header = jpeg_header.read(data) if simplejpeg is not None else None
    if header is None or header.channels == 4 or header.width * header.height > pixels_max:
        return None
    orientation = jpeg_header.orientation(data, header)
    shorter = min(header.width, header.height)
    if orientation is None or shorter < _SIDE_MIN or not jpeg_header.leads_to_a_scan(data, header):
        return None
    # Other scales than these, which the library has too, take longer than the whole picture.
    scale = next((scale for scale in _SCALES if shorter // shorter_side_px >= scale), 1)
    width, height = -(-header.width // scale), -(-header.height // scale)
    try:
        pixels: Any = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except (ValueError, RuntimeError):
        return None
    return (pixels, orientation) if pixels.shape == (height, width, 3) else None
