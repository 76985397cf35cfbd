"""What an int8 graph needs and weights cannot tell: the range of every activation, and how well the result did.

Ranges are measured on pictures once, by `phiserve store calibrate`, and kept as a small file, so that any machine
builds the same int8 graph from the same weights in seconds and without pictures. Those of the default store are
committed beside this module. Measures nothing and knows no graph; `quantize.py` says which tensors need a range.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from model_store import strict_json

SCHEMA_VERSION = 1
RANGES_BYTES_MAX = 16 * 1024**2

LOSS_POINTS_MAX = 1.0
"""Points of top-1 that int8 may cost on held-out photographs before a build refuses. A step up or down the family is
worth one to two points, so a variant that loses more is better replaced by its smaller neighbour."""


class RangesError(ValueError):
    """Ranges that are malformed, belong to other weights, or make too poor a graph. Says what would have worked."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """How ranges were measured: on how many pictures of what, by which method, with which runtime, when."""

    pictures: int
    of: str
    method: str
    runtime: str
    date: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What int8 did beside fp32, in percent of `pictures` labelled photographs that its ranges were not measured on.

    `views` is how many crops of each were shown. `agreement` is the share that both put in the same class;
    `divergence` the mean Kullback-Leibler divergence of int8's probabilities from fp32's, in nats.
    """

    pictures: int
    views: int
    how: str
    top1_fp32: float
    top1_int8: float
    agreement: float
    divergence: float

    @property
    def loss_points(self) -> float:
        """Points of top-1 that int8 costs; negative where it happened to do better."""
        return self.top1_fp32 - self.top1_int8


@dataclass(frozen=True, slots=True)
class ActivationRanges:
    """Ranges of one network with one set of weights: tensor name to (lowest, highest) value."""

    weights_sha256: str
    measurement: Measurement
    verdict: Verdict
    ranges: dict[str, tuple[float, ...]]

    @property
    def sha256(self) -> str:
        """Stands for everything in here."""
        return hashlib.sha256(strict_json.dumps(self).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RangesFile:
    """A file of ranges, by member."""

    schema_version: int
    networks: dict[str, ActivationRanges]

    def to_json(self) -> str:
        """Canonical JSON text."""
        return strict_json.dumps(self)


def committed_ranges(member: str) -> ActivationRanges | None:
    """The ranges that come with phiserve for the published weights of `member`; None if there are none."""
    text = resources.files("model_store").joinpath("data/activation_ranges.json").read_bytes()
    return parse_ranges(text, "activation_ranges.json").networks.get(member)


def read_ranges(path: Path, member: str) -> ActivationRanges:
    """The ranges of `member` in the file at `path`.

    Raises:
        RangesError: the file cannot be read, is malformed, or holds no ranges of `member`.
    """
    try:
        with path.open("rb") as file:
            text = file.read(RANGES_BYTES_MAX + 1)
    except OSError as error:
        raise RangesError(f"cannot read the ranges {path}: {error.strerror}") from error
    if len(text) > RANGES_BYTES_MAX:
        raise RangesError(f"{path} is over {RANGES_BYTES_MAX} bytes: no file of ranges")
    networks = parse_ranges(text, str(path)).networks
    if member not in networks:
        raise RangesError(f"{path} has ranges of {', '.join(sorted(networks)) or 'nothing'}, not of {member}")
    return networks[member]


def parse_ranges(text: bytes, where: str) -> RangesFile:
    """Parse a file of ranges strictly; every range is two finite numbers, the lower one first.

    Raises:
        RangesError: anything else. The message names the tensor.
    """
    try:
        parsed = strict_json.loads(RangesFile, text, where)
    except strict_json.StrictJsonError as error:
        raise RangesError(f"{error}; measure it again with `phiserve store calibrate`") from error
    if parsed.schema_version != SCHEMA_VERSION:
        raise RangesError(
            f"{where} has schema {parsed.schema_version}, this phiserve reads {SCHEMA_VERSION}; measure it again with "
            "`phiserve store calibrate`"
        )
    for member, network in parsed.networks.items():
        for tensor, limits in network.ranges.items():
            if len(limits) != 2 or not all(map(math.isfinite, limits)) or not limits[0] < limits[1]:
                raise RangesError(
                    f"{where}: the range of {tensor} of {member} is {list(limits)}; it must be two finite numbers, "
                    "the lower one first"
                )
        _check_verdict(network.verdict, f"{where}: the verdict on {member}")
    return parsed


def check_tensors(ranges: ActivationRanges, wanted: Collection[str]) -> None:
    """Refuse ranges that are not those of exactly the `wanted` tensors.

    Raises:
        RangesError: a tensor without a range, or a range without a tensor; both are named.
    """
    missing, unknown = sorted(set(wanted) - ranges.ranges.keys()), sorted(ranges.ranges.keys() - set(wanted))
    if missing or unknown:
        parts = [f"{what}: {', '.join(names)}" for what, names in (("lacks", missing), ("unknown", unknown)) if names]
        raise RangesError(
            f"the ranges are of another network ({'; '.join(parts)}); measure them with `phiserve store calibrate`"
        )


def check_fit(ranges: ActivationRanges, weights_sha256: str, loss_points_max: float) -> None:
    """Refuse ranges of other weights, and ranges whose int8 graph was measured to lose too much.

    Raises:
        RangesError: the message says what would have worked.
    """
    if ranges.weights_sha256 != weights_sha256:
        raise RangesError(
            f"the ranges were measured with weights {ranges.weights_sha256[:12]}, these are {weights_sha256[:12]}; "
            "measure theirs with `phiserve store calibrate` and give the file with --ranges"
        )
    loss = ranges.verdict.loss_points
    if loss > loss_points_max:
        raise RangesError(
            f"int8 lost {loss:.2f} points of top-1 on {ranges.verdict.pictures} held-out photographs, more than the "
            f"{loss_points_max:g} allowed; calibrate on more or more varied pictures, build fp32 or a smaller member, "
            f"or accept it with --loss-points-max {math.ceil(loss * 10) / 10:g}"
        )


def _check_verdict(verdict: Verdict, where: str) -> None:
    percentages = (verdict.top1_fp32, verdict.top1_int8, verdict.agreement)
    if not all(0 <= value <= 100 for value in percentages) or verdict.pictures < 1 or verdict.views < 1:
        raise RangesError(f"{where} must be percentages of one picture or more, got {verdict}")
    if not (math.isfinite(verdict.divergence) and verdict.divergence >= 0):
        raise RangesError(f"{where} has a divergence of {verdict.divergence}; it must be 0 or more")
