"""The shapes of the REST answers as pydantic models, from which OpenAPI is written. Nothing is validated at run time.

Field descriptions are the reference documentation: /docs shows them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_store.manifest import AccuracySource, Precision, WeightsSource

Milliseconds = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Prediction(_Shape):
    """One class with its probability."""

    index: int = Field(description="Class index in the network's output.")
    wnid: str | None = Field(description="WordNet id, null where the labels have none.", examples=["n02123045"])
    label: str = Field(examples=["tabby cat"])
    probability: float = Field(ge=0, le=1)


class Variant(_Shape):
    """The variant that answered."""

    name: str = Field(examples=["lite2"])
    precision: Precision
    resolution: int = Field(description="Pixels on each side of the square it looks at.")
    top1: Percent | None = Field(description="Top-1 accuracy in percent, null where nobody measured it.")
    trained: bool = Field(description="False for seeded random weights: such an answer means nothing.")


class TimingsMs(_Shape):
    """Where the time went, in milliseconds. The stages do not add up to the total: hand-overs take time too."""

    decode: Milliseconds
    queue: Milliseconds = Field(description="From decoded to dispatched.")
    preprocess: Milliseconds = Field(description="Crop and resize of the whole batch.")
    inference: Milliseconds = Field(description="The network's run over the whole batch.")
    total: Milliseconds = Field(description="From received whole to answered; this is what the budget bounds.")


class Answer(_Shape):
    """What one image is, which variant said so and how long it took."""

    predictions: list[Prediction] = Field(description="Most probable first.")
    variant: Variant
    budget_ms: Milliseconds = Field(description="The budget that applied.")
    budget_met: bool = Field(description="False only when `on_miss=late` was asked for, or a run overran its forecast.")
    timings_ms: TimingsMs
    batch_size: int = Field(ge=1, description="How many requests shared the run.")
    degraded_from: str | None = Field(
        description="The variant an idle server would have used, when load forced a lesser one."
    )


class Problem(BaseModel):
    """An error as RFC 9457 problem details. `detail` says what would have worked."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="URI reference of the kind of problem.", examples=["/problems/deadline-exceeded"])
    title: str
    status: int
    detail: str
    instance: str | None = Field(default=None, description="This occurrence, by its request id.")
    smallest_feasible_budget_ms: Milliseconds | None = Field(
        default=None, description="With 504: the budget that would have been met."
    )
    retry_after_ms: Milliseconds | None = Field(default=None, description="With 429: when there should be room again.")


class Failure(_Shape):
    """In the place of an answer: what went wrong with one image among several."""

    error: Problem


class Answers(_Shape):
    """One result for each part of a multipart request with several images, in order."""

    results: list[Answer | Failure]


class Accuracy(_Shape):
    """ImageNet accuracy in percent and where the figure comes from."""

    top1: Percent | None
    top5: Percent | None
    source: AccuracySource
    detail: str
    images: int | None = Field(description="How many photographs, when it was evaluated on this machine's store.")


class Provenance(_Shape):
    """Where the weights come from and under which licence."""

    source: WeightsSource
    name: str
    revision: str | None
    licence: str
    url: str | None
    weights_sha256: str


class Latency(_Shape):
    """Measured on this machine: one run of `batch_size` images on `threads` cores."""

    threads: int
    batch_size: int
    latency_ms: Milliseconds


class MenuRow(_Shape):
    """One variant of the store."""

    name: str
    member: str
    precision: Precision
    resolution: int
    class_count: int
    trained: bool
    routable: bool = Field(description="False: untrained, and this server was not told to serve such.")
    loaded: bool = Field(
        description="False: memory has no room now; requests that name it wait for it, or are told that it never fits."
    )
    parameters: int
    flops: int
    accuracy: Accuracy
    provenance: Provenance
    latencies: list[Latency]


class BudgetChoice(_Shape):
    """What a budget would get on an idle server."""

    budget_ms: Milliseconds
    variant: str | None = Field(description="Null: no variant is that fast here.")


class Menu(_Shape):
    """Everything that can be asked for."""

    variants: list[MenuRow] = Field(description="Most accurate first.")
    budgets: list[BudgetChoice]
    budget_ms_default: Milliseconds
    budget_ms_max: Milliseconds


class Liveness(_Shape):
    """The process answers."""

    status: Literal["alive"]


class ReadinessAnswer(_Shape):
    """Every variant is loaded, warmed and profiled."""

    status: Literal["ready"]


class ProblemKind(_Shape):
    """What a problem's `type` means."""

    type: str
    title: str
    status: int
    grpc_status: str
    description: str
