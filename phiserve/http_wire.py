"""The REST wire read and written without I/O: a call's options into a query, a status and a body into a result.

It opens no connection and knows no HTTP library; `service/frontends/` has the other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from phiserve.call_options import NS_PER_MS, CallOptions
from phiserve.errors import ServerError, UnexpectedAnswer, server_error
from phiserve.results import Classification, Prediction, Timings, Variant

ANSWER_BYTES_MAX = 16 * 2**20
"""No answer is larger; what is, comes from something else and is not read to its end."""

CLASSIFY_PATH, VARIANTS_PATH, READINESS_PATH = "/classify", "/variants", "/readyz"
MEDIA_TYPE = "application/octet-stream"
"""What images are sent as: the server goes by their bytes."""

_PROBLEM_PATH = "/problems/"
_REQUEST_URN = "urn:phiserve:request:"
_DETAIL_LENGTH_MAX = 2000


def query(options: CallOptions, budget_ns: int | None) -> dict[str, str]:
    """The query of a request with what is left of its budget; what was not asked is not in it."""
    asked = {
        "budget_ms": options.budget_ms if budget_ns == options.budget_ns else _ms(budget_ns),
        "top_k": options.top_k,
        "variant": options.variant,
        "min_accuracy": options.min_accuracy,
        "target_ms": options.target_ms,
        "priority": options.priority,
        "on_miss": options.on_miss,
    }
    return {name: str(value) for name, value in asked.items() if value is not None}


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NS_PER_MS


def classification(status: int, headers: Mapping[str, str], body: bytes) -> Classification:
    """The answer to `POST /classify`.

    Raises:
        ServerError: what the answer says instead, or UnexpectedAnswer if it says nothing phiserve says.
    """
    found = _answer(status, headers, body)
    try:
        return Classification(
            predictions=tuple(_prediction(row) for row in found["predictions"]),
            variant=_variant(found["variant"]),
            budget_ms=float(found["budget_ms"]),
            budget_met=bool(found["budget_met"]),
            timings_ms=_timings(found["timings_ms"]),
            batch_size=int(found["batch_size"]),
            degraded_from=_optional_text(found["degraded_from"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unexpected(status) from error


def variants(status: int, headers: Mapping[str, str], body: bytes) -> tuple[Variant, ...]:
    """The answer to `GET /variants`, most accurate first.

    Raises:
        ServerError: as `classification`.
    """
    found = _answer(status, headers, body)
    try:
        rows = [row | {"top1": row["accuracy"]["top1"]} for row in found["variants"]]
        return tuple(_variant(row) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise _unexpected(status) from error


def check_ready(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Return if the answer to `GET /readyz` says ready.

    Raises:
        ServerError: NotReady, or as `classification`.
    """
    if _answer(status, headers, body).get("status") != "ready":
        raise _unexpected(status)


def _answer(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The members of a successful answer; raises what any other says."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise _unexpected(status)
    if not 200 <= status < 300:
        raise _problem(status, headers, found)
    return found


def _problem(status: int, headers: Mapping[str, str], found: Mapping[str, Any]) -> ServerError:
    detail = found.get("detail")
    if not isinstance(detail, str):
        return _unexpected(status)
    detail = detail[:_DETAIL_LENGTH_MAX]
    kind, instance = str(found.get("type", "")), str(found.get("instance", ""))
    request_id = instance.removeprefix(_REQUEST_URN) if instance.startswith(_REQUEST_URN) else None
    retry_after_ms = _number(found.get("retry_after_ms"))
    known = server_error(
        kind.removeprefix(_PROBLEM_PATH) if kind.startswith(_PROBLEM_PATH) else "",
        detail,
        request_id=request_id,
        # Headers have whole seconds only, and are all there is where a proxy wrote the answer anew.
        retry_after_s=_retry_after_s(headers) if retry_after_ms is None else retry_after_ms / 1000,
        smallest_feasible_budget_ms=_number(found.get("smallest_feasible_budget_ms")),
    )
    return known or UnexpectedAnswer(f"HTTP {status}: {detail}", status=status, request_id=request_id)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _unexpected(status: int) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"HTTP {status}, which is not an answer of phiserve; is the address right?", status=status)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _prediction(row: Mapping[str, Any]) -> Prediction:
    return Prediction(
        index=int(row["index"]),
        wnid=_optional_text(row["wnid"]),
        label=str(row["label"]),
        probability=float(row["probability"]),
    )


def _variant(row: Mapping[str, Any]) -> Variant:
    top1 = row["top1"]
    return Variant(
        name=str(row["name"]),
        precision=str(row["precision"]),
        resolution=int(row["resolution"]),
        top1=None if top1 is None else float(top1),
        trained=bool(row["trained"]),
    )


def _timings(row: Mapping[str, Any]) -> Timings:
    return Timings(
        decode=float(row["decode"]),
        queue=float(row["queue"]),
        preprocess=float(row["preprocess"]),
        inference=float(row["inference"]),
        total=float(row["total"]),
    )


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)
