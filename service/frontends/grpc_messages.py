"""Messages of the wire contract, to and from what the engine takes and gives: the hot path of the gRPC front.

Values are read by the table of `rest_parameters.py`, so that both wires take the same and refuse in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from model_store.manifest import ModelVariant
from phiserve.v1 import classifier_pb2 as pb
from service.core.generation import VariantStatus
from service.core.request import Classification, OnMiss, RequestOptions
from service.errors import ImageTooLarge, InvalidImage
from service.frontends.rest_parameters import ClassifyParameters

NS_PER_MS = 1_000_000

_ON_MISS = {pb.ON_MISS_REJECT: OnMiss.REJECT.value, pb.ON_MISS_LATE: OnMiss.LATE.value}
_PARAMETERS = ("budget_ms", "min_accuracy", "target_ms", "top_k", "variant", "on_miss", "priority")


class RequestReader:
    """Reads requests within a server's bounds."""

    def __init__(self, parameters: ClassifyParameters, *, image_bytes_max: int) -> None:
        """`image_bytes_max`: encoded bytes of one image."""
        self._parameters = parameters
        self._image_bytes_max = image_bytes_max

    def read(self, request: pb.ClassifyRequest) -> tuple[bytes, RequestOptions]:
        """The image, after a look at its length, and what is asked of its answer.

        Raises:
            InvalidArgument: names every fault and what would have worked.
            ImageTooLarge: more bytes than are taken.
            InvalidImage: no image.
        """
        options = self._parameters.read(_given(request), _PARAMETERS)
        image = request.image  # every look at it is a copy
        size = len(image)
        if size > self._image_bytes_max:
            raise ImageTooLarge.beyond(self._image_bytes_max)
        if not size:
            raise InvalidImage("the image is empty; send a picture's file as it is")
        return image, options


def within_call(options: RequestOptions, left_ns: int | None, budget_ns_max: int) -> RequestOptions:
    """`options` with what a call's deadline leaves as their budget, where they name none.

    A budget that was named stays: the deadline says how long the caller waits at most, not how soon it wants an answer.
    """
    if options.budget_ns is not None or left_ns is None:
        return options
    return replace(options, budget_ns=max(1, min(left_ns, budget_ns_max)))


def classify_response(classification: Classification, *, held_ns: int = 0) -> pb.ClassifyResponse:
    """The answer as a message; it was held back for `held_ns` after it was ready, which its budget has to cover too."""
    timings = classification.timings
    in_time = not held_ns or timings.total_ns + held_ns <= classification.budget_ns
    return pb.ClassifyResponse(
        predictions=[
            pb.Prediction(index=row.index, wnid=row.wnid or "", label=row.label, probability=row.probability)
            for row in classification.predictions
        ],
        variant=_variant(classification.variant, routable=True, loaded=True),
        budget_ms=classification.budget_ns / NS_PER_MS,
        budget_met=classification.budget_met and in_time,
        timings=pb.Timings(
            decode_ms=timings.decode_ns / NS_PER_MS,
            queue_ms=timings.queue_ns / NS_PER_MS,
            preprocess_ms=timings.preprocess_ns / NS_PER_MS,
            inference_ms=timings.inference_ns / NS_PER_MS,
            total_ms=timings.total_ns / NS_PER_MS,
        ),
        batch_size=classification.batch_size,
        degraded_from=classification.degraded_from or "",
    )


def list_response(rows: Iterable[VariantStatus]) -> pb.ListVariantsResponse:
    """The menu, in the order of `rows`."""
    return pb.ListVariantsResponse(
        variants=[_variant(row.variant, routable=row.routable, loaded=row.loaded) for row in rows]
    )


def _variant(variant: ModelVariant, *, routable: bool, loaded: bool) -> pb.Variant:
    return pb.Variant(
        name=variant.name,
        precision=variant.precision,
        resolution=variant.resolution,
        top1=variant.top1,
        trained=variant.trained,
        routable=routable,
        loaded=loaded,
    )


def _given(request: pb.ClassifyRequest) -> Iterator[tuple[str, str]]:
    """The parameters that a request names, as text; proto3's zero is "not named" where the contract says so."""
    if request.HasField("budget_ms"):
        yield "budget_ms", repr(request.budget_ms)
    if request.HasField("min_accuracy"):
        yield "min_accuracy", repr(request.min_accuracy)
    if request.HasField("target_ms"):
        yield "target_ms", repr(request.target_ms)
    if request.top_k:
        yield "top_k", str(request.top_k)
    if request.variant:
        yield "variant", request.variant
    if request.on_miss:
        yield "on_miss", _ON_MISS.get(request.on_miss, str(request.on_miss))
    if request.priority:
        yield "priority", str(request.priority)
