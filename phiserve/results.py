"""What a call comes back with: frozen values, named as on the REST wire, the same over every transport.

`dataclasses.asdict` of a `Classification` is the JSON that the server writes. Nothing here reads a wire.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class. `wnid`: its WordNet id, None where the labels have none; `probability` 0..1."""

    index: int
    wnid: str | None
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of the server.

    `resolution`: pixels on each side of the square it looks at. `top1`: ImageNet accuracy in percent, None where
    nobody measured it. `trained` False: seeded random weights, whose predictions mean nothing.
    """

    name: str
    precision: str
    resolution: int
    top1: float | None
    trained: bool


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the server's time went, in milliseconds; the network's is not in it.

    `queue` is from decoded to dispatched; `preprocess` and `inference` are of the whole batch; `total`, from received
    whole to answered, is what the budget bounds.
    """

    decode: float
    queue: float
    preprocess: float
    inference: float
    total: float


@dataclass(frozen=True, slots=True)
class Classification:
    """One image's answer.

    `predictions`: most probable first. `budget_ms`: the budget that applied. `budget_met` False: answered late, since
    `on_miss="late"` was asked for or a run overran its forecast. `batch_size`: how many requests shared the run.
    `degraded_from`: what an idle server would have used, when load forced less.
    """

    predictions: tuple[Prediction, ...]
    variant: Variant
    budget_ms: float
    budget_met: bool
    timings_ms: Timings
    batch_size: int
    degraded_from: str | None

    @property
    def best(self) -> Prediction:
        """The most probable class."""
        return self.predictions[0]
