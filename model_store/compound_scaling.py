"""Compound scaling: one coefficient phi sets an EfficientNet's width, depth and resolution together.

`scale` is the formula of Tan and Le 2019 (arXiv 1905.11946, equation 3); `released` are the rounded tables that
the published networks B0–B7 and Lite0–4 were trained with. Plain numbers, no network and no weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""Growth of depth, width and resolution per step of phi; ALPHA * BETA**2 * GAMMA**2 is about 2."""

BASE_RESOLUTION = 224
CHANNEL_MULTIPLE = 8

Family = Literal["b", "lite"]


class UnknownMember(ValueError):
    """No such member of the family. The message lists those there are."""


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """What was published of a member: ImageNet top-1 in percent, parameters in millions, multiply-adds in billions.

    B0–B7: Tan and Le 2019, table 2. Lite: the table of the EfficientNet-Lite release (tensorflow/tpu), fp32 and
    int8 top-1; it gives no figure that is comparable with the paper's for size.
    """

    top1: float
    top1_int8: float | None = None
    top5: float | None = None
    parameters_millions: float | None = None
    flops_billions: float | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a member is scaled from the baseline network.

    `width_coefficient` multiplies channels and `depth_coefficient` repeats of a stage; `resolution` is the input's
    side in pixels; `crop_fraction` the share of the shorter side that evaluation keeps.
    """

    member: str
    family: Family
    width_coefficient: float
    depth_coefficient: float
    resolution: int
    crop_fraction: float
    published: PublishedFigures | None = None


_B_ROWS = (
    # width, depth, resolution, crop, top-1, top-5, M parameters, G multiply-adds
    (1.0, 1.0, 224, 0.875, 77.1, 93.3, 5.3, 0.39),
    (1.0, 1.1, 240, 0.882, 79.1, 94.4, 7.8, 0.70),
    (1.1, 1.2, 260, 0.890, 80.1, 94.9, 9.2, 1.0),
    (1.2, 1.4, 300, 0.904, 81.6, 95.7, 12, 1.8),
    (1.4, 1.8, 380, 0.922, 82.9, 96.4, 19, 4.2),
    (1.6, 2.2, 456, 0.934, 83.6, 96.7, 30, 9.9),
    (1.8, 2.6, 528, 0.942, 84.0, 96.8, 43, 19),
    (2.0, 3.1, 600, 0.949, 84.3, 97.0, 66, 37),
)
# Lite0–2 keep the classic evaluation crop, 224 of 256; Lite3 and 4 the larger ones of timm's results table.
_LITE_ROWS = (
    # width, depth, resolution, crop, top-1 fp32, top-1 int8
    (1.0, 1.0, 224, 0.875, 75.1, 74.4),
    (1.0, 1.1, 240, 0.875, 76.7, 75.9),
    (1.1, 1.2, 260, 0.875, 77.6, 77.0),
    (1.2, 1.4, 280, 0.904, 79.8, 79.0),
    (1.4, 1.8, 300, 0.920, 81.5, 80.2),
)

_RELEASED: dict[str, Scaling] = {
    f"b{phi}": Scaling(f"b{phi}", "b", width, depth, side, crop, PublishedFigures(top1, None, top5, millions, billions))
    for phi, (width, depth, side, crop, top1, top5, millions, billions) in enumerate(_B_ROWS)
} | {
    f"lite{index}": Scaling(f"lite{index}", "lite", width, depth, side, crop, PublishedFigures(top1, int8))
    for index, (width, depth, side, crop, top1, int8) in enumerate(_LITE_ROWS)
}

MEMBERS: tuple[str, ...] = tuple(_RELEASED)
"""Every released member: b0..b7, lite0..lite4."""


def released(member: str) -> Scaling:
    """The published scaling of `member`.

    Raises:
        UnknownMember: not a member of the family.
    """
    try:
        return _RELEASED[member]
    except KeyError:
        raise UnknownMember(f"no EfficientNet {member!r}; there are {', '.join(MEMBERS)}") from None


def scale(phi: float) -> Scaling:
    """The member that the formula gives for any real `phi` >= 0: depth 1.2**phi, width 1.1**phi, side 224 * 1.15**phi.

    The side is rounded to the nearest even number of pixels, since the stem halves it. The released B1–B7 use their
    own rounded table, which starts more gently: B3 has depth 1.4, width 1.2 and 300 pixels where `scale(3)` has
    1.73, 1.33 and 340. The crop leaves 32 pixels off the shorter side, as evaluation at 224 of 256 does.

    Raises:
        ValueError: `phi` is negative, infinite or no number.
    """
    if not (math.isfinite(phi) and phi >= 0):
        raise ValueError(f"phi must be a real number of 0 or more, got {phi}")
    side = 2 * round(BASE_RESOLUTION * GAMMA**phi / 2)
    return Scaling(
        member=f"phi{phi:g}",
        family="b",
        width_coefficient=BETA**phi,
        depth_coefficient=ALPHA**phi,
        resolution=side,
        crop_fraction=side / (side + 32),
    )


def round_filters(channels: int, width_coefficient: float) -> int:
    """Scaled channels: the nearest multiple of 8, but never below 90 % of the exact value."""
    exact = channels * width_coefficient
    rounded = max(CHANNEL_MULTIPLE, int(exact + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE)
    return rounded + CHANNEL_MULTIPLE if rounded < 0.9 * exact else rounded


def round_repeats(repeats: int, depth_coefficient: float) -> int:
    """Scaled repeats of a stage, rounded up. Never fewer than one."""
    return math.ceil(repeats * depth_coefficient)
