"""Streams of frames over the real server at a pace or as fast as they are taken: which frames are answered in time.

One stream, phiserve's own client, photographs in turn as its frames. A frame is in time if its answer's `budget_met`
says so, which counts its wait for earlier ones. Judges nothing else: a frame that is not is stale, refused, or late.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from phiserve import AsyncClient, Classification, StaleFrame

QUARTERS = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """`frames_per_s` None: as fast as the server takes them, each with `budget_ms`.

    `disturbed`: a core is taken in the second quarter.
    """

    frames_per_s: float | None
    budget_ms: float
    disturbed: bool = False

    @property
    def name(self) -> str:
        """For a table's row."""
        rate = "as fast as taken" if self.frames_per_s is None else f"{self.frames_per_s:g} frames/s"
        pace = f"{rate}, {self.budget_ms:g} ms"
        return f"{pace}, disturbed" if self.disturbed else pace


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of one stream's frames, in order: `in time`, `late`, `stale` or an error's name."""

    names: Sequence[str]
    variants: Counter[str]
    duration_s: float

    def share(self, name: str) -> float:
        """Of all frames, as a percentage."""
        return 100.0 * list(self.names).count(name) / len(self.names)

    def in_time_by_quarter(self) -> list[float]:
        """Percentages of each quarter of the stream."""
        bounds = [len(self.names) * quarter // QUARTERS for quarter in range(QUARTERS + 1)]
        quarters = [self.names[first:end] for first, end in itertools.pairwise(bounds)]
        return [100.0 * list(names).count("in time") / len(names) for names in quarters]

    @property
    def in_time_per_s(self) -> float:
        """Frames answered in time a second, from the first frame to the last outcome."""
        return list(self.names).count("in time") / self.duration_s


@dataclass(slots=True)
class _Disturbance:
    """Entered before one frame and left before another."""

    neighbour: AbstractContextManager[object] | None
    quarter: int = field(default=0, init=False)

    def at(self, sent: int, frames: int) -> None:
        """Before frame number `sent` goes out."""
        quarter = sent * QUARTERS // frames
        if self.neighbour is not None and quarter != self.quarter:
            if quarter == 1:
                self.neighbour.__enter__()
            elif self.quarter == 1:
                self.end()
        self.quarter = quarter

    def end(self) -> None:
        """Whatever was entered is left."""
        if self.neighbour is not None and self.quarter == 1:
            self.neighbour.__exit__(None, None, None)
            self.quarter = QUARTERS


async def play(
    grpc_url: str,
    images: Sequence[bytes],
    pace: Pace,
    *,
    frames: int,
    neighbour: AbstractContextManager[object],
) -> Outcomes:
    """One stream of `frames` frames; `neighbour` is what disturbs, if `pace` says so."""
    disturbance = _Disturbance(neighbour if pace.disturbed else None)

    async def camera() -> AsyncIterator[bytes]:
        began_s = time.monotonic()
        for sent, image in enumerate(itertools.islice(itertools.cycle(images), frames)):
            if pace.frames_per_s is not None:
                await asyncio.sleep(began_s + sent / pace.frames_per_s - time.monotonic())
            disturbance.at(sent, frames)
            yield image

    names, variants = [], Counter[str]()
    async with AsyncClient(grpc_url) as client:
        await client.classify(images[0])  # connected, and code is warm
        began_s = time.monotonic()
        try:
            async for outcome in client.stream(camera(), budget_ms=pace.budget_ms):
                if isinstance(outcome, Classification):
                    names.append("in time" if outcome.budget_met else "late")
                    variants[outcome.variant.name] += 1
                else:
                    names.append("stale" if isinstance(outcome, StaleFrame) else type(outcome).__name__)
        finally:
            disturbance.end()
        return Outcomes(names, variants, time.monotonic() - began_s)
