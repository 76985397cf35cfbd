"""Every way a request can fail, as one tree that knows neither HTTP nor gRPC.

    PhiserveError
    ├── InvalidImage            the bytes are not a picture that can be decoded
    ├── MalformedRequest        the request is not what its protocol prescribes
    ├── InvalidArgument         a parameter is malformed or contradictory
    ├── ImageTooLarge           too many bytes or too many pixels
    ├── UnsupportedMediaType    a format that is not served
    ├── Unauthenticated         no or wrong credentials
    ├── UnknownVariant          no such variant in the store
    ├── Overloaded              a bound is reached; come back in `retry_after_ns`
    ├── DeadlineExceeded        no variant can make, or made, the budget
    │   └── StaleFrame              a frame of a stream that newer ones have overtaken
    ├── NotReady                starting or draining
    ├── StoreRefused            what the store holds now cannot be served, and what was served still is
    └── InferenceFailed         the runtime failed on this request

`frontends/status_codes.py` is the one table that maps a class to a wire status. Each error's `detail` is
written for the caller: what was wrong and what would have worked.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Self


class PhiserveError(Exception):
    """Base of all errors a request can end with. `detail` is shown to the caller."""

    def __init__(self, detail: str) -> None:
        """`detail`: one or two sentences for the caller; holds no internals and no image bytes."""
        super().__init__(detail)
        self.detail = detail


class InvalidImage(PhiserveError):
    """The bytes are not a picture that can be decoded (truncated, corrupt, or not an image)."""


class MalformedRequest(PhiserveError):
    """The request is not what its protocol prescribes: syntax, framing, or a tensor of another type or shape."""


class InvalidArgument(PhiserveError):
    """A parameter is malformed, out of range, or contradicts another one.

    `violations`: the parameters at fault, each with what is wrong with it, where that can be told apart.
    """

    def __init__(self, detail: str, *, violations: Mapping[str, str] = MappingProxyType({})) -> None:
        """See the class."""
        super().__init__(detail)
        self.violations = violations


class ImageTooLarge(PhiserveError):
    """The image has more bytes or more pixels than the server takes."""

    @classmethod
    def beyond(cls, bytes_max: int) -> Self:
        """What is said, whatever the wire, of an image or body of more than `bytes_max` bytes."""
        return cls(f"at most {bytes_max} bytes are taken; send a smaller or more strongly compressed image")


class UnsupportedMediaType(PhiserveError):
    """The image is of a format the server does not serve."""


class Unauthenticated(PhiserveError):
    """The call carries no credentials, or wrong ones."""


class UnknownVariant(PhiserveError):
    """The call names a variant that the store does not hold or may not be routed to."""


class Overloaded(PhiserveError):
    """A bound (queue, decode pool, client share) is reached.

    `retry_after_ns`: how long until there should be room, from the queue's own estimate.
    """

    def __init__(self, detail: str, *, retry_after_ns: int) -> None:
        """See the class."""
        super().__init__(detail)
        self.retry_after_ns = retry_after_ns


class DeadlineExceeded(PhiserveError):
    """No allowed variant can make the budget, or the budget ran out while waiting.

    `smallest_feasible_budget_ns`: the budget that an idle server would have met for this request, if known.
    """

    def __init__(self, detail: str, *, smallest_feasible_budget_ns: int | None = None) -> None:
        """See the class."""
        super().__init__(detail)
        self.smallest_feasible_budget_ns = smallest_feasible_budget_ns


class StaleFrame(DeadlineExceeded):
    """A frame of a stream was dropped: its budget ran out in the stream, or newer frames waited and it was not met."""


class NotReady(PhiserveError):
    """The server is starting up or draining and takes no new requests."""


class StoreRefused(PhiserveError):
    """What the store holds now cannot be served: it is damaged, or nothing in it may be. What was served still is."""


class InferenceFailed(PhiserveError):
    """The runtime raised while serving this request. The cause is logged, never sent to the caller."""
