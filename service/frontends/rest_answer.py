"""Answers of the engine as JSON: the hot path, so plain dictionaries that orjson writes without any validation.

`rest_schemas.py` describes the same shapes for readers; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from service.core.engine import Engine
from service.core.generation import VariantStatus
from service.core.request import Classification, StageTimings

NS_PER_MS = 1_000_000

BUDGET_LADDER_MS = (5, 10, 20, 50, 100, 200, 500, 1000)
"""Budgets for which `GET /variants` tells what an idle server would answer with."""


def json_response(content: Mapping[str, Any], stages_ms: dict[str, float] | None = None) -> Response:
    """`content` as the body, and the stages' milliseconds, if given, as `Server-Timing`."""
    headers = {} if stages_ms is None else {"Server-Timing": server_timing(stages_ms)}
    return Response(orjson.dumps(content), headers=headers, media_type="application/json")


def classified(classification: Classification) -> Response:
    """The whole answer of a request with one picture."""
    content = answer(classification)
    return json_response(content, content["timings_ms"])


def answer(classification: Classification) -> dict[str, Any]:
    """One classification, times in milliseconds (to the microsecond), probabilities to six digits."""
    variant = classification.variant
    return {
        "predictions": [
            {
                "index": prediction.index,
                "wnid": prediction.wnid,
                "label": prediction.label,
                "probability": round(prediction.probability, 6),
            }
            for prediction in classification.predictions
        ],
        "variant": {
            "name": variant.name,
            "precision": variant.precision,
            "resolution": variant.resolution,
            "top1": variant.top1,
            "trained": variant.trained,
        },
        "budget_ms": classification.budget_ns / NS_PER_MS,
        "budget_met": classification.budget_met,
        "timings_ms": timings_ms(classification.timings),
        "batch_size": classification.batch_size,
        "degraded_from": classification.degraded_from,
    }


def timings_ms(timings: StageTimings) -> dict[str, float]:
    """Stage to milliseconds, in the order in which the stages happen."""
    return {
        "decode": _ms(timings.decode_ns),
        "queue": _ms(timings.queue_ns),
        "preprocess": _ms(timings.preprocess_ns),
        "inference": _ms(timings.inference_ns),
        "total": _ms(timings.total_ns),
    }


def server_timing(stages_ms: dict[str, float]) -> str:
    """The value of a `Server-Timing` header (W3C Server Timing, section 3): durations are milliseconds there too."""
    return ", ".join(f"{stage};dur={duration}" for stage, duration in stages_ms.items())


def menu(engine: Engine) -> dict[str, Any]:
    """Everything that can be asked for, most accurate first, and what each budget would get on an idle server."""
    return {
        "variants": [_menu_row(status) for status in engine.variants()],
        "budgets": [
            {"budget_ms": budget_ms, "variant": engine.choose_when_idle(budget_ms * NS_PER_MS)}
            for budget_ms in BUDGET_LADDER_MS
            if budget_ms * NS_PER_MS <= engine.budget_ns_max
        ],
        "budget_ms_default": engine.budget_ns_default / NS_PER_MS,
        "budget_ms_max": engine.budget_ns_max / NS_PER_MS,
    }


def _menu_row(status: VariantStatus) -> dict[str, Any]:
    manifest = status.manifest
    variant = manifest.variant
    accuracy, provenance = manifest.accuracy, manifest.provenance
    return {
        "name": variant.name,
        "member": variant.member,
        "precision": variant.precision,
        "resolution": variant.resolution,
        "class_count": variant.class_count,
        "trained": variant.trained,
        "routable": status.routable,
        "loaded": status.loaded,
        "parameters": manifest.parameters,
        "flops": manifest.flops,
        "accuracy": {
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "source": accuracy.source,
            "detail": accuracy.detail,
            "images": accuracy.images,
        },
        "provenance": {
            "source": provenance.source,
            "name": provenance.name,
            "revision": provenance.revision,
            "licence": provenance.licence,
            "url": provenance.url,
            "weights_sha256": provenance.weights_sha256,
        },
        "latencies": list(_latencies(status.latency_ns_by_batch.items())),
    }


def _latencies(by_threads: Iterable[tuple[int, dict[int, int]]]) -> Iterable[dict[str, Any]]:
    for threads, by_batch in sorted(by_threads):
        for batch_size, latency_ns in sorted(by_batch.items()):
            yield {"threads": threads, "batch_size": batch_size, "latency_ms": _ms(latency_ns)}


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / NS_PER_MS, 3)
