"""Bicubic and bilinear resizing of RGB pictures, by SIMD where a library for that is installed, else by Pillow.

Resizing with Pillow took longer than lite0-int8 itself. `cykooz_resizer` (a binding of the Rust crate
`fast_image_resize`) computes the same convolution on Pillow's own memory with AVX2 or NEON, about five times as fast
and without the interpreter lock. It rounds between its two passes in another order: on photographs the results differ
by 0.2 of 255 on average and by 17 at most, and one of 200 photographs changes sides (`docs/decisions/0009`).
Enlarging stays with Pillow: there the rounding shows, and small pictures cost little.

Knows no variant and no crop.
"""

from __future__ import annotations

import threading
from typing import Any

from PIL import Image

try:
    import cykooz_resizer
except ImportError:  # no wheel for this platform
    cykooz_resizer = None

ENGINE = "simd" if cykooz_resizer is not None else "pillow"
"""What reduces pictures in this process; for the log at start."""

_PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SIMD_FILTERS = {"bicubic": "catmull_rom", "bilinear": "bilinear"}  # Pillow's bicubic is Catmull-Rom's: a = -0.5


def resize(picture: Image.Image, side_px: int, interpolation: str) -> Image.Image:
    """`picture`, of mode "RGB", at `side_px` by `side_px` pixels; `interpolation` is bicubic or bilinear.

    Antialiased: the filter is as wide as the reduction asks for, as in Pillow and in the reference transform.

    Raises:
        KeyError: another interpolation.
    """
    if cykooz_resizer is None or min(picture.size) < side_px:
        return picture.resize((side_px, side_px), _PILLOW[interpolation])
    if picture.size == (side_px, side_px):
        return picture
    resized = Image.new("RGB", (side_px, side_px))
    _of_thread.resizer.resize_pil(picture, resized, _of_thread.options[interpolation])
    return resized


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
