"""Bicubic and bilinear resizing of RGB pictures, by SIMD where a library for that is installed, else by Pillow.

Resizing with Pillow took longer than lite0-int8 itself. `cykooz_resizer` (a binding of the Rust crate
`fast_image_resize`) computes the same convolution with AVX2 or NEON, about five times as fast and without the
interpreter lock. It rounds between its two passes in another order: on photographs the results differ
by 0.2 of 255 on average and by 17 at most, and one of 200 photographs changes sides (`docs/decisions/0009`).
Enlarging stays with Pillow: there the rounding shows, and small pictures cost little.

Knows no variant and no crop.
"""

from __future__ import annotations

import threading
from typing import Any, cast

from PIL import Image

from service.runtime.rgb_image import Pixels

try:
    import cykooz_resizer
except ImportError:  # no wheel for this platform
    cykooz_resizer = None

ENGINE = "simd" if cykooz_resizer is not None else "pillow"
"""What reduces pictures in this process; for the log at start."""

_PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SIMD_FILTERS = {"bicubic": "catmull_rom", "bilinear": "bilinear"}  # Pillow's bicubic is Catmull-Rom's: a = -0.5


def resize(pixels: Pixels, side_px: int, interpolation: str) -> bytes:
    """`pixels` at `side_px` by `side_px`, as rows of RGB; `interpolation` is bicubic or bilinear.

    Antialiased: the filter is as wide as the reduction asks for, as in Pillow and in the reference transform.

    Raises:
        KeyError: another interpolation.
    """
    height, width, _ = pixels.shape
    if (width, height) == (side_px, side_px):
        return pixels.tobytes()
    if cykooz_resizer is None or min(width, height) < side_px:
        return Image.fromarray(pixels).resize((side_px, side_px), _PILLOW[interpolation]).tobytes()
    options = _of_thread.options[interpolation]
    resized = cykooz_resizer.ImageData(side_px, side_px, cykooz_resizer.PixelType.U8x3)
    source = cykooz_resizer.ImageData(width, height, cykooz_resizer.PixelType.U8x3, pixels.tobytes())
    _of_thread.resizer.resize(source, resized, options)
    return cast("bytes", resized.get_buffer())


class _OfThread(threading.local):
    """A resizer keeps buffers between calls, so each thread has its own."""

    def __init__(self) -> None:
        self.resizer: Any = cykooz_resizer.Resizer()
        self.options: dict[str, Any] = {}
        for name, simd_filter in _SIMD_FILTERS.items():
            options = cykooz_resizer.ResizeOptions()
            options.resize_alg = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType[simd_filter])
            self.options[name] = options


_of_thread: Any = None if cykooz_resizer is None else _OfThread()
