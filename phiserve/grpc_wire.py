"""The gRPC wire read and written without I/O: options into messages, messages and statuses into results and errors.

It opens no channel; `service/frontends/` has the other end.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from phiserve.call_options import NS_PER_MS, CallOptions
from phiserve.errors import (
    ConnectionFailed,
    ImageTooLarge,
    InvalidArgument,
    Overloaded,
    PhiserveError,
    ServerError,
    TimedOut,
    Unauthenticated,
    UnexpectedAnswer,
    server_error,
)
from phiserve.results import Classification, Prediction, Timings, Variant
from phiserve.v1 import classifier_pb2

SERVICE = "phiserve.v1.Classifier"

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""The trailer that holds a google.rpc.Status (gRPC over HTTP/2, "richer error model")."""
BUDGET_KEY = "smallest_feasible_budget_ms"

_NS_PER_S = 1_000_000_000
_ON_MISS = {
    None: classifier_pb2.ON_MISS_UNSPECIFIED,
    "reject": classifier_pb2.ON_MISS_REJECT,
    "late": classifier_pb2.ON_MISS_LATE,
}
_NOT_TRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Peer name", "certificate verify failed")
_SENT_TOO_LATE = ("INTERNAL", "Internal error from Core")
"""How grpc.aio ends a stream whose server had ended it when a message was handed over, before the status was read."""

Metadata = Iterable[tuple[str, str | bytes]]


def classify_request(image: bytes, options: CallOptions, budget_ns: int | None) -> classifier_pb2.ClassifyRequest:
    """The request with what is left of its budget.

    Raises:
        InvalidArgument: a number that its field cannot hold.
    """
    budget_ms = options.budget_ms if budget_ns == options.budget_ns else _ms(budget_ns)
    try:
        return classifier_pb2.ClassifyRequest(
            image=image,
            budget_ms=budget_ms,
            top_k=options.top_k or 0,
            variant=options.variant or "",
            min_accuracy=options.min_accuracy,
            target_ms=options.target_ms,
            on_miss=_ON_MISS[options.on_miss],
            priority=options.priority or 0,
        )
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"an option is out of range ({error})") from error


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NS_PER_MS


def classification(response: classifier_pb2.ClassifyResponse) -> Classification:
    """An answer of `Classify`."""
    return Classification(
        predictions=tuple(
            Prediction(row.index, row.wnid or None, row.label, row.probability) for row in response.predictions
        ),
        variant=_variant(response.variant),
        budget_ms=response.budget_ms,
        budget_met=response.budget_met,
        timings_ms=Timings(
            decode=response.timings.decode_ms,
            queue=response.timings.queue_ms,
            preprocess=response.timings.preprocess_ms,
            inference=response.timings.inference_ms,
            total=response.timings.total_ms,
        ),
        batch_size=response.batch_size,
        degraded_from=response.degraded_from or None,
    )


def stream_request(frame_id: int, image: bytes, options: CallOptions) -> classifier_pb2.ClassifyStreamRequest:
    """A frame of `ClassifyStream`; raises as `classify_request`."""
    request = classify_request(image, options, options.budget_ns)
    return classifier_pb2.ClassifyStreamRequest(frame_id=frame_id, request=request)


def stream_outcome(response: classifier_pb2.ClassifyStreamResponse, frame_id: int) -> Classification | ServerError:
    """What became of the frame `frame_id`: its answer, or the error in the place of one.

    Raises:
        UnexpectedAnswer: it is another frame's, or neither.
    """
    if response.frame_id == frame_id and response.HasField("answer"):
        return classification(response.answer)
    if response.frame_id == frame_id and response.HasField("error"):
        return status_error(response.error) or UnexpectedAnswer(response.error.message)
    raise UnexpectedAnswer(f"frame {response.frame_id} is answered where {frame_id} was to be; is the server current?")


def variants(response: classifier_pb2.ListVariantsResponse) -> tuple[Variant, ...]:
    """An answer of `ListVariants`, most accurate first."""
    return tuple(_variant(row) for row in response.variants)


def _variant(row: classifier_pb2.Variant) -> Variant:
    top1 = row.top1 if row.HasField("top1") else None
    return Variant(row.name, row.precision, row.resolution, top1, row.trained)


def call_error(code: str, details: str, trailing: Metadata) -> PhiserveError:
    """What a call that ended with the status `code` (the name of a `grpc.StatusCode`) ended with.

    A status that phiserve wrote has details of its own in the trailers; one without them comes from the gRPC library
    on either side, or from whatever is between.
    """
    rich = status_pb2.Status()
    for key, value in trailing:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                rich.ParseFromString(value)
            except DecodeError:
                rich = status_pb2.Status()
    return status_error(rich) or _bare_error(code, details)


def status_error(status: status_pb2.Status) -> ServerError | None:
    """The error that a google.rpc.Status of phiserve's stands for; None if it is not one of those."""
    info, retry, request = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    for detail in status.details:
        for known in (info, retry, request):
            if detail.Is(known.DESCRIPTOR):
                _unpack(detail, known)
    return server_error(
        info.reason.lower().replace("_", "-"),
        status.message,
        request_id=request.request_id or None,
        retry_after_s=retry.retry_delay.ToNanoseconds() / _NS_PER_S if retry.HasField("retry_delay") else None,
        smallest_feasible_budget_ms=_number(info.metadata.get(BUDGET_KEY, "")),
    )


def _unpack(detail: any_pb2.Any, known: Message) -> None:
    try:
        detail.Unpack(known)
    except DecodeError:
        known.Clear()


def _bare_error(code: str, details: str) -> PhiserveError:
    if code == "DEADLINE_EXCEEDED":
        return TimedOut("no answer within the budget and the grace after it; is it the right server?")
    if (code, details) == _SENT_TOO_LATE:
        return ConnectionFailed("the server ended the stream while a frame was being sent; begin another one")
    if code in ("UNAVAILABLE", "CANCELLED"):
        return ConnectionFailed(details, is_transient=not any(sign in details for sign in _NOT_TRUSTED))
    if code == "UNAUTHENTICATED":
        return Unauthenticated(details)
    if code == "RESOURCE_EXHAUSTED":
        # gRPC's own two reasons: the message's size, and the number of calls in progress.
        return ImageTooLarge(details) if "larger than max" in details else Overloaded(details)
    return UnexpectedAnswer(f"{code}: {details}; is the address right?")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
