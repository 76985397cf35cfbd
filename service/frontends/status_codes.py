"""The one table from an error class to what each wire calls it. Every front end reads it; none keeps its own.

It knows the names of statuses and imports neither an HTTP nor a gRPC library. gRPC codes are chosen on their
own merits, not derived from the HTTP ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from service import errors


@dataclass(frozen=True, slots=True)
class WireStatus:
    """One error class on the wires.

    `grpc` is the name of a `grpc.StatusCode`; `slug` ends the problem's type URI; `title` is the same for every
    occurrence, as RFC 9457 (section 3.1.3) asks.
    """

    http: int
    grpc: str
    slug: str
    title: str


INTERNAL = WireStatus(500, "INTERNAL", "internal-error", "Internal error")
"""What an exception outside the error tree becomes: a bug, whose details stay in the log."""

STATUS_BY_ERROR: Mapping[type[errors.PhiserveError], WireStatus] = MappingProxyType(
    {
        errors.InvalidImage: WireStatus(400, "INVALID_ARGUMENT", "invalid-image", "Not a decodable image"),
        errors.MalformedRequest: WireStatus(400, "INVALID_ARGUMENT", "malformed-request", "Malformed request"),
        errors.InvalidArgument: WireStatus(422, "INVALID_ARGUMENT", "invalid-argument", "Invalid parameter"),
        errors.ImageTooLarge: WireStatus(413, "RESOURCE_EXHAUSTED", "image-too-large", "Image too large"),
        errors.UnsupportedMediaType: WireStatus(
            415, "INVALID_ARGUMENT", "unsupported-media-type", "Unsupported media type"
        ),
        errors.Unauthenticated: WireStatus(401, "UNAUTHENTICATED", "unauthenticated", "Credentials needed"),
        errors.UnknownVariant: WireStatus(404, "NOT_FOUND", "unknown-variant", "No such variant"),
        errors.Overloaded: WireStatus(429, "RESOURCE_EXHAUSTED", "overloaded", "Overloaded"),
        errors.DeadlineExceeded: WireStatus(504, "DEADLINE_EXCEEDED", "deadline-exceeded", "Budget cannot be met"),
        errors.StaleFrame: WireStatus(504, "DEADLINE_EXCEEDED", "stale-frame", "Frame overtaken"),
        errors.NotReady: WireStatus(503, "UNAVAILABLE", "not-ready", "Not ready"),
        errors.StoreRefused: WireStatus(409, "FAILED_PRECONDITION", "store-refused", "Store refused"),
        errors.InferenceFailed: WireStatus(500, "INTERNAL", "inference-failed", "Inference failed"),
    }
)


def wire_status(error: BaseException) -> WireStatus:
    """The row of `error`'s class, or of its nearest ancestor in the table; `INTERNAL` if there is none."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUS_BY_ERROR:
            return STATUS_BY_ERROR[ancestor]
    return INTERNAL
