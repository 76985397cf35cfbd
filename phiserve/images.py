"""Pictures as callers have them (paths, bytes, files, Pillow images, arrays) made into the bytes that are sent.

What is encoded already is sent as it is: the server reads every format that matters, and decoding here would cost the
caller what the server does anyway. Pillow and numpy are imported only where such an object came in.

Pixels have to be encoded, and the server's decoding counts against the budget. Medians of encoding here and decoding
there, one core of an x86 server, photographs with Pillow 13:

    pixels        PNG (level 1)               WebP lossless             BMP                      JPEG 95, 4:4:4
    224 × 224     2-4 + 1-2 ms, 48-102 KB     1-2 + 1 ms, 35-80 KB      0.04 + 0.2 ms, 151 KB    0.3 + 0.5 ms, 19-33 KB
    1920 × 1080   65-110 + 30-49 ms, 1-2 MB   79-95 + 30-51 ms, 1-2 MB  2 + 3 ms, 6.2 MB         8 + 6 ms, 0.4-0.6 MB

So small pictures, usually prepared for a network already, go as BMP: nothing is lost and nothing is quicker. Larger
ones go as JPEG at quality 95 without chroma subsampling (41 to 53 dB on those photographs), since on a network of
1 Gbit/s the bytes of a BMP alone would take 50 ms. To send a large picture without loss, send the bytes of a file.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    ImageLike: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[np.uint8]
    )
else:
    ImageLike = Any

_RAW_PIXEL_BYTES_MAX = 256 * 2**10
_JPEG_QUALITY = 95
# Modes whose meaning (transparency, palettes, sixteen bits) is the server's to decide, as it does for files.
_MODES_AS_PNG = frozenset({"1", "LA", "P", "PA", "RGBA", "La", "RGBa", "I;16", "I"})

_WHAT_WORKS = (
    "give a path, bytes, a file opened in binary mode, a Pillow image, or a numpy array of dtype uint8 and shape "
    "(height, width, 3) in RGB order or (height, width)"
)


def encoded(image: ImageLike) -> bytes:
    """The bytes to send for `image`.

    `str` and `os.PathLike` are paths. A file is read from where it stands to its end and not closed. Pillow images
    are turned upright by their EXIF orientation. Arrays are uint8, (height, width, 3) in RGB order or (height, width).

    Raises:
        OSError: a file cannot be read.
        TypeError: something else than these.
        ValueError: an array of another shape or type, or a picture without pixels.
    """
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    other: Any = image  # a test by a name that may be missing narrows no type
    if _is_instance_of(other, "PIL.Image", "Image"):
        return _encoded_picture(other)
    if _is_instance_of(other, "numpy", "ndarray"):
        return _encoded_array(other)
    if hasattr(other, "read"):
        content = other.read()
        if isinstance(content, bytes):
            return content
        raise TypeError(f"the file gave {type(content).__name__}, not bytes; open it in binary mode, 'rb'")
    raise TypeError(f"a {type(image).__name__} is no image; {_WHAT_WORKS}")


def _is_instance_of(image: Any, module: str, name: str) -> bool:
    """Whether `image` is of a class of a library that may not be installed: then nothing is of it."""
    library = sys.modules.get(module)
    return library is not None and isinstance(image, getattr(library, name))


def _encoded_array(array: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # noqa: PLC0415 - only arrays and Pillow images need it

    is_shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype.name != "uint8" or not is_shaped or array.size == 0:
        raise ValueError(f"an array of dtype {array.dtype} and shape {array.shape} is no image; {_WHAT_WORKS}")
    return _encoded_picture(Image.fromarray(array))


def _encoded_picture(picture: Image.Image) -> bytes:
    from PIL import ImageOps  # noqa: PLC0415 - only arrays and Pillow images need it

    if 0 in picture.size:
        raise ValueError(f"a picture of {picture.width} × {picture.height} pixels has none; {_WHAT_WORKS}")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode not in _MODES_AS_PNG and picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    written = io.BytesIO()
    if picture.mode in _MODES_AS_PNG or "transparency" in picture.info:
        _png_picture(picture).save(written, "PNG", compress_level=1)
    elif picture.width * picture.height * len(picture.getbands()) <= _RAW_PIXEL_BYTES_MAX:
        picture.save(written, "BMP")
    else:
        picture.save(written, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return written.getvalue()


def _png_picture(picture: Image.Image) -> Image.Image:
    """The same in a mode that PNG has."""
    without = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    return picture.convert(without[picture.mode]) if picture.mode in without else picture
