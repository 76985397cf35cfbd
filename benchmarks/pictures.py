"""Pictures for loads: a photograph at any size and in any format, and pictures that are broken.

Enlarged photographs have less detail a pixel than a camera's, so their files are smaller than its; what a decoder does
for each pixel is the same.
"""

from __future__ import annotations

import io
import math

from PIL import Image

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
JPEG_QUALITY = 90


def photograph_of(content: bytes, megapixels: float, format_name: str = "JPEG") -> bytes:
    """The photograph `content`, enlarged or reduced to `megapixels`, its shape kept, encoded as `format_name`."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    scale = math.sqrt(megapixels * 1e6 / (picture.width * picture.height))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if format_name == "JPEG" else {}
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, format_name, **options)
    return buffer.getvalue()


def broken_pictures(content: bytes) -> tuple[bytes, ...]:
    """What a server must refuse: half of the photograph `content`, no picture at all, and nothing."""
    return (content[: len(content) // 2], b"not a picture" * 100, b"")
