"""A decoded picture as everything behind the decoder has it: rows of red, green and blue, one byte each.

An array and not a Pillow image, which keeps four bytes a pixel: the JPEG codec writes this layout and the resizer reads
it, so that nearly every picture passes without a copy between layouts, under the interpreter lock. Pictures that Pillow
decodes or turns are copied once. Decodes, crops and resizes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 of shape [height, width, 3]."""


@dataclass(frozen=True, slots=True, eq=False)
class RgbImage:
    """A decoded picture, upright. `pixels` are the decoder's own array, and no part of a larger one.

    `may_be_cropped`: it came as pixels, so that one of a network's size is that network's input.
    """

    pixels: Pixels
    may_be_cropped: bool = False

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return len(self.pixels[0])

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return len(self.pixels)

    @property
    def nbytes(self) -> int:
        """Bytes of memory the pixels hold."""
        return self.pixels.nbytes


def pixels_of(rgb: Image.Image) -> Pixels:
    """The pixels of a Pillow image of mode "RGB", copied; they cannot be written to."""
    # numpy would ask Pillow for the bytes several times over.
    return np.frombuffer(rgb.tobytes(), np.uint8).reshape(rgb.height, rgb.width, 3)
