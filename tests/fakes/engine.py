"""An engine that follows a script: what front ends are tested over when no core is needed."""

from __future__ import annotations

import asyncio
import struct
import threading
from dataclasses import dataclass, field
from typing import Any

from model_store.manifest import Accuracy, Manifest, ModelVariant, Provenance
from service.core.engine import Readiness
from service.core.generation import VariantStatus
from service.core.request import Classification, Picture, Prediction, RequestOptions, StageTimings
from service.errors import NotReady
from tests.fakes.clock import FakeClock
from tests.fakes.menus import MS, variant

HELD = b"held"
"""An image that is never answered: only cancelling ends it."""


@dataclass(frozen=True)
class Call:
    image: Picture
    options: RequestOptions
    received_ns: int
    client: str
    began_ns: int | None = field(default=None, compare=False)


def classification(
    *,
    name: str = "small",
    probability: float = 0.75,
    budget_met: bool = True,
    degraded_from: str | None = None,
    top_k: int = 1,
    top1: float | None = 75.5,
    trained: bool = True,
    wnids: bool = True,
    budget_ns: int = 40 * MS,
    class_count: int = 1000,
) -> Classification:
    """The first class is 281; each after it has half the probability of the one before, and none is left out."""
    return Classification(
        predictions=tuple(
            Prediction(
                281 + rank, f"n{2123045 + rank:08d}" if wnids else None, f"class {281 + rank}", probability * 0.5**rank
            )
            for rank in range(top_k)
        ),
        variant=variant(name, top1, trained=trained),
        budget_ns=budget_ns,
        budget_met=budget_met,
        timings=StageTimings(
            decode_ns=1_234_567, queue_ns=250_000, preprocess_ns=2 * MS, inference_ns=5 * MS, total_ns=9_000_400
        ),
        batch_size=3,
        degraded_from=degraded_from,
        probabilities=struct.pack(
            f"<{class_count}f", *(probability * 0.5 ** ((k - 281) % class_count) for k in range(class_count))
        ),
    )


def manifest(model: ModelVariant) -> Manifest:
    return Manifest(
        schema_version=1,
        variant=model,
        accuracy=Accuracy(model.top1, 92.5, "evaluated", "made up for tests", 1000),
        provenance=Provenance("wheel", "some-wheel", "0.1.0", "Apache-2.0", "https://example.org/weights", "ab" * 32),
        opset=17,
        ir_version=8,
        parameters=4_652_008,
        flops=400_000_000,
        files={},
    )


@dataclass
class ScriptedEngine:
    """Has the surface of `service.core.engine.Engine`.

    `failures` maps an image to the error it is refused with, `ends` to the one it ends with once it was admitted,
    `answers` to the answer it gets instead of the usual one.
    """

    failures: dict[Picture, Exception] = field(default_factory=dict)
    answers: dict[Picture, Classification] = field(default_factory=dict)
    ends: dict[Picture, Exception] = field(default_factory=dict)
    readiness: Readiness = Readiness.READY
    budget_ns_default: int = 1000 * MS
    budget_ns_max: int = 60_000 * MS
    clock: FakeClock = field(default_factory=FakeClock)
    calls: list[Call] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def now_ns(self) -> int:
        return self.clock.now_ns()

    async def infer(self, image: Picture, options: RequestOptions, **arguments: Any) -> Classification:
        return await self.answer(self.admit(image, options, **arguments))

    def admit(
        self,
        image: Picture,
        options: RequestOptions,
        *,
        received_ns: int,
        began_ns: int | None = None,
        client: str = "",
    ) -> Call:
        call = Call(image, options, received_ns, client, began_ns)
        self.calls.append(call)
        if self.readiness is not Readiness.READY:
            raise NotReady(f"the server is {self.readiness}")
        if image in self.failures:
            raise self.failures[image]
        return call

    async def answer(self, admitted: Call) -> Classification:
        if admitted.image in self.ends:
            raise self.ends[admitted.image]
        if admitted.image in self.answers:
            return self.answers[admitted.image]
        if admitted.image == HELD:
            await self._hold()
        options = admitted.options
        return classification(top_k=options.top_k, budget_ns=options.budget_ns or self.budget_ns_default)

    async def _hold(self) -> None:
        self.held.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    def variants(self) -> tuple[VariantStatus, ...]:
        return (
            VariantStatus(
                manifest(variant("large", 80.0)),
                routable=True,
                latency_ns_by_batch={2: {1: 30 * MS}, 1: {4: 200 * MS, 1: 50 * MS}},
            ),
            VariantStatus(manifest(variant("unknown", None, trained=False)), routable=False, latency_ns_by_batch={}),
        )

    def choose_when_idle(self, budget_ns: int) -> str | None:
        return "large" if budget_ns >= 50 * MS else None
