"""How long each variant takes on this machine: the numbers the planner decides by.

A `LatencyProfile` is one variant at one thread width: batch size to nanoseconds, for the worker's whole share
of a request (crop, resize, run, top-k), since all of that happens after the variant is bound. A
`MachineProfile` is all of them, with the costs of the stages before and after, and what they were measured
on. Nothing here measures; `service/runtime/calibration.py` does.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property

from model_store import strict_json

SCHEMA_VERSION = 1


class ProfileError(ValueError):
    """A profile that cannot be used: unreadable, of another schema, or without the asked point."""


@dataclass(frozen=True, slots=True)
class LatencyPoint:
    """A measured batch size and its latency, a high quantile of several runs, in nanoseconds."""

    batch_size: int
    latency_ns: int


@dataclass(frozen=True)
class LatencyProfile:
    """Latency of `variant` run on `threads` cores, by batch size.

    `points` are sorted by batch size, start at 1, and never get faster as the batch grows (calibration
    enforces that with a running maximum, since noise can invert neighbours and a planner that believes it
    would pad batches). Where batches are `padded`, as on a GPU, one between two measured sizes takes what the larger
    one takes; elsewhere latency is a line between them.
    """

    variant: str
    threads: int
    points: tuple[LatencyPoint, ...]
    padded: bool = False

    def __post_init__(self) -> None:
        """Refuse what no measurement can give."""
        sizes = [point.batch_size for point in self.points]
        latencies = [point.latency_ns for point in self.points]
        if not sizes or sizes[0] != 1 or sizes != sorted(set(sizes)):
            raise ProfileError(f"profile of {self.variant}: batch sizes must rise from 1, got {sizes}")
        if min(latencies) <= 0 or latencies != sorted(latencies):
            raise ProfileError(f"profile of {self.variant}: latencies must be positive and not fall, got {latencies}")

    @property
    def batch_size_limit(self) -> int:
        """Largest batch size that was measured; larger ones are never planned."""
        return self.points[-1].batch_size

    @cached_property
    def _latency_by_batch(self) -> tuple[int, ...]:
        """Latency for every batch size 0..limit (index 0 unused)."""
        table = [0] * (self.batch_size_limit + 1)
        for low, high in zip(self.points, self.points[1:] or self.points, strict=False):
            span = max(1, high.batch_size - low.batch_size)
            for size in range(low.batch_size, high.batch_size + 1):
                step = (high.latency_ns - low.latency_ns) * (size - low.batch_size)
                table[size] = low.latency_ns + step // span
                if self.padded and size > low.batch_size:
                    table[size] = high.latency_ns
        return tuple(table)

    def latency_ns(self, batch_size: int) -> int:
        """Predicted nanoseconds for one run of `batch_size` images.

        Raises:
            ProfileError: a batch size below 1 or above `batch_size_limit`.
        """
        if not 1 <= batch_size <= self.batch_size_limit:
            raise ProfileError(f"{self.variant}: batch size {batch_size} is outside 1..{self.batch_size_limit}")
        return self._latency_by_batch[batch_size]

    def batch_size_max(self, budget_ns: int) -> int:
        """Largest batch size that finishes within `budget_ns`; 0 if not even one image does."""
        return bisect.bisect_right(self._latency_by_batch, budget_ns, lo=1) - 1


@dataclass(frozen=True, slots=True)
class StageCost:
    """Cost of a stage that grows with the picture: `fixed_ns` plus `per_megapixel_ns` times its megapixels."""

    fixed_ns: int
    per_megapixel_ns: int

    def cost_ns(self, pixels: int) -> int:
        """Predicted nanoseconds for a picture of `pixels` pixels."""
        return self.fixed_ns + self.per_megapixel_ns * pixels // 1_000_000


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """Everything measured on one machine for one set of models.

    `machine` names the CPU or GPU and `runtime` the library, version and provider; `model_sha256` maps each
    variant to the graph that was timed. If any of them differs the profile is stale. `overhead_ns` is what a
    request spends outside decode and the worker (event loop, hand-over, response).
    """

    schema_version: int
    machine: str
    runtime: str
    workers: int
    model_sha256: dict[str, str]
    latencies: tuple[LatencyProfile, ...]
    decode: StageCost
    overhead_ns: int

    def to_json(self) -> str:
        """Canonical JSON text."""
        return strict_json.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> MachineProfile:
        """Parse strictly.

        Raises:
            ProfileError: not JSON, another schema version, or a key missing, unknown or mistyped.
        """
        try:
            profile = strict_json.loads(cls, text, "profile")
        except strict_json.StrictJsonError as error:
            raise ProfileError(str(error)) from error
        if profile.schema_version != SCHEMA_VERSION:
            raise ProfileError(f"profile.schema_version is {profile.schema_version}, expected {SCHEMA_VERSION}")
        return profile
