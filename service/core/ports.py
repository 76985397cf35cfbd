"""What the engine needs of the runtime, as interfaces, so that core imports none of it.

`service/runtime/` implements them with Pillow, threads and ONNX Runtime; `tests/fakes/` with a fake clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from service.core.request import ImageHeader, Picture, Plan, RoutingPolicy, RunResult


class DecodedImage(Protocol):
    """Pixels ready for a worker. Core only carries it from the decoder to the worker."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory the pixels hold."""
        ...


class Decoder(Protocol):
    """Turns encoded bytes into pixels, in a bounded pool of threads; pixels that come as such it only takes over."""

    @property
    def threads(self) -> int:
        """Pictures that are decoded at a time."""
        ...

    def probe(self, image: Picture) -> ImageHeader:
        """Read only the header: cheap enough for the event loop. That of `RawPixels` says `PIXELS_FORMAT`.

        Raises:
            InvalidImage: not a picture, or its header is cut off.
            UnsupportedMediaType: a picture of a format that is not served.
            ImageTooLarge: more pixels than the server takes.
        """
        ...

    def decode(self, image: Picture, shorter_side_px: int, deadline_ns: int) -> Awaitable[DecodedImage]:
        """Decode to RGB, keeping at least `shorter_side_px` pixels of the shorter side if there are so many.

        That is a network's resolution divided by its crop fraction, so that its centre crop loses nothing. Of the
        pictures that wait, the one with the earliest deadline goes first, as in the queue behind.

        Raises (from the awaitable):
            InvalidImage: corrupt or truncated.
            Overloaded: the pool's own bound is reached.
        """
        ...


class WorkerPool(Protocol):
    """Runs plans on worker threads. Worker ids are 0..count-1, each runs one plan at a time."""

    def start_run(
        self,
        worker: int,
        plan: Plan,
        images: Sequence[DecodedImage],
        top_k: int,
        done: Callable[[RunResult | BaseException], None],
    ) -> None:
        """Hand the plan to `worker`, which must be idle, and return at once.

        `done` is called exactly once, on the worker's thread, with the result or with what was raised.
        """
        ...


class Absentees(Protocol):
    """Variants that are served and not loaded, where memory has no room for all. For the event loop's thread."""

    def wait_ns(self, policy: RoutingPolicy, left_ns: int, now_ns: int) -> int | None:
        """Nanoseconds until a variant that `policy` allows would be loaded and have run; None: none ever would be.

        `left_ns`: what the request has left of its budget.

        Raises:
            Overloaded: there is no telling, since what would make room for it is promised to others.
        """
        ...

    def bring_in(self, policy: RoutingPolicy) -> Awaitable[None]:
        """Load such a variant now. Done when it is on the menu.

        Raises (from the awaitable):
            UnknownVariant: none ever will be.
            Overloaded: what would make room for it is promised to others.
            InferenceFailed: it could not be loaded.
        """
        ...
