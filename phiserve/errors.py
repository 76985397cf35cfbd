"""Every way a call can fail, as one tree: what the server says, by the names it uses on its wires, and what never came.

    PhiserveError
    ├── ServerError             the server answered, and its answer is an error
    │   ├── InvalidImage            the bytes are not a picture that can be decoded
    │   ├── MalformedRequest        not what the protocol prescribes
    │   ├── InvalidArgument         an option is malformed or contradictory
    │   ├── ImageTooLarge           too many bytes or too many pixels
    │   ├── UnsupportedMediaType    a format that is not served
    │   ├── Unauthenticated         no or wrong credentials
    │   ├── UnknownVariant          no such variant on this server
    │   ├── Overloaded              come back in `retry_after_s`
    │   ├── DeadlineExceeded        no variant can make, or made, the budget; see `smallest_feasible_budget_ms`
    │   │   └── StaleFrame              a frame of a stream that newer ones have overtaken
    │   ├── NotReady                starting or draining
    │   ├── StoreRefused            what the store holds now cannot be served; only `POST /admin/reload` answers so
    │   ├── InferenceFailed         the runtime failed on this image
    │   ├── InternalError           the server has a bug, which its log describes
    │   └── UnexpectedAnswer        something answered that is not phiserve, or is no answer phiserve gives
    ├── TransportError          there is no whole answer
    │   ├── ConnectionFailed        refused, reset, or closed in the middle
    │   └── TimedOut                silent for longer than the budget and the grace after it
    └── InvalidUrl              not an address a client can use

It knows neither an HTTP nor a gRPC library: `http_wire.py` and `grpc_wire.py` read these off their wires.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PhiserveError(Exception):
    """Base of all. `detail` says what was wrong and, where that is known, what would have worked."""

    def __init__(self, detail: str) -> None:
        """`detail`: for people."""
        super().__init__(detail)
        self.detail = detail

    def problem(self) -> dict[str, Any]:
        """The error as the members of an RFC 9457 problem, the same whichever wire it came over."""
        return {"status": None, "detail": self.detail}


class ServerError(PhiserveError):
    """The server answered with an error. `request_id` finds the request in the server's log, where it was told."""

    slug: ClassVar[str]
    title: ClassVar[str]
    status: int

    def __init__(self, detail: str, *, request_id: str | None = None) -> None:
        """See the class."""
        super().__init__(detail)
        self.request_id = request_id

    def problem(self) -> dict[str, Any]:
        """See the base."""
        members = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.request_id is not None:
            members["instance"] = f"urn:phiserve:request:{self.request_id}"
        return members


class InvalidImage(ServerError):
    """The bytes are not a picture that can be decoded (truncated, corrupt, or not an image)."""

    slug, title, status = "invalid-image", "Not a decodable image", 400


class MalformedRequest(ServerError):
    """The request was not what its protocol prescribes; something between client and server changed it, perhaps."""

    slug, title, status = "malformed-request", "Malformed request", 400


class InvalidArgument(ServerError):
    """An option is malformed, out of range, or contradicts another one. The client finds some of these itself."""

    slug, title, status = "invalid-argument", "Invalid parameter", 422


class ImageTooLarge(ServerError):
    """The image has more bytes or more pixels than the server takes."""

    slug, title, status = "image-too-large", "Image too large", 413


class UnsupportedMediaType(ServerError):
    """The image is of a format the server does not serve."""

    slug, title, status = "unsupported-media-type", "Unsupported media type", 415


class Unauthenticated(ServerError):
    """The call carried no credentials, or wrong ones."""

    slug, title, status = "unauthenticated", "Credentials needed", 401


class UnknownVariant(ServerError):
    """The call named a variant that the server does not hold or may not route to."""

    slug, title, status = "unknown-variant", "No such variant", 404


class Overloaded(ServerError):
    """A bound of the server is reached. `retry_after_s`: when it expects to have room; None if it did not say."""

    slug, title, status = "overloaded", "Overloaded", 429

    def __init__(self, detail: str, *, request_id: str | None = None, retry_after_s: float | None = None) -> None:
        """See the class."""
        super().__init__(detail, request_id=request_id)
        self.retry_after_s = retry_after_s

    def problem(self) -> dict[str, Any]:
        """See the base."""
        known = {} if self.retry_after_s is None else {"retry_after_ms": self.retry_after_s * 1000}
        return super().problem() | known


class DeadlineExceeded(ServerError):
    """No allowed variant can make the budget, or it ran out. `smallest_feasible_budget_ms`: what would, if known."""

    slug, title, status = "deadline-exceeded", "Budget cannot be met", 504

    def __init__(
        self, detail: str, *, request_id: str | None = None, smallest_feasible_budget_ms: float | None = None
    ) -> None:
        """See the class."""
        super().__init__(detail, request_id=request_id)
        self.smallest_feasible_budget_ms = smallest_feasible_budget_ms

    def problem(self) -> dict[str, Any]:
        """See the base."""
        smallest = self.smallest_feasible_budget_ms
        return super().problem() | ({} if smallest is None else {"smallest_feasible_budget_ms": smallest})


class StaleFrame(DeadlineExceeded):
    """A frame of a stream was dropped: its budget ran out in the stream, or newer frames waited and it was not met."""

    slug, title = "stale-frame", "Frame overtaken"


class NotReady(ServerError):
    """The server is starting up or draining and takes no new requests."""

    slug, title, status = "not-ready", "Not ready", 503


class StoreRefused(ServerError):
    """What the store holds now cannot be served; what was served still is. No call of these clients gets it."""

    slug, title, status = "store-refused", "Store refused", 409


class InferenceFailed(ServerError):
    """The runtime raised while serving this image; the server's log has the cause."""

    slug, title, status = "inference-failed", "Inference failed", 500


class InternalError(ServerError):
    """The server met a bug of its own; its log has the cause."""

    slug, title, status = "internal-error", "Internal error", 500


class UnexpectedAnswer(ServerError):
    """Something answered, and not as phiserve does: a proxy, another service, another path, another version.

    `status`: the HTTP status; 0 over gRPC, which has none.
    """

    slug, title = "unexpected-answer", "Not an answer of phiserve"

    def __init__(self, detail: str, *, status: int = 0, request_id: str | None = None) -> None:
        """See the class."""
        super().__init__(detail, request_id=request_id)
        self.status = status

    def problem(self) -> dict[str, Any]:
        """See the base; the type is `about:blank`, since no page of a server describes it."""
        return super().problem() | {"type": "about:blank"}


class TransportError(PhiserveError):
    """There is no whole answer, and whether the server worked on one is not known."""


class ConnectionFailed(TransportError):
    """Refused, reset, or closed before the answer was whole.

    `is_transient` False: trying again cannot help, since the certificate is not trusted, for instance.
    """

    def __init__(self, detail: str, *, is_transient: bool = True) -> None:
        """See the class."""
        super().__init__(detail)
        self.is_transient = is_transient


class TimedOut(TransportError):
    """No whole answer within the budget and the grace after it: server or network are not there any more."""


class InvalidUrl(PhiserveError, ValueError):
    """Not an address a client can use."""


ERROR_BY_SLUG: dict[str, type[ServerError]] = {
    error.slug: error
    for error in (
        InvalidImage,
        MalformedRequest,
        InvalidArgument,
        ImageTooLarge,
        UnsupportedMediaType,
        Unauthenticated,
        UnknownVariant,
        Overloaded,
        DeadlineExceeded,
        StaleFrame,
        NotReady,
        StoreRefused,
        InferenceFailed,
        InternalError,
    )
}
"""What the last part of a problem's type on HTTP, and `ErrorInfo.reason` on gRPC, stand for."""


def server_error(
    slug: str,
    detail: str,
    *,
    request_id: str | None = None,
    retry_after_s: float | None = None,
    smallest_feasible_budget_ms: float | None = None,
) -> ServerError | None:
    """The error that `slug` names, with what its class adds; None for a name this client does not know."""
    kind = ERROR_BY_SLUG.get(slug)
    if kind is None:
        return None
    if issubclass(kind, Overloaded):
        return kind(detail, request_id=request_id, retry_after_s=retry_after_s)
    if issubclass(kind, DeadlineExceeded):
        return kind(detail, request_id=request_id, smallest_feasible_budget_ms=smallest_feasible_budget_ms)
    return kind(detail, request_id=request_id)
