"""Errors as google.rpc.Status: how every gRPC error of this server looks, whoever raised it.

The details are the standard ones (google/rpc/error_details.proto), so that clients in any language read them without
knowing ours. It never shows an exception's text: what is not a `PhiserveError` gets a fixed sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from service.errors import DeadlineExceeded, InvalidArgument, Overloaded, PhiserveError
from service.frontends.status_codes import wire_status

DOMAIN = "phiserve"
"""The `ErrorInfo.domain` of every error: which service's reasons these are."""
NS_PER_MS = 1_000_000


def rich_status(error: BaseException, request_id: str | None = None) -> Status:
    """`error` with its code, a sentence for people, and details for programs.

    `ErrorInfo.reason` is the slug of `status_codes.py` as that message asks for it, `DEADLINE_EXCEEDED` for
    `deadline-exceeded`; its metadata has `smallest_feasible_budget_ms` where that is known. `RetryInfo` says when an
    overloaded server should have room, `BadRequest` which parameters are at fault, `RequestInfo` which request it was.
    """
    code: int = grpc.StatusCode[wire_status(error).grpc].value[0]
    message = error.detail if isinstance(error, PhiserveError) else "The server failed; its log says more."
    status = Status(code=code, message=message)
    for detail in _details(error, request_id):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details(error: BaseException, request_id: str | None) -> Iterator[Message]:
    info = ErrorInfo(reason=wire_status(error).slug.upper().replace("-", "_"), domain=DOMAIN)
    if isinstance(error, DeadlineExceeded) and error.smallest_feasible_budget_ns is not None:
        info.metadata["smallest_feasible_budget_ms"] = f"{error.smallest_feasible_budget_ns / NS_PER_MS:g}"
    yield info
    if isinstance(error, Overloaded):
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(error.retry_after_ns)
        yield retry
    if isinstance(error, InvalidArgument) and error.violations:
        violations = error.violations.items()
        yield BadRequest(
            field_violations=[
                BadRequest.FieldViolation(field=field, description=description) for field, description in violations
            ]
        )
    if request_id is not None:
        yield RequestInfo(request_id=request_id)
