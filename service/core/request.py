"""The value objects that travel with a request: what was asked, what was decided, what came out.

All frozen, all times integers of nanoseconds on the engine's monotonic clock. Milliseconds exist only on the
wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from model_store.manifest import ModelVariant

PRIORITY_MAX = 9


class OnMiss(StrEnum):
    """What to do with a request that no allowed variant can answer in time."""

    REJECT = "reject"
    """Fail it as soon as that is known."""
    LATE = "late"
    """Answer it with the fastest allowed variant when there is room, marked `budget_met: false`."""


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """How one request may be routed.

    `variant` pins it to one variant; `min_accuracy` (top-1 percent) excludes less accurate ones; `target_ns`
    is a soft latency target (the paper's objective, see `batch_planner`); `priority` 0..9, higher first among
    requests of equal slack.
    """

    variant: str | None = None
    min_accuracy: float | None = None
    target_ns: int | None = None
    on_miss: OnMiss = OnMiss.REJECT
    priority: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether it leaves the choice of variant and the place in the queue wholly to the scheduler."""
        return self.variant is None and self.min_accuracy is None and self.target_ns is None and not self.priority


DEFAULT_POLICY = RoutingPolicy()
"""Route to whatever fits best; fail if nothing does."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the caller asked for. `budget_ns` None means the server's default budget."""

    budget_ns: int | None = None
    top_k: int = 5
    policy: RoutingPolicy = DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What is known of a picture before decoding it: container format ("JPEG", "PNG", …) and pixels."""

    format: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


PIXELS_FORMAT = "RGB"
"""The `ImageHeader.format` of `RawPixels`: there is nothing to decode."""


@dataclass(frozen=True, slots=True)
class RawPixels:
    """A picture whose caller decoded it: upright RGB, 8 bits a channel, rows from the top, 3·width·height bytes.

    One that has exactly the answering network's size is taken as cropped and resized already.

    Raises:
        ValueError: on construction, if `data` has another length than width and height say.
    """

    width: int
    height: int
    data: bytes

    def __post_init__(self) -> None:
        """Refuse what would be read beyond its end."""
        if min(self.width, self.height) < 1 or len(self.data) != 3 * self.width * self.height:
            raise ValueError(f"{self.width} x {self.height} pixels of RGB are not {len(self.data)} bytes")


Picture: TypeAlias = bytes | RawPixels
"""What a caller may send: an encoded file's bytes, or pixels."""


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """What the scheduler knows of a decoded request. The pixels stay with the engine, keyed by `request_id`.

    `received_ns` is when it was received whole; `deadline_ns` when the answer must be ready to be written.
    """

    request_id: int
    received_ns: int
    deadline_ns: int
    policy: RoutingPolicy = DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class Plan:
    """One decided run: `variant` on `threads` cores for these requests, predicted to take `latency_ns`."""

    variant: str
    threads: int
    request_ids: tuple[int, ...]
    latency_ns: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a worker reports of one finished run.

    `top` holds, per image in plan order, (class index, probability) pairs in falling probability.
    `preprocess_ns` and `inference_ns` are for the whole batch: each request waited for all of it. `probabilities`
    holds, per image, every class's probability in class order as little-endian float32: a copy of 4 kB, which costs
    less than asking who wants it.
    """

    top: tuple[tuple[tuple[int, float], ...], ...]
    preprocess_ns: int
    inference_ns: int
    probabilities: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class with its probability; `wnid` (WordNet id) is None where the labels have none."""

    index: int
    wnid: str | None
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class StageTimings:
    """Where the time went. `queue_ns` is from decoded to dispatched; `total_ns` from received to settled."""

    decode_ns: int
    queue_ns: int
    preprocess_ns: int
    inference_ns: int
    total_ns: int


@dataclass(frozen=True, slots=True)
class Classification:
    """A request's answer. `degraded_from` names what an idle server would have used, when load forced less.

    `probabilities`: of every class, see `RunResult`.
    """

    predictions: tuple[Prediction, ...]
    variant: ModelVariant
    budget_ns: int
    budget_met: bool
    timings: StageTimings
    batch_size: int
    degraded_from: str | None
    probabilities: bytes = b""
